"""Spatial inverse: from probabilities on the network's grid to a label map, or to probabilities, on the scan's own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform

__all__ = ["InvertLabelMapd", "InvertProbabilitiesd"]


class InvertProbabilitiesd(MapTransform):
    """Bring probabilities back to the grid of the original image; what the preprocessing cropped away is 0.

    Args:
        keys: probabilities of shape `(num_classes, H, W, D)`; the result has shape `(num_classes, *original size)`.
        transform: the preprocessing that was applied to the image: that very object, since MONAI checks its identity.
        orig_keys: the preprocessed image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        orig_keys: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform
        self.orig_keys = orig_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data[self.orig_keys]
        return {**data, **{key: torch.cat([*self._restore(data[key], image)]) for key in self.key_iterator(data)}}

    def _restore(self, probabilities: torch.Tensor, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the probability of one class after the other, of shape `(1, *original size)`."""
        invert = Invertd("pred", self.transform, orig_keys=self.orig_keys, nearest_interp=False)
        for probability in probabilities:
            yield invert({self.orig_keys: image, "pred": MetaTensor(probability[None].float())})["pred"]


class InvertLabelMapd(InvertProbabilitiesd):
    """Bring probabilities back to the grid of the original image and keep the most probable class of each voxel.

    One class is resampled at a time, so the memory does not grow with the number of classes. Voxels that the
    preprocessing cropped away are background.

    Args:
        keys: probabilities of shape `(num_classes, H, W, D)`; the result has shape `(1, *original size)`.
        transform: see `InvertProbabilitiesd`.
        threshold: `None`: the channels are background and the classes from 1 on, as after a softmax. Otherwise they are
            the classes from 1 on, which may overlap, as after a sigmoid for each class, and a voxel in which none is
            more probable than this is background.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        allow_missing_keys: bool = False,
        threshold: float | None = None,
    ) -> None:
        super().__init__(keys, transform, allow_missing_keys=allow_missing_keys)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        first = 0 if self.threshold is None else 1  # class of the first channel
        for key in self.key_iterator(out):
            dtype = torch.uint8 if len(out[key]) + first <= np.iinfo(np.uint8).max + 1 else torch.int16
            best = labels = None
            for label, restored in enumerate(self._restore(out[key], out[self.orig_keys]), start=first):
                if best is None or labels is None:
                    labels = torch.zeros_like(restored, dtype=dtype)
                    best = restored if self.threshold is None else torch.full_like(restored, self.threshold)
                is_better = restored > best
                labels[is_better] = label
                best[is_better] = restored[is_better]
            out[key] = labels
        return out
