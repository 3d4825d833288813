"""No findings outside of the organ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

__all__ = ["KeepOrgand", "make_background"]


class KeepOrgand(MapTransform):
    """Make everything background that lies outside of the organ.

    Args:
        keys: class scores of shape `(num_classes, H, W, D)`, background first, on the grid of the organ's mask.
        organ_key: mask of the organ, of shape `(1, H, W, D)`.
        margin: mm around the organ that belong to it, too; `None`: nothing is changed.
        allow_missing_keys: skip the keys that an item lacks.

    Raises:
        ValueError: when the margin is negative.
    """

    def __init__(
        self,
        keys: KeysCollection,
        organ_key: str = "organ",
        margin: float | None = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if margin is not None and margin < 0:
            raise ValueError(f"margin must be 0 or more, or None, got {margin}")
        self.organ_key = organ_key
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        if self.margin is None:
            return out
        organ = out[self.organ_key]
        mask = np.asarray(organ[0].cpu()) > 0
        if self.margin > 0 and mask.any():  # there is no distance to an empty mask
            spacing = organ.pixdim.tolist() if isinstance(organ, MetaTensor) else (1.0, 1.0, 1.0)
            mask = ndimage.distance_transform_edt(~mask, spacing) <= self.margin
        for key in self.key_iterator(out):
            out[key] = make_background(out[key], torch.from_numpy(~mask))
        return out


def make_background(scores: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return class scores, background first, whose background wins in some voxels.

    Args:
        scores: of shape `(num_classes, H, W, D)`.
        where: mask of shape `(H, W, D)`, on any device.
    """
    scores = scores.clone()
    scores[0, where.to(scores.device)] = scores.amax() + 1
    return scores
