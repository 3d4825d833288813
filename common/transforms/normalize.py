"""Intensity normalization: clipping, then z-score or a fixed range.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.cli import InputError, check_choice

__all__ = ["ClipAndNormalize", "ClipAndNormalized"]


class ClipAndNormalize:
    """Clip intensities, then bring them to a common scale.

    Args:
        clip: lower and upper intensity.
        method: `zscore` gives each channel of each image mean 0 and standard deviation 1 (the paper's "method 2", the
            one it chose); `range` maps the clip values to -3 and 3 ("method 1", for which `clip` is [-155, 295] HU). A
            constant image becomes 0 under `zscore`.
    """

    def __init__(self, clip: Sequence[float], method: str = "zscore") -> None:
        check_choice("method", method, ("zscore", "range"))
        if len(clip) != 2 or not clip[0] < clip[1]:
            raise InputError(f"clip must be two increasing intensities, got {list(clip)}")
        self.low, self.high = clip
        self.method = method

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return the normalized image of shape `(C, H, W, D)`."""
        clipped = img.float().clamp(self.low, self.high)
        if self.method == "range":
            return (clipped - self.low) * (6 / (self.high - self.low)) - 3
        spatial = tuple(range(1, img.ndim))
        mean, std = clipped.mean(spatial, keepdim=True), clipped.std(spatial, keepdim=True, correction=0)
        low, high = clipped.amin(spatial, keepdim=True), clipped.amax(spatial, keepdim=True)
        is_constant = low == high  # std is then not exact
        return (clipped - mean) / torch.where(is_constant, torch.inf, std)


class ClipAndNormalized(MapTransform):
    """Dictionary version of `ClipAndNormalize`."""

    def __init__(
        self, keys: KeysCollection, clip: Sequence[float], method: str = "zscore", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ClipAndNormalize(clip, method)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return {**data, **{key: self.transform(data[key]) for key in self.key_iterator(data)}}
