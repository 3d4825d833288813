"""Small JSON files beside the weights that tell what these expect."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from common.utils import is_main_process, write_atomically

__all__ = ["PREPROCESSING_FILE", "load_record", "save_record"]

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
