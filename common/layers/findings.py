"""No small findings beside the large ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage

from common.cli import InputError, check_whole_numbers

__all__ = ["KeepLargestd"]


class KeepLargestd(MapTransform):
    """Keep the largest findings, whatever their classes, and make all others background.

    A finding is what is joined through faces of voxels. (MONAI's `KeepLargestConnectedComponent` needs scikit-image.)

    Args:
        keys: label maps of shape `(1, H, W, D)`.
        number: how many findings are kept; `None`: all.
        allow_missing_keys: skip the keys that an item lacks.

    Raises:
        TypeError: when the number is no whole number.
        ValueError: when the number is not positive.
    """

    def __init__(self, keys: KeysCollection, number: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if number is not None:
            check_whole_numbers(number=number)
            if number < 1:
                raise InputError(f"number must be positive, or None, got {number}")
        self.number = number

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        if self.number is None:
            return out
        for key in self.key_iterator(out):
            findings, _ = ndimage.label(np.asarray(out[key][0].cpu()) > 0)
            sizes = np.bincount(findings.ravel())
            sizes[0] = 0
            large = np.argsort(-sizes, kind="stable")[: self.number]
            out[key] = out[key] * torch.from_numpy(np.isin(findings, large)).to(out[key])
        return out
