"""Export a bundle that needs nothing of this repository: configs, weights, and the part of the library that they use.

python -m tools.export BUNDLE --output DIR [--zip] [--override_files configs/small.yaml] [--ckpt_dir DIR]
    [--pretrained null] [--zero_shot] [--members DIR,DIR,...] [--torchscript] [--onnx]
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError
from tools._command import find_bundle, run_command

_LEARNING_RATE = 1.0e-4  # at most, for a network that segments without having been trained with labels


def export(
    bundle: str,
    output: str,
    *,
    zip: bool = False,
    override_files: str = "",
    ckpt_dir: str | None = None,
    pretrained: str | None = "",
    zero_shot: bool = False,
    members: str = "",
    torchscript: bool = False,
    onnx: bool = False,
) -> str:
    """Export a bundle to `output`/<its name>, with its configs as JSON and the library's part in `scripts/`.

    It runs wherever the packages of its `configs/metadata.json` are installed, from any folder, and in MONAI Label;
    `monai.bundle.load` returns its network. Its `SHA256SUMS` holds the checksum of every file. The same input gives the
    same bytes.

    Args:
        bundle: name of one of this repository's, or a folder.
        output: folder to write into.
        zip: also write <name>_v<version>.zip.
        override_files: the overrides with which the network was trained, separated by commas; relative to the bundle.
            They become part of the workflows' own files, since MONAI Label reads one.
        ckpt_dir: folder of the weights; the bundle's `models` if not given.
        pretrained: what `training` starts from, such as null (from scratch), in place of what its config says; if not
            given, weights that were trained from scratch say so themselves.
        zero_shot: (layer_decomp_tumor) the network that was pretrained, or the one that `pretrained` names, as it
            segments without labels; a training goes on from it, with a learning rate of at most 1e-4.
        members: folders of several trained networks in place of `ckpt_dir`, separated by commas, such as those of all
            folds or of several seeds, which become an ensemble: one network that gives the mean of their class
            probabilities. It segments and is evaluated (`configs/evaluate.json` alone), and is not trained.
        torchscript: also write the network as `models/model.ts`.
        onnx: also write the network as `models/model.onnx`.
    """
    from common.cli import check_flags
    from tools.export.configs import read_configs
    from tools.export.ensemble import ensemble_configs, write_members
    from tools.export.files import write_bundle
    from tools.export.weights import was_trained_from_scratch

    wanted = {"zip": zip, "torchscript": torchscript, "onnx": onnx}
    check_flags(zero_shot=zero_shot, **wanted)
    source = find_bundle(bundle, "configs/inference.yaml")
    folders = {name: Path(name) for name in members.split(",") if name}
    if members and len(folders) != len(members.split(",")):
        raise InputError(f"members must be folders, each once, separated by commas, got {members}; train another one")
    if members and ckpt_dir:
        raise InputError(f"ckpt_dir must be left out where there are members, got {ckpt_dir}; name it among these")
    weights = Path(ckpt_dir) if ckpt_dir else source / "models"
    overrides = [source / name for name in override_files.split(",") if name]
    for path in overrides:
        if not path.is_file():
            raise MissingFileError(
                f"{path}: override_files must exist, got no such file; name them relative to the bundle"
            )
    configs = read_configs(source, overrides)
    if pretrained == "" and not zero_shot and was_trained_from_scratch(weights):
        pretrained = None
    if pretrained != "" and "train" in configs:
        configs["train"]["pretrained"] = pretrained
    with tempfile.TemporaryDirectory() as temporary:
        if zero_shot:
            untrained = _write_untrained(configs, folders or {"": weights}, Path(temporary))
            folders, weights = (untrained, weights) if folders else ({}, untrained[""])
        if folders:
            weights = Path(temporary) / "ensemble"
            weights.mkdir()
            joined = ensemble_configs(configs, len(folders))
            write_members(folders, configs["inference"], weights)
            configs = joined
        return write_bundle(source, output, configs, weights, **wanted)


def _write_untrained(
    configs: dict[str, dict[str, Any]], folders: Mapping[str, Path], temporary: Path
) -> dict[str, Path]:
    """Return folders of networks that segment without labels, by the names of those where they were pretrained.

    The configs become those of such a network.
    """
    from common.cli.options import POSITIVE
    from tools.export.weights import write_untrained

    written = {}
    for index, (name, folder) in enumerate(folders.items()):
        written[name] = temporary / str(index)
        written[name].mkdir()
        copied = write_untrained(configs.get("train", {}), folder, written[name])
    train = configs["train"]
    POSITIVE.check("learning_rate", train["learning_rate"])
    train |= {"pretrained": f"$@ckpt_dir + '/{copied}'", "transferred": "network"}
    train["learning_rate"] = min(train["learning_rate"], _LEARNING_RATE)
    train["organ_margin"] = configs["inference"]["organ_margin"] = 0.0  # as in zero_shot.yaml
    return written


if __name__ == "__main__":
    run_command(export)
