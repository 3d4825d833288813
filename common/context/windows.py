"""A CT shown through several windows at once.

Source: J. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*, arXiv
2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from common.cli import InputError
from common.transforms import ClipAndNormalize

__all__ = ["CTWindows", "CTWindowsd"]

_WINDOWS = ((400, 50), (1800, 40), (500, 50))  # those of the paper


class CTWindows(Transform):
    """Show Hounsfield units through several windows, one for each channel, each of mean 0 and standard deviation 1.

    Mean and deviation are those of the whole volume after clipping. A constant channel becomes 0.

    Args:
        windows: width and level of each window in HU.

    Raises:
        ValueError: when there are no windows, or the width of one is not positive.
    """

    def __init__(self, windows: Sequence[Sequence[float]] = _WINDOWS) -> None:
        if not windows or any(len(window) != 2 or not window[0] > 0 for window in windows):
            raise InputError(f"windows must be pairs of a positive width and a level in HU, got {list(windows)}")
        self.windows = [ClipAndNormalize((level - width / 2, level + width / 2)) for width, level in windows]

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Turn an image of shape `(1, H, W, D)` in HU into one of shape `(len(windows), H, W, D)`.

        Raises:
            ValueError: when the image has several channels.
        """
        if img.shape[0] != 1:
            raise InputError(f"img must have one channel of Hounsfield units, got {img.shape[0]} channels")
        return torch.cat([window(img) for window in self.windows])


class CTWindowsd(MapTransform):
    """Dictionary version of `CTWindows`."""

    def __init__(
        self,
        keys: KeysCollection,
        windows: Sequence[Sequence[float]] = _WINDOWS,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CTWindows(windows)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out
