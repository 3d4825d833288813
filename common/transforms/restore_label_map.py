"""From class probabilities on the network's grid to a label map on the scan's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform

__all__ = ["RestoreLabelMapd"]


class RestoreLabelMapd(MapTransform):
    """Bring probabilities back to the grid of the original image and keep the most probable class of each voxel.

    One class is resampled at a time, so the memory does not grow with the number of classes. Voxels that the
    preprocessing cropped away are background.

    Args:
        keys: probabilities of shape `(num_classes, H, W, D)`; the result has shape `(1, *original size)`.
        transform: the preprocessing that was applied to the image: that very object, since MONAI checks its identity.
        orig_keys: the preprocessed image.
        allow_missing_keys: skip the keys that an item lacks.
    """

    def __init__(
        self, keys: KeysCollection, transform: Compose, orig_keys: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform
        self.orig_keys = orig_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            invert = Invertd(key, self.transform, orig_keys=self.orig_keys, nearest_interp=False)
            probabilities = out[key]
            dtype = torch.uint8 if len(probabilities) <= np.iinfo(np.uint8).max + 1 else torch.int16
            best = labels = None
            for index, probability in enumerate(probabilities):
                restored = invert({self.orig_keys: out[self.orig_keys], key: MetaTensor(probability[None].float())})[
                    key
                ]
                if best is None or labels is None:
                    best, labels = restored, torch.zeros_like(restored, dtype=dtype)
                    continue
                is_better = restored > best
                labels[is_better] = index
                best[is_better] = restored[is_better]
            out[key] = labels
        return out
