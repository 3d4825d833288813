"""The dictionary wrapper of the random transforms of this collection."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, RandomizableTransform

__all__ = ["SharedRandomd"]


class SharedRandomd(Randomizable, MapTransform):
    """Apply a random array transform to several keys with a single draw.

    Args:
        keys: items to transform; they have the same spatial shape.
        transform: array transform whose `randomize` takes the spatial shape.
        allow_missing_keys: skip the keys that an item lacks.
    """

    def __init__(
        self, keys: KeysCollection, transform: RandomizableTransform, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SharedRandomd:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        out = dict(data)
        keys = list(self.key_iterator(out))
        if keys:
            self.transform.randomize(out[keys[0]].shape[1:])
        for key in keys:
            out[key] = self.transform(out[key], randomize=False)  # type: ignore[call-arg]
        return out
