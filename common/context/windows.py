"""Windows of a CT, several at once.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.cli import InputError
from common.transforms import ClipAndNormalize

__all__ = ["CTWindowsd"]


class CTWindowsd(MapTransform):
    """Show Hounsfield units through several windows, one for each channel, each of mean 0 and standard deviation 1.

    Mean and deviation are those of the whole volume after clipping. A constant channel becomes 0.

    Args:
        keys: images of shape `(1, H, W, D)` in HU; they become ones of shape `(len(windows), H, W, D)`.
        windows: width and level of each window in HU.
        allow_missing_keys: skip the keys that an item lacks.
    """

    def __init__(
        self, keys: KeysCollection, windows: Sequence[Sequence[float]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not windows or any(len(window) != 2 or not window[0] > 0 for window in windows):
            raise InputError(f"windows must be pairs of a positive width and a level in HU, got {list(windows)}")
        self.windows = [ClipAndNormalize((level - width / 2, level + width / 2)) for width, level in windows]

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        out = dict(data)
        for key in self.key_iterator(out):
            if out[key].shape[0] != 1:
                raise InputError(
                    f"{key} must have one channel of Hounsfield units, got {out[key].shape[0]} "
                    "channels; use mr.yaml for other images"
                )
            out[key] = torch.cat([window(out[key]) for window in self.windows])
        return out
