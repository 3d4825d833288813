"""Augmentation of intensities that all channels of a scan share, although each has intensities of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, RandomizableTransform, Transform

__all__ = ["EachChannel", "EachChanneld"]


class EachChannel(Randomizable, Transform):
    """Random transform of intensities that is drawn once, and applied to each channel by itself.

    It is for transforms that go by the extremes of an image: of several channels at once, they would be those of one.

    Args:
        transform: such as MONAI's `RandAdjustContrast`, whose draw does not depend on the image.
    """

    def __init__(self, transform: RandomizableTransform) -> None:
        self.transform: Any = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> EachChannel:
        super().set_random_state(seed, state)
        self.transform.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        self.transform.randomize(data)

    def __call__(self, img: torch.Tensor, randomize: bool = True) -> torch.Tensor:
        """Return the image of shape `(C, H, W, D)`."""
        if randomize:
            self.randomize()
        return torch.cat([self.transform(channel, randomize=False) for channel in img.split(1)])


class EachChanneld(MapTransform, Randomizable):
    """Dictionary version of `EachChannel`; all `keys` share the draw."""

    def __init__(
        self, keys: KeysCollection, transform: RandomizableTransform, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = EachChannel(transform)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> EachChanneld:
        super().set_random_state(seed, state)
        self.transform.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        self.transform.randomize()
        return {**data, **{key: self.transform(data[key], randomize=False) for key in self.key_iterator(dict(data))}}
