"""Classes that change places when left and right do, told by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

__all__ = ["mirrored_classes"]

logger = logging.getLogger(__name__)

_SIDES = {"left": "right", "lt": "rt", "l": "r"}
_OTHERS = _SIDES | {right: left for left, right in _SIDES.items()}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^A-Za-z\d]+")


def mirrored_classes(labels: Mapping[int, str]) -> dict[int, int]:
    """Return the class that each one becomes in a mirror of left and right; none where no name tells a side.

    Sides are `left` and `right`, `lt` and `rt` or `l` and `r`, as words of names like `left kidney`, `Parotid_L` or
    `kidneyRight`. A single letter without a counterpart, as in `L1`, is no side. Where the name of a side has none, as
    `left atrium` alone, nothing can be mirrored, which is warned of.

    Args:
        labels: names of the classes by their value.
    """
    names = {name.lower(): value for value, name in labels.items()}
    mirrored = {}
    for value, name in labels.items():
        words = [word.lower() for word in _WORDS.findall(name)]
        other = "".join(_OTHERS.get(word, word) for word in words)
        if other == name.lower():
            continue
        if other in names:
            mirrored[value] = names[other]
        elif any(len(word) > 1 and word in _OTHERS for word in words):
            logger.warning("labels have %r and no %r: patches are not mirrored", name, other)
            return {}
    return mirrored
