"""Classes that change places when left and right do, told by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.cli import InputError

__all__ = ["mirrored_classes"]

_SIDES = {"left": "right", "lt": "rt", "l": "r"}
_OTHERS = _SIDES | {right: left for left, right in _SIDES.items()}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^A-Za-z\d]+")


def mirrored_classes(labels: Mapping[int, str]) -> dict[int, int]:
    """Return the class that each one becomes in a mirror of left and right; none where no name tells a side.

    Sides are `left` and `right`, `lt` and `rt` or `l` and `r`, as words of names like `left kidney`, `Parotid_L` or
    `kidneyRight`.

    Args:
        labels: names of the classes by their value.

    Raises:
        ValueError: when a side has no counterpart.
    """
    names = {name.lower(): value for value, name in labels.items()}
    mirrored = {}
    for value, name in labels.items():
        words = [word.lower() for word in _WORDS.findall(name)]
        other = "".join(_OTHERS.get(word, word) for word in words)
        if other == name.lower():
            continue
        if other not in names:
            raise InputError(
                f"labels must name both sides to be mirrored, got {name!r} and no {other!r}; set mirror of the "
                "augmentation to null, or name the other one in dataset.json"
            )
        mirrored[value] = names[other]
    return mirrored
