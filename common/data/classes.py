"""The classes that a network tells apart, stored beside its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.utils import is_main_process, write_atomically

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
    if is_main_process():
        text = json.dumps(dataclasses.asdict(classes), indent=1) + "\n"
        write_atomically(Path(save_dir) / _FILE_NAME, lambda path: path.write_text(text))
    return classes


def load_classes(save_dir: str | Path) -> Classes:
    """Read what `save_classes` stored.

    Raises:
        FileNotFoundError: when the folder has none.
        ValueError: when the file is damaged.
    """
    path = Path(save_dir) / _FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the names of the classes must lie beside the weights; train first")
    try:
        stored = json.loads(path.read_text())
        return Classes({int(value): str(name) for value, name in stored["labels"].items()}, str(stored["modality"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: must hold the names of the classes, got {error!r}; train again") from None
