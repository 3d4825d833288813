"""Check of the classes that the labels of a training have, taken together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch

from common.cli import InputError

from .partial_labels import known_classes

__all__ = ["check_classes", "find_classes"]

logger = logging.getLogger(__name__)


def find_classes(label: torch.Tensor) -> set[int]:
    """Return the classes of a label of shape `(1 or 2, *spatial_size)`, see `known_classes`; background does not count.

    What the label leaves open is no class.
    """
    return {*known_classes(label).flatten().long().bincount().nonzero().flatten().tolist()} - {0}


def check_classes(found: Iterable[int], labels: Mapping[int, str], num_cases: int) -> None:
    """Warn of every class that no label of a training has, which nothing will become.

    Args:
        found: values that the labels have; background (0) does not count.
        labels: names of the classes by their value.
        num_cases: number of cases.

    Raises:
        ValueError: when no label has any class.
    """
    present = {int(value) for value in found} - {0}
    if not present:
        raise InputError(
            f"labels must hold foreground in at least one of {num_cases} cases, got none; look at the label files"
        )
    missing = [f"{name} ({value})" for value, name in labels.items() if value not in present | {0}]
    if missing:
        logger.warning(
            "no label of %d case(s) has %s, so that nothing will be segmented as it; label a scan that "
            "shows it, or take more labels",
            num_cases,
            " or ".join(missing),
        )
