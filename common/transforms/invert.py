"""Spatial inverse: from probabilities on the network's grid to a label map, or to probabilities, on the scan's own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, InvertibleTransform, MapTransform, Orientationd
from monai.transforms.utils import allow_missing_keys_mode

__all__ = ["InvertLabelMapd", "InvertProbabilitiesd"]

_MOVING = (Orientationd, CropForegroundd)  # transforms that move voxels, and change none


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

    def _restore(
        self, probabilities: torch.Tensor, image: MetaTensor, transform: Compose | None = None
    ) -> Iterator[MetaTensor]:
        """Yield the probability of one class after the other, of shape `(1, *size before the transform)`."""
        for probability in probabilities:
            meta, applied = deepcopy((image.meta, image.applied_operations))
            restored = MetaTensor(probability.detach()[None].float(), meta=meta, applied_operations=applied)
            yield self._invert(restored, self.transform if transform is None else transform)

    def _invert(self, volume: MetaTensor, transform: Compose) -> MetaTensor:
        if not any(isinstance(step, InvertibleTransform) for step in transform.flatten().transforms):
            return volume  # MONAI asks for steps with keys
        with allow_missing_keys_mode(transform):
            return transform.inverse({self.orig_keys: volume})[self.orig_keys]


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
        moving, changing = _split(self.transform)
        for key in self.key_iterator(out):
            labels = self._choose(self._restore(out[key], out[self.orig_keys], changing), len(out[key]))
            out[key] = self._invert(labels, moving)
        return out

    def _choose(self, probabilities: Iterator[MetaTensor], num_channels: int) -> MetaTensor:
        """Return the most probable class of each voxel, of shape `(1, H, W, D)`."""
        first = 0 if self.threshold is None else 1  # class of the first channel
        dtype = torch.uint8 if num_channels + first <= np.iinfo(np.uint8).max + 1 else torch.int16
        best: torch.Tensor | None = None
        labels: torch.Tensor | None = None
        for label, restored in enumerate(probabilities, start=first):
            share = restored.as_tensor()
            if best is None or labels is None:
                labels = torch.zeros_like(restored, dtype=dtype)
                best = share if self.threshold is None else torch.full_like(share, self.threshold)
            is_better = share > best
            labels.masked_fill_(is_better, label)
            best = share.where(is_better, best)
        return cast(MetaTensor, labels)


def _split(transform: Compose) -> tuple[Compose, Compose]:
    """Split a preprocessing into what only moves voxels, and all from the first transform on that may change them.

    Labels are moved as they are, so that of the classes' probabilities only the latter is undone.
    """
    steps = transform.transforms
    place = next((index for index, step in enumerate(steps) if not _only_moves(step)), len(steps))
    return Compose(steps[:place]), Compose(steps[place:])


def _only_moves(transform: Any) -> bool:
    if isinstance(transform, Compose):
        return all(map(_only_moves, transform.transforms))
    return isinstance(transform, _MOVING) or not isinstance(transform, InvertibleTransform)
