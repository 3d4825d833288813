"""No findings outside of the organ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from scipy import ndimage

from .restore_label_map import RestoreProbabilitiesd

__all__ = ["KeepOrgand"]


class KeepOrgand(MapTransform):
    """Make everything background that lies outside of the organ, on the scan's own grid.

    Args:
        keys: label maps of shape `(1, H, W, D)`, on the grid of the original image.
        transform: the preprocessing that was applied to the image: that very object, since MONAI checks its identity.
        given_key: mask of the organ as it came with the scan; where an item has none, `organ_key` is brought back.
        organ_key: mask of the organ on the network's grid, of shape `(1, h, w, d)`.
        orig_keys: the preprocessed image.
        margin: mm around the organ that belong to it, too; `None`: nothing is changed.
        allow_missing_keys: skip the keys that an item lacks.

    Raises:
        ValueError: when the margin is negative.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        given_key: str = "given_organ",
        organ_key: str = "organ",
        orig_keys: str = "image",
        margin: float | None = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if margin is not None and margin < 0:
            raise ValueError(f"margin must be 0 or more, or None, got {margin}")
        self.restore = RestoreProbabilitiesd(organ_key, transform, orig_keys)
        self.given_key = given_key
        self.organ_key = organ_key
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        if self.margin is None:
            return out
        mask = self._mask(out)
        for key in self.key_iterator(out):
            out[key] = out[key] * torch.from_numpy(mask).to(out[key])
        return out

    def _mask(self, data: Mapping[Hashable, Any]) -> np.ndarray:
        """Return where the organ and its margin are, as an array of shape `(H, W, D)`."""
        organ = data[self.given_key] if self.given_key in data else self.restore(data)[self.organ_key]
        mask = np.asarray(organ[0].cpu()) >= 0.5
        if self.margin and mask.any():  # there is no distance to an empty mask
            spacing = organ.pixdim.tolist() if isinstance(organ, MetaTensor) else (1.0, 1.0, 1.0)
            mask = ndimage.distance_transform_edt(~mask, spacing) <= self.margin
        return mask
