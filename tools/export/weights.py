"""Weights of a bundle, with the classes and the preprocessing that lie beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from common.cli import InputError, MissingFileError, has_weights, is_scratch
from common.cli.texts import text_expression
from common.data import load_record
from common.data.record import check_same, find_record
from common.training import load_network

__all__ = ["list_weights", "load_trained", "parse", "read_classes", "was_trained_from_scratch", "write_untrained"]

_FIELD_OF_VIEW = "field_of_view.nii.gz"  # of planar_heatmap_descriptor


def read_classes(ckpt_dir: Path) -> tuple[dict[str, str], list[str]]:
    """Return the names of the classes by their value, and of the channels, that lie beside trained weights."""
    weights = ckpt_dir / "model.pt"
    if not weights.is_file() or find_record(ckpt_dir) is None:
        raise MissingFileError(f"{ckpt_dir}: must hold a trained network, model.pt and record.json; train first")
    record = load_record(weights)
    return {str(value): name for value, name in record.labels.items()}, record.modality


def was_trained_from_scratch(ckpt_dir: Path) -> bool:
    """Tell whether the record of trained weights says that no pretrained ones were taken."""
    weights = ckpt_dir / "model.pt"
    return find_record(ckpt_dir) is not None and is_scratch(load_record(weights).settings.get("pretrained", ""))


def list_weights(ckpt_dir: Path, train: Mapping[str, Any]) -> list[Path]:
    """Return the files that inference and training need, relative to the folder.

    Args:
        ckpt_dir: folder of a trained network.
        train: content of `train.yaml`.
    """
    files = [ckpt_dir / "model.pt", *_records(ckpt_dir)]
    pretrained = (
        parse({**train, "ckpt_dir": text_expression(str(ckpt_dir))}, "pretrained") if "pretrained" in train else None
    )
    if has_weights(pretrained):
        path = Path(str(pretrained))
        if not path.is_file() or not path.is_relative_to(ckpt_dir):
            raise MissingFileError(
                f"{path}: the pretrained weights from which training starts must lie in {ckpt_dir}; "
                "if the network was trained without them, pass --pretrained null"
            )
        _check_same_preprocessing(ckpt_dir / "model.pt", path)
        files += [path, *_records(path.parent)]
    return [file.relative_to(ckpt_dir) for file in files]


def write_untrained(train: Mapping[str, Any], ckpt_dir: Path, folder: Path) -> str:
    """Write the network that a training begins with when it takes over a whole pretrained one, as if it were trained.

    Args:
        train: content of `train.yaml`.
        ckpt_dir: folder of the pretrained weights.
        folder: to write into, with the pretrained weights themselves.

    Returns:
        Where in the folder these are.
    """
    if "transferred" not in train:
        raise InputError("zero_shot must be asked of a bundle that segments without labels, such as layer_decomp_tumor")
    pretrained = Path(str(parse({**train, "ckpt_dir": text_expression(str(ckpt_dir))}, "pretrained")))
    record = find_record(pretrained.parent)
    if record is None:
        raise MissingFileError(f"{pretrained.parent}: record.json must lie beside pretrained weights; pretrain first")
    stored = load_record(pretrained)
    known = {
        "ckpt_dir": text_expression(str(ckpt_dir)),
        "transferred": "network",
        "labels": stored.labels,
        "modality": stored.modality,
    }
    try:
        network = parse({**train, **known}, "transfer")
    except RuntimeError as error:  # MONAI's, around what the library says
        reason = error.__cause__ or error
        raise InputError(f"{reason}; name the overrides with which it was pretrained as --override_files") from None
    (folder / "pretrained").mkdir()
    for name in (pretrained.name, record.name):
        shutil.copyfile(pretrained.parent / name, folder / "pretrained" / name)
    torch.save(network.state_dict(), folder / "model.pt")
    stored.save_beside(folder / "model.pt")
    return f"pretrained/{pretrained.name}"


def load_trained(inference: Mapping[str, Any], ckpt_dir: Path) -> Any:
    """Return the network of `inference.yaml` on the CPU, with the weights of a training."""
    network = parse({**inference, "ckpt_dir": text_expression(str(ckpt_dir))}, "network_def")
    try:
        return load_network(network, ckpt_dir / "model.pt").eval()
    except ValueError as error:
        raise InputError(f"{error}; name the overrides with which it was trained as --override_files") from None


def parse(content: Mapping[str, Any], id: str) -> Any:
    return ConfigParser(dict(content)).get_parsed_content(id)


def _records(folder: Path) -> list[Path]:
    """Return what lies beside the weights in a folder and belongs to them."""
    return [path for path in (find_record(folder), folder / _FIELD_OF_VIEW) if path is not None and path.is_file()]


def _check_same_preprocessing(trained: Path, pretrained: Path) -> None:
    if find_record(pretrained.parent) is None:
        return
    record = load_record(trained)
    numbers = {name: getattr(record, name) for name in ("spacing", "clip", "normalization", "organ")}
    try:
        check_same(load_record(pretrained), numbers, str(pretrained))
    except InputError as error:
        raise InputError(
            f"{trained}: {error}; if the network was trained without them, pass --pretrained null"
        ) from None
