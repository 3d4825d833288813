"""Files of an exported bundle, written as a folder and as an archive."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli.texts import text_expression
from common.data import write_atomically, write_folder
from tools.export.configs import components, relocate, show_options, to_json
from tools.export.library import PACKAGE, PATH_MODULE, used_modules
from tools.export.networks import save_onnx, save_torchscript
from tools.export.weights import list_weights, load_trained, parse, read_classes

__all__ = ["write_bundle"]

_DESCRIBER = "common.active_learning.load_describer"  # of scans, for MONAI Label's choice of the next
_TIME = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same files give the same bytes


def write_bundle(
    source: Path,
    output: str,
    configs: dict[str, dict[str, Any]],
    weights: Path,
    *,
    zip: bool = False,
    torchscript: bool = False,
    onnx: bool = False,
) -> str:
    """Write a bundle as a folder, with what else is wanted.

    Args:
        source: folder of the bundle in this repository.
        output: folder to write its folder into.
        configs: content of its configs by name, with all overrides.
        weights: folder of a trained network.
        zip: also write an archive.
        torchscript: also write the network in this form.
        onnx: likewise.

    Returns:
        What was written.
    """
    labels, modality = read_classes(weights)
    files = list_weights(weights, configs.get("train", {}))
    known = configs["inference"] | {
        "labels": labels,
        "modality": modality,
        "ckpt_dir": text_expression(str(weights)),  # whose record tells the options of the network
    }
    network = load_trained(known, weights)
    metadata = _describe(
        json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8")), known, labels, modality
    )
    if "train" in configs:
        configs["train"]["dataset_dir"] = "@bundle_root"  # whose dataset.json names the classes; see _write_texts
    configs = {**configs, "inference": show_options(configs["inference"])}
    done = [f"{output}/{source.name}"]

    def write(root: Path) -> None:
        _write_texts(root, source, configs, metadata, labels, modality)
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


def _describe(
    metadata: dict[str, Any], inference: Mapping[str, Any], labels: Mapping[str, str], modality: list[str]
) -> dict[str, Any]:
    """Return the metadata for the classes and the scans of the weights."""
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    without_background = len(pred["channel_def"]) - (pred["channel_def"].get("0") == "background")
    pred["num_channels"] = len(labels) - (len(pred["channel_def"]) == without_background)
    pred["channel_def"] = dict(labels)  # of the label map: MONAI Label takes them for the values of its labels
    network = inference["network_def"]
    in_channels = network.get("network", network).get("in_channels", len(modality))  # of a member of an ensemble
    in_channels = parse({**inference, "_in": in_channels}, "_in")
    if in_channels == len(modality) > 1 or in_channels != image["num_channels"]:
        names = modality if in_channels == len(modality) else [""] * in_channels
        image["channel_def"] = {str(channel): name or f"channel {channel}" for channel, name in enumerate(names)}
        image["num_channels"] = in_channels
    if any(modality):
        image["modality"] = ", ".join(modality)
        image["format"] = "hounsfield" if {*modality} == {"CT"} else "magnitude"
    return metadata


def _write_texts(
    root: Path,
    source: Path,
    configs: Mapping[str, Any],
    metadata: Mapping[str, Any],
    labels: Mapping[str, str],
    modality: list[str],
) -> None:
    texts = {f"configs/{name}.json": to_json(content) for name, content in relocate(configs).items()}
    texts["configs/metadata.json"] = to_json(metadata)
    channels = {str(channel): name for channel, name in enumerate(modality)}
    classes = {"name": source.name, "labels": dict(labels), "modality": channels, "training": []}
    texts["dataset.json"] = to_json(classes)  # what MONAI Label's training, which lists its scans itself, knows of them
    names = sorted({_DESCRIBER, *(name for content in configs.values() for name in components(content))})
    texts.update({f"{PACKAGE}/{path}": text for path, text in used_modules(names).items()})
    texts[f"{PACKAGE}/{PATH_MODULE}"] = Path(__file__).with_name(PATH_MODULE).read_text(encoding="utf-8")
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copyfile(source / "configs" / "logging.conf", root / "configs" / "logging.conf")
    shutil.copyfile(source / "LICENSE", root / "LICENSE")
    shutil.copytree(source / "docs", root / "docs")
    for path in (root / "docs").glob("*.md"):  # whose configs are JSON now
        text = re.sub(rf"configs/({'|'.join(configs)})\.yaml", r"configs/\1.json", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")


def _write_checksums(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(root).as_posix()) for path in files]
    lines = "".join(f"{sum}  {name}\n" for sum, name in sums)  # as sha256sum --check reads them
    (root / "SHA256SUMS").write_text(lines, encoding="utf-8")


def _pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())
