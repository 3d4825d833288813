"""Intensity normalization: clipping, then z-score or a fixed range.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.cli import InputError, check_choice
from common.data import intensity_range

__all__ = ["ClipAndNormalize", "ClipAndNormalized"]


class ClipAndNormalize:
    """Clip intensities, then bring them to a common scale.

    Args:
        clip: lower and upper intensity, of every channel alike; or a list of such pairs, one for each channel. None in
            place of a pair, or of all: the 0.5 and 99.5 percentiles of the channel of each image.
        method: `zscore` gives each channel of each image mean 0 and standard deviation 1 (the paper's "method 2", the
            one it chose); `range` maps the clip values to -3 and 3 ("method 1", for which `clip` is [-155, 295] HU). A
            constant image becomes 0 under `zscore`.
    """

    def __init__(self, clip: Sequence[Any] | None, method: str = "zscore") -> None:
        check_choice("method", method, ("zscore", "range"))
        pairs = [*clip] if clip and isinstance(clip[0], Sequence | None) else [clip]
        for pair in pairs:
            if pair is not None and (len(pair) != 2 or not pair[0] < pair[1]):
                raise InputError(f"clip must be two increasing intensities, got {list(pair)}")
        self.pairs: list[Sequence[float] | None] = pairs
        self.method = method

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return the normalized image of shape `(C, H, W, D)`."""
        if len(self.pairs) == 1 and self.pairs[0] is not None:
            return self._normalize(img, *self.pairs[0])
        if len(self.pairs) == 1:
            return torch.cat([self._normalize(channel[None], *_own_range(channel)) for channel in img])
        if len(self.pairs) != len(img):
            raise InputError(f"clip must be one pair for each of {len(img)} channels, got {len(self.pairs)}")
        return torch.cat(
            [self._normalize(img[i : i + 1], *(pair or _own_range(img[i]))) for i, pair in enumerate(self.pairs)]
        )

    def _normalize(self, img: torch.Tensor, low_clip: float, high_clip: float) -> torch.Tensor:
        clipped = img.float().clamp(low_clip, high_clip)
        if self.method == "range":
            return (clipped - low_clip) * (6 / max(high_clip - low_clip, 1e-30)) - 3
        spatial = tuple(range(1, img.ndim))
        mean, std = clipped.mean(spatial, keepdim=True), clipped.std(spatial, keepdim=True, correction=0)
        low, high = clipped.amin(spatial, keepdim=True), clipped.amax(spatial, keepdim=True)
        is_constant = low == high  # std is then not exact
        return (clipped - mean) / torch.where(is_constant, torch.inf, std)


def _own_range(channel: torch.Tensor) -> tuple[float, float]:
    return intensity_range(np.asarray(channel.cpu()))


class ClipAndNormalized(MapTransform):
    """Dictionary version of `ClipAndNormalize`."""

    def __init__(
        self, keys: KeysCollection, clip: Sequence[Any] | None, method: str = "zscore", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ClipAndNormalize(clip, method)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return {**data, **{key: self.transform(data[key]) for key in self.key_iterator(data)}}
