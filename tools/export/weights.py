"""Weights of a bundle, with the classes and the preprocessing that lie beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from common.cli import RANDOM, InputError, MissingFileError, is_scratch
from common.training import load_network

__all__ = ["list_weights", "load_trained", "parse", "read_classes", "write_untrained"]

_RECORDS = ("preprocessing.json", "classes.json", "field_of_view.nii.gz")


def read_classes(ckpt_dir: Path) -> tuple[dict[str, str], str]:
    """Return the names of the classes by their value, and the modality, that a training has left beside its weights.

    Raises:
        FileNotFoundError: when there is no trained network.
    """
    for name in ("preprocessing.json", "classes.json"):
        if (ckpt_dir / "model.pt").is_file() and (ckpt_dir / name).is_file():
            record = json.loads((ckpt_dir / name).read_text(encoding="utf-8"))
            return dict(record["labels"]), str(record["modality"])
    raise MissingFileError(f"{ckpt_dir}: must hold a trained network, model.pt and what lies beside it; train first")


def list_weights(ckpt_dir: Path, train: Mapping[str, Any]) -> list[Path]:
    """Return the files that inference and training need, relative to the folder.

    Args:
        ckpt_dir: folder of a trained network.
        train: content of `train.yaml`.

    Raises:
        FileNotFoundError: when training starts from pretrained weights, and there are none in the folder.
        ValueError: when the trained network expects another preprocessing than the pretrained one.
    """
    files = [Path(name) for name in ("model.pt", *_RECORDS)]
    pretrained = parse({**train, "ckpt_dir": str(ckpt_dir)}, "pretrained") if "pretrained" in train else None
    if not (pretrained == RANDOM or is_scratch(pretrained)):
        path = Path(str(pretrained))
        if not path.is_file() or not path.is_relative_to(ckpt_dir):
            raise MissingFileError(
                f"{path}: the pretrained weights from which training starts must lie in {ckpt_dir}; "
                "if the network was trained without them, pass --pretrained null"
            )
        _check_same_preprocessing(ckpt_dir, path.parent)
        folder = path.parent.relative_to(ckpt_dir)
        files += [path.relative_to(ckpt_dir), *(folder / name for name in _RECORDS)]
    return [file for file in files if (ckpt_dir / file).is_file()]


def write_untrained(train: Mapping[str, Any], ckpt_dir: Path, folder: Path) -> str:
    """Write the network that a training begins with when it takes over a whole pretrained one, as if it were trained.

    Args:
        train: content of `train.yaml`.
        ckpt_dir: folder of the pretrained weights.
        folder: to write into, with the pretrained weights themselves.

    Returns:
        Where in the folder these are.

    Raises:
        FileNotFoundError: when there are no pretrained weights.
        ValueError: when the bundle cannot segment without labels, or they are the weights of another network.
    """
    if "transferred" not in train:
        raise InputError("zero_shot must be asked of a bundle that segments without labels, such as layer_decomp_tumor")
    pretrained = Path(str(parse({**train, "ckpt_dir": str(ckpt_dir)}, "pretrained")))
    record = pretrained.parent / "preprocessing.json"
    if not record.is_file():
        raise MissingFileError(f"{record}: must lie beside pretrained weights; pretrain first")
    labels = json.loads(record.read_text(encoding="utf-8"))["labels"]
    known = {"ckpt_dir": str(ckpt_dir), "transferred": "network", "labels": labels}
    try:
        network = parse({**train, **known}, "transfer")
    except RuntimeError as error:  # MONAI's, around what the library says
        reason = error.__cause__ or error
        raise InputError(f"{reason}; name the overrides with which it was pretrained as --override_files") from None
    (folder / "pretrained").mkdir()
    for name in (pretrained.name, record.name):
        shutil.copyfile(pretrained.parent / name, folder / "pretrained" / name)
    shutil.copyfile(record, folder / record.name)
    torch.save(network.state_dict(), folder / "model.pt")
    return f"pretrained/{pretrained.name}"


def load_trained(inference: Mapping[str, Any], ckpt_dir: Path) -> Any:
    """Return the network of `inference.yaml` on the CPU, with the weights of a training.

    Raises:
        ValueError: when they are the weights of another network.
    """
    network = parse({**inference, "ckpt_dir": str(ckpt_dir)}, "network_def")
    try:
        return load_network(network, ckpt_dir / "model.pt").eval()
    except ValueError as error:
        raise InputError(f"{error}; name the overrides with which it was trained as --override_files") from None


def parse(content: Mapping[str, Any], id: str) -> Any:
    return ConfigParser(dict(content)).get_parsed_content(id)


def _check_same_preprocessing(trained: Path, pretrained: Path) -> None:
    records = [folder / "preprocessing.json" for folder in (trained, pretrained)]
    if not all(record.is_file() for record in records):
        return
    first, second = (json.loads(record.read_text(encoding="utf-8")) for record in records)
    for name in ("spacing", "clip", "normalization", "organ"):
        if first.get(name) != second.get(name):
            raise InputError(
                f"{records[0]}: {name} must be that of the pretrained weights in {pretrained}, {second.get(name)}, "
                f"got {first.get(name)}; if the network was trained without them, pass --pretrained null"
            )
