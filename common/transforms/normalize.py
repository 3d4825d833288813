"""Intensity normalization: clipping, then z-score or a fixed range.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.cli import InputError, check_choice

__all__ = ["ClipAndNormalize", "ClipAndNormalized"]


class ClipAndNormalize:
    """Clip intensities, then bring them to a common scale.

    Args:
        clip: lower and upper intensity, of every channel alike; or a list of such pairs, one for each channel.
        method: `zscore` gives each channel of each image mean 0 and standard deviation 1 (the paper's "method 2", the
            one it chose); `range` maps the clip values to -3 and 3 ("method 1", for which `clip` is [-155, 295] HU). A
            constant image becomes 0 under `zscore`.
    """

    def __init__(self, clip: Sequence[Any], method: str = "zscore") -> None:
        check_choice("method", method, ("zscore", "range"))
        pairs = [*clip] if clip and isinstance(clip[0], Sequence) else [clip]
        for pair in pairs:
            if len(pair) != 2 or not pair[0] < pair[1]:
                raise InputError(f"clip must be two increasing intensities, got {list(pair)}")
        self.pairs: list[tuple[float, float]] = [(low, high) for low, high in pairs]
        self.method = method

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return the normalized image of shape `(C, H, W, D)`."""
        if len(self.pairs) == 1:
            return self._normalize(img, *self.pairs[0])
        if len(self.pairs) != len(img):
            raise InputError(f"clip must be one pair for each of {len(img)} channels, got {len(self.pairs)}")
        return torch.cat([self._normalize(img[i : i + 1], *pair) for i, pair in enumerate(self.pairs)])

    def _normalize(self, img: torch.Tensor, low_clip: float, high_clip: float) -> torch.Tensor:
        clipped = img.float().clamp(low_clip, high_clip)
        if self.method == "range":
            return (clipped - low_clip) * (6 / (high_clip - low_clip)) - 3
        spatial = tuple(range(1, img.ndim))
        mean, std = clipped.mean(spatial, keepdim=True), clipped.std(spatial, keepdim=True, correction=0)
        low, high = clipped.amin(spatial, keepdim=True), clipped.amax(spatial, keepdim=True)
        is_constant = low == high  # std is then not exact
        return (clipped - mean) / torch.where(is_constant, torch.inf, std)


class ClipAndNormalized(MapTransform):
    """Dictionary version of `ClipAndNormalize`."""

    def __init__(
        self, keys: KeysCollection, clip: Sequence[Any], method: str = "zscore", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ClipAndNormalize(clip, method)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return {**data, **{key: self.transform(data[key]) for key in self.key_iterator(data)}}
