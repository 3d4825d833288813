"""Classes that change places when left and right do, told by their names."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Mapping, Sequence

__all__ = ["lopsided_classes", "mirrored_classes"]

logger = logging.getLogger(__name__)

_SIDES = {"left": "right", "lt": "rt", "l": "r"}
_OTHERS = _SIDES | {right: left for left, right in _SIDES.items()}
_MIDDLE = 0.3  # of the way from the middle to one of a pair; organs of the middle lie within 0.03, a liver at 0.8
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


def lopsided_classes(places: Sequence[Mapping[int, float]], mirrored: Mapping[int, int]) -> list[int]:
    """Return the classes without a side in their names that lie on one side all the same, such as a liver.

    The middle of a scan is that of its pairs. In a mirror image such a class would lie where no patient has it.

    Args:
        places: of each labeled scan, where the centers of its classes lie from side to side, in any unit.
        mirrored: see `mirrored_classes`.
    """
    offsets: dict[int, list[float]] = {}
    for found in places:
        pairs = [(found[one], found[two]) for one, two in mirrored.items() if one < two and {one, two} <= found.keys()]
        if not pairs:
            continue
        middle = statistics.fmean((one + two) / 2 for one, two in pairs)
        reach = statistics.fmean(abs(one - two) / 2 for one, two in pairs)
        for value, place in found.items():
            if value not in mirrored and reach > 0:
                offsets.setdefault(value, []).append(abs(place - middle) / reach)
    return sorted(value for value, found in offsets.items() if statistics.median(found) > _MIDDLE)
