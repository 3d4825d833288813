"""Make a bundle that needs nothing of this repository: configs, weights, and the part of the library that they use.

python -m tools.export BUNDLE --output DIR [--zip] [--override_files configs/small.yaml] [--ckpt_dir DIR]
    [--pretrained null] [--zero_shot] [--torchscript] [--onnx]
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import check_flags, check_options
from common.data import write_atomically, write_folder
from tools._command import run_command
from tools.export.configs import components, read_configs, relocate, to_json
from tools.export.library import PACKAGE, used_modules
from tools.export.networks import save_onnx, save_torchscript
from tools.export.weights import list_weights, load_trained, parse, read_classes, write_untrained

_BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
_DESCRIBER = "common.active_learning.load_describer"  # of scans, for MONAI Label's choice of the next
_LEARNING_RATE = 1.0e-4  # at most, for a network that segments without having been trained with labels
_TIME = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same files give the same bytes


def export(
    bundle: str,
    output: str,
    *more: Any,
    zip: bool = False,
    override_files: str | Sequence[str] = (),
    ckpt_dir: str | None = None,
    pretrained: str | None = "",
    zero_shot: bool = False,
    torchscript: bool = False,
    onnx: bool = False,
    **unknown: Any,
) -> str:
    """Write `output`/<name of the bundle>: configs as JSON, weights, documents, and the library's part in `scripts/`.

    It runs wherever the packages of its `configs/metadata.json` are installed, from any folder with `--bundle_root`,
    and in MONAI Label. Its `SHA256SUMS` holds the checksum of every file. The same input gives the same bytes.

    Args:
        bundle: name of one of this repository's, or a folder.
        output: folder to write into.
        more: refused.
        zip: also write <name>_v<version>.zip.
        override_files: the overrides with which the network was trained, separated by commas; relative to the bundle.
            They become part of the workflows' own files, since MONAI Label reads one.
        ckpt_dir: folder of the weights; the bundle's `models` if not given.
        pretrained: what `training` starts from, such as null (from scratch), in place of what its config says.
        zero_shot: (layer_decomp_tumor) the network that was pretrained, or the one that `pretrained` names, as it
            segments without labels; a training goes on from it, with a learning rate of at most 1e-4.
        torchscript: also write the network as `models/model.ts`.
        onnx: also write the network as `models/model.onnx`.
        unknown: refused.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: when a file is missing, such as the weights.
        ValueError: when the output exists, the weights are those of another network, or TorchScript or ONNX computes
            something else.
    """
    if more or unknown:
        raise ValueError(f"options must be those that `--help` shows, got {sorted(unknown) or more}")
    check_flags(zip=zip, zero_shot=zero_shot, torchscript=torchscript, onnx=onnx)
    source = _find_bundle(bundle)
    weights = Path(ckpt_dir) if ckpt_dir else source / "models"
    configs = read_configs(source, _find_overrides(source, override_files))
    if pretrained != "" and "train" in configs:
        configs["train"]["pretrained"] = pretrained
    if zero_shot:
        with tempfile.TemporaryDirectory() as folder:
            copied = write_untrained(configs.get("train", {}), weights, Path(folder))
            configs["train"] |= {"pretrained": f"$@ckpt_dir + '/{copied}'", "transferred": "network"}
            check_options(positive_numbers={"learning_rate": configs["train"]["learning_rate"]})
            configs["train"]["learning_rate"] = min(configs["train"]["learning_rate"], _LEARNING_RATE)
            configs["train"]["organ_margin"] = configs["inference"]["organ_margin"] = 0.0  # as in zero_shot.yaml
            return _export(source, output, configs, Path(folder), zip, torchscript, onnx)
    return _export(source, output, configs, weights, zip, torchscript, onnx)


def _export(
    source: Path,
    output: str,
    configs: dict[str, dict[str, Any]],
    weights: Path,
    zip: bool,
    torchscript: bool,
    onnx: bool,
) -> str:
    """Write a bundle with the weights of a folder."""
    labels, modality = read_classes(weights)
    files = list_weights(weights, configs.get("train", {}))
    network = load_trained(configs["inference"] | {"labels": labels}, weights)
    metadata = _describe(
        json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8")), configs, labels, modality
    )
    if "train" in configs:
        configs["train"]["dataset_dir"] = "@bundle_root"  # whose dataset.json names the classes; see _write
    done = [f"{output}/{source.name}"]

    def write(root: Path) -> None:
        _write_texts(root, source, configs, metadata, labels)
        for file in files:
            (root / "models" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights / file, root / "models" / file)
        image = metadata["network_data_format"]["inputs"]["image"]
        for wanted, save, name in ((torchscript, save_torchscript, "model.ts"), (onnx, save_onnx, "model.onnx")):
            if wanted:
                also = save(network, image["num_channels"], len(image["spatial_shape"]), root / "models" / name)
                done.append(f"models/{name}, equal to the network for {', '.join(['images of 64 voxels', *also])}")
        _write_checksums(root)

    folder = write_folder(Path(output) / source.name, write)
    if zip:
        archive = Path(output) / f"{source.name}_v{metadata['version']}.zip"
        write_atomically(archive, lambda path: _pack(folder, path))
        done.append(str(archive))
    return "\n".join(done)


def _find_bundle(bundle: str) -> Path:
    for folder in (_BUNDLES / bundle, Path(bundle)):
        if (folder / "configs" / "inference.yaml").is_file():
            return folder.resolve()
    names = sorted(path.name for path in _BUNDLES.iterdir())
    raise FileNotFoundError(f"bundle must be one of {names} or a folder with configs/inference.yaml, got {bundle!r}")


def _find_overrides(bundle: Path, override_files: str | Sequence[str]) -> list[Path]:
    names = override_files.split(",") if isinstance(override_files, str) else list(override_files)
    paths = [bundle / name for name in names if name]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: override_files must exist, relative to the bundle")
    return paths


def _describe(
    metadata: dict[str, Any], configs: Mapping[str, Any], labels: Mapping[str, str], modality: str
) -> dict[str, Any]:
    """Return the metadata for the classes and the scans of the weights."""
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    without_background = len(pred["channel_def"]) - (pred["channel_def"].get("0") == "background")
    pred["num_channels"] = len(labels) - (len(pred["channel_def"]) == without_background)
    pred["channel_def"] = dict(labels)  # of the label map: MONAI Label takes them for the values of its labels
    in_channels = configs["inference"]["network_def"].get("in_channels", image["num_channels"])
    in_channels = parse({**configs["inference"], "_in": in_channels}, "_in")
    if in_channels != image["num_channels"]:
        image["channel_def"] = {str(channel): f"channel {channel}" for channel in range(in_channels)}
        image["num_channels"] = in_channels
    if modality:
        image["modality"] = modality
        image["format"] = "hounsfield" if modality == "CT" else "magnitude"
    return metadata


def _write_texts(
    root: Path,
    source: Path,
    configs: Mapping[str, Any],
    metadata: Mapping[str, Any],
    labels: Mapping[str, str],
) -> None:
    texts = {f"configs/{name}.json": to_json(content) for name, content in relocate(configs).items()}
    texts["configs/metadata.json"] = to_json(metadata)
    image = metadata["network_data_format"]["inputs"]["image"]
    classes = {"name": source.name, "labels": dict(labels), "modality": image["modality"], "training": []}
    texts["dataset.json"] = to_json(classes)  # what MONAI Label's training, which lists its scans itself, knows of them
    names = sorted({_DESCRIBER, *(name for content in configs.values() for name in components(content))})
    texts.update({f"{PACKAGE}/{path}": text for path, text in used_modules(names).items()})
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copyfile(source / "configs" / "logging.conf", root / "configs" / "logging.conf")
    shutil.copyfile(source / "LICENSE", root / "LICENSE")
    for path in sorted((source / "docs").iterdir()):
        (root / "docs").mkdir(exist_ok=True)
        if path.suffix == ".md":
            (root / "docs" / path.name).write_text(
                _name_json(path.read_text(encoding="utf-8"), configs), encoding="utf-8"
            )
        else:
            shutil.copyfile(path, root / "docs" / path.name)


def _name_json(text: str, configs: Mapping[str, Any]) -> str:
    return re.sub(
        r"configs/(\w+)\.yaml", lambda found: found[0][:-5] + ".json" if found[1] in configs else found[0], text
    )


def _write_checksums(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(root).as_posix()) for path in files]
    (root / "SHA256SUMS").write_text(
        "".join(f"{sum}  {name}\n" for sum, name in sums), encoding="utf-8"
    )  # as sha256sum --check reads it


def _pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    run_command(export, "bundle", "output", "ckpt_dir", "override_files", "pretrained")
