"""Export a bundle that needs nothing of this repository: configs, weights, and the part of the library that they use.

python -m tools.export BUNDLE --output DIR [--zip] [--override_files configs/small.yaml] [--ckpt_dir DIR]
    [--pretrained null] [--zero_shot] [--torchscript] [--onnx]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common.cli import MissingFileError
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
    torchscript: bool = False,
    onnx: bool = False,
) -> str:
    """Export a bundle to `output`/<its name>, with its configs as JSON and the library's part in `scripts/`.

    It runs wherever the packages of its `configs/metadata.json` are installed, from any folder with `--bundle_root`,
    and in MONAI Label. Its `SHA256SUMS` holds the checksum of every file. The same input gives the same bytes.

    Args:
        bundle: name of one of this repository's, or a folder.
        output: folder to write into.
        zip: also write <name>_v<version>.zip.
        override_files: the overrides with which the network was trained, separated by commas; relative to the bundle.
            They become part of the workflows' own files, since MONAI Label reads one.
        ckpt_dir: folder of the weights; the bundle's `models` if not given.
        pretrained: what `training` starts from, such as null (from scratch), in place of what its config says.
        zero_shot: (layer_decomp_tumor) the network that was pretrained, or the one that `pretrained` names, as it
            segments without labels; a training goes on from it, with a learning rate of at most 1e-4.
        torchscript: also write the network as `models/model.ts`.
        onnx: also write the network as `models/model.onnx`.
    """
    from common.cli import check_flags
    from common.cli.options import POSITIVE
    from tools.export.configs import read_configs
    from tools.export.files import write_bundle
    from tools.export.weights import write_untrained

    wanted = {"zip": zip, "torchscript": torchscript, "onnx": onnx}
    check_flags(zero_shot=zero_shot, **wanted)
    source = find_bundle(bundle, "configs/inference.yaml")
    weights = Path(ckpt_dir) if ckpt_dir else source / "models"
    overrides = [source / name for name in override_files.split(",") if name]
    for path in overrides:
        if not path.is_file():
            raise MissingFileError(
                f"{path}: override_files must exist, got no such file; name them relative to the bundle"
            )
    configs = read_configs(source, overrides)
    if pretrained != "" and "train" in configs:
        configs["train"]["pretrained"] = pretrained
    if zero_shot:
        with tempfile.TemporaryDirectory() as folder:
            copied = write_untrained(configs.get("train", {}), weights, Path(folder))
            configs["train"] |= {"pretrained": f"$@ckpt_dir + '/{copied}'", "transferred": "network"}
            POSITIVE.check("learning_rate", configs["train"]["learning_rate"])
            configs["train"]["learning_rate"] = min(configs["train"]["learning_rate"], _LEARNING_RATE)
            configs["train"]["organ_margin"] = configs["inference"]["organ_margin"] = 0.0  # as in zero_shot.yaml
            return write_bundle(source, output, configs, Path(folder), **wanted)
    return write_bundle(source, output, configs, weights, **wanted)


if __name__ == "__main__":
    run_command(export)
