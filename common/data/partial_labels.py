"""Labels that leave something open: voxels that are not labeled, classes that are not, and pseudo-labels in doubt.

In memory such a label is a map of whole numbers of shape `(1 or 2, *spatial_size)`. Its first channel has the class of
each voxel; or `IGNORED` where nothing is known; or, where it may be one of several, the negative of a number whose bits
tell which (`class_set`). The second channel, if there is one, has the doubt in each voxel, from 0 (sure, and so beyond
the border) to `MAX_DOUBT`, at which the voxel counts no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from common.cli import InputError

__all__ = [
    "IGNORED",
    "MAX_DOUBT",
    "class_set",
    "exchange_classes",
    "is_known",
    "find_pseudo_labeled",
    "is_partial",
    "known_classes",
    "leave_open",
    "member_mask",
    "smallest_type",
    "to_doubt",
    "with_doubt",
]

IGNORED = -1
MAX_DOUBT = 255
_MAX_CLASSES = 24  # whole numbers of so many bits are exact as 32-bit floats, in which transforms resample

_Map = TypeVar("_Map", np.ndarray, torch.Tensor)


def class_set(classes: Sequence[int]) -> int:
    """Return the value of a voxel whose class is one of two or more."""
    return -sum(1 << label for label in set(classes))


def leave_open(
    label: np.ndarray,
    path: str | Path,
    num_classes: int,
    ignore: int | None = None,
    classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Return a label map as it is in memory, given what a data list says about it.

    Args:
        label: whole numbers as they are in the file.
        path: of the file, for the errors.
        num_classes: background included.
        ignore: value of voxels that are not labeled.
        classes: that the case is labeled with, background included, where not all are: its background may be any of the
            others, too.
    """
    open_classes = sorted({*range(num_classes)} - {*classes}) if classes is not None else []
    if ignore is None and not open_classes:
        return label
    if open_classes and num_classes > _MAX_CLASSES:
        raise InputError(
            f"{path}: a case may be labeled with a part of {_MAX_CLASSES} classes at most, got {num_classes}; list "
            "fewer classes, or make voxels that are not labeled the value of ignore"
        )
    found = label.astype(np.int32)
    if open_classes:
        named = [value for value in open_classes if (label == value).any()]
        if named:
            raise InputError(
                f"{path}: label must have the classes that dataset.json lists for the case, got {named}, too; list them"
            )
        found[label == 0] = class_set([0, *open_classes])
    if ignore is not None:
        found[label == ignore] = IGNORED
    return found


def to_doubt(confidence: np.ndarray, path: str | Path) -> np.ndarray:
    """Return the doubt in each voxel, given a confidence from 0 to 1."""
    if not (np.isfinite(confidence).all() and confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        found = f"{confidence.min():.4g} to {confidence.max():.4g}"
        raise InputError(f"{path}: confidence must be from 0 to 1, got {found}; write it anew")
    return np.rint((1 - confidence.clip(0, 1)) * MAX_DOUBT).astype(np.int16)


def smallest_type(label: torch.Tensor) -> torch.Tensor:
    """Return a label map as whole numbers of the smallest type that holds them."""
    low, high = (int(label.min()), int(label.max())) if label.numel() else (0, 0)
    for dtype in (torch.uint8, torch.int16):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return label.to(dtype)
    return label.to(torch.int32)


def find_pseudo_labeled(data: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the cases whose labels nobody has drawn: pseudo-labels, and none where other cases have one."""
    has_labels = any("label" in case for case in data)
    return [index for index, case in enumerate(data) if "confidence" in case or (has_labels and "label" not in case)]


def with_doubt(label: torch.Tensor) -> torch.Tensor:
    """Return a label of shape `(2, *spatial_size)`, without doubt where it had no second channel."""
    return label if len(label) > 1 else torch.cat((label, torch.zeros_like(label)))


def exchange_classes(label: torch.Tensor, others: Mapping[int, int]) -> torch.Tensor:
    """Return a label of shape `(1 or 2, *spatial_size)` in which classes have become others.

    Args:
        label: whole numbers.
        others: what a class becomes, where it does not stay what it is.
    """
    classes = label[:1].int()
    exchanged = classes.clone()
    for value, other in others.items():
        exchanged[classes == value] = other
    for value in classes[classes < IGNORED].unique().tolist():
        members = [label for label in range(_MAX_CLASSES + 1) if -value >> label & 1]
        exchanged[classes == value] = class_set([others.get(member, member) for member in members])
    return torch.cat((exchanged.to(label.dtype), label[1:]))


def is_partial(label: torch.Tensor) -> bool:
    """Tell whether labels of shape `(B, 1 or 2, *spatial_size)` leave anything open."""
    return bool((label[:, :1] < 0).any() | (label[:, 1:] > 0).any())


def is_known(label: _Map, max_doubt: int = MAX_DOUBT - 1) -> _Map:
    """Return where the class of a voxel is known, with as much doubt as is allowed.

    Args:
        label: of shape `(1 or 2, *spatial_size)`.
        max_doubt: from 0 to `MAX_DOUBT`.

    Returns:
        Truth values of shape `(1, *spatial_size)`.
    """
    found = label[:1] >= 0
    return found & (label[1:] <= max_doubt) if len(label) > 1 else found


def known_classes(label: _Map) -> _Map:
    """Return the class of each voxel, 0 where it is open or in full doubt.

    Args:
        label: of shape `(1 or 2, *spatial_size)`.

    Returns:
        Map of shape `(1, *spatial_size)`, of the type of the label.
    """
    return label[:1] * is_known(label)


def member_mask(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return, for each class, whether a voxel may belong to it.

    Args:
        label: first channels, of shape `(B, 1, *spatial_size)`.

    Returns:
        Truth values of shape `(B, num_classes, *spatial_size)`: one class where it is known, all where it is ignored.
    """
    shape = (1, num_classes, *[1] * (label.ndim - 2))
    values = torch.arange(num_classes, device=label.device).view(shape)
    label = label.long()
    in_set = ((-label).clamp(min=0) >> values.clamp(max=_MAX_CLASSES)) & 1
    return (label == values) | (label == IGNORED) | ((label < IGNORED) & in_set.bool())
