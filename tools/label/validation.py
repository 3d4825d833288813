"""Validation in MONAI Label: scans that are held out from one training to the next, so that scores stay comparable.

It imports nothing but Python's own library.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ValidationScans", "write_json"]

logger = logging.getLogger(__name__)


class ValidationScans:
    """Scans that trainings are validated with, which grow with the number of labels and never change.

    Args:
        path: JSON file of those held out so far, in this order, and of those that were learned from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def split(self, names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
        """Choose scans to learn from and scans to hold out, and note them.

        Scans that were held out before come first, then those that no training has learned from. As in MONAI Label,
        of less than three scans none is held out at a share of 0.2.

        Args:
            names: of the scans that have a label.
            share: of the scans that is held out, from 0 to 1.

        Returns:
            Names of the first and of the second, in the order of `names`.
        """
        held_out, learned = self._read()
        number = len(names) - int((1 - share) * len(names) + 0.5)
        places = {name: place for place, name in enumerate(held_out)}
        order = sorted(names, key=lambda name: (name in learned, places.get(name, len(places)), _chance(name)))
        chosen = set(order[:number])
        if chosen & learned:
            logger.warning("%s: learned from before, their scores are too good", ", ".join(sorted(chosen & learned)))
        training, validation = ([name for name in names if (name in chosen) == wanted] for wanted in (False, True))
        kept = [name for name in held_out if name not in training]
        content = {
            "validation": kept + [name for name in order[:number] if name not in kept],
            "training": sorted((learned - chosen) | {*training}),
        }
        write_json(self.path, content)
        return training, validation

    def _read(self) -> tuple[list[str], set[str]]:
        if not self.path.is_file():
            return [], set()
        content = json.loads(self.path.read_text(encoding="utf-8"))
        return content["validation"], {*content["training"]}


def write_json(path: Path, content: object) -> None:
    """Write a file that a server may read at any moment: it is the old one or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


def _chance(name: str) -> str:
    """Return what orders names at random, and always in the same way."""
    return hashlib.sha256(name.encode()).hexdigest()
