"""Small JSON files beside the weights that tell what these expect."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .files import is_main_process, write_atomically

__all__ = ["Classes", "PREPROCESSING_FILE", "load_classes", "load_record", "save_classes", "save_record"]

PREPROCESSING_FILE = "preprocessing.json"  # beside the weights that expect it

Record = TypeVar("Record")


def save_record(record: Any, path: str | Path) -> None:
    """Write a dataclass; in a distributed run, the first process does."""
    if is_main_process():
        text = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_record(path: str | Path, what: str, build: Callable[[dict[str, Any]], Record]) -> Record:
    """Read what `save_record` wrote.

    Args:
        path: file.
        what: the record is, for the errors.
        build: makes the record of the mapping that the file holds.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the {what} must lie beside the weights; train first")
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: must hold the {what}, got {error!r}; train again") from None


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
