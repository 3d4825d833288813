"""The classes that a network tells apart, stored beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import load_record, save_record

__all__ = ["Classes", "load_classes", "save_classes"]

_FILE_NAME = "classes.json"


@dataclass(frozen=True)
class Classes:
    """What a segmentation means.

    Attributes:
        labels: names of the classes by their value, background (0) included.
        modality: of the scans, such as CT.
    """

    labels: dict[int, str]
    modality: str


def save_classes(save_dir: str | Path, labels: Mapping[int, str], modality: str = "") -> Classes:
    """Store the classes of a training, which inference needs, too.

    Args:
        save_dir: folder for `classes.json`.
        labels: names of the classes by their value, background (0) included.
        modality: of the scans, such as CT.

    Raises:
        ValueError: when there is no class besides the background.
    """
    if len(labels) < 2:
        raise ValueError(
            f"labels must name the background and at least one class, got {dict(labels)}; name them in dataset.json"
        )
    classes = Classes(dict(labels), modality)
    save_record(classes, Path(save_dir) / _FILE_NAME)
    return classes


def load_classes(save_dir: str | Path) -> Classes:
    """Read what `save_classes` stored.

    Raises:
        FileNotFoundError: when the folder has none.
        ValueError: when the file is damaged.
    """
    return load_record(Path(save_dir) / _FILE_NAME, "names of the classes", _build)


def _build(stored: dict[str, Any]) -> Classes:
    return Classes({int(value): str(name) for value, name in stored["labels"].items()}, str(stored["modality"]))
