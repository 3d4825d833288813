"""Windows of a CT, several at once.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from common.cli import InputError
from common.data import is_ct
from common.transforms import ClipAndNormalize

__all__ = ["CTWindowsd"]


class CTWindowsd(MapTransform):
    """Show Hounsfield units through several windows, one for each channel, each of mean 0 and standard deviation 1.

    Mean and deviation are those of the whole volume after clipping. A constant channel becomes 0. Of a scan with
    several channels, each CT becomes one channel for each window; any other, which has no Hounsfield units, stays one
    channel and is normalized as it is. They keep their order.

    Args:
        keys: images of shape `(len(modality), H, W, D)`, a CT in HU; they become ones of shape `(num_channels, H, W,
            D)`.
        windows: width and level of each window in HU; None: no channel is a CT, and each is normalized as it is.
        modality: name of each channel of a scan; one that begins with CT, or is empty, or is the only one, is a CT.
        allow_missing_keys: skip the keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        windows: Sequence[Sequence[float]] | None,
        modality: Sequence[str] = ("",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if windows is not None and (not windows or any(len(window) != 2 or not window[0] > 0 for window in windows)):
            raise InputError(f"windows must be pairs of a positive width and a level in HU, got {list(windows)}")
        of_others = [ClipAndNormalize((-math.inf, math.inf))]
        of_ct = of_others
        if windows is not None:
            of_ct = [ClipAndNormalize((level - width / 2, level + width / 2)) for width, level in windows]
        is_alone = len(modality) == 1
        self.views = [of_ct if is_alone or not name or is_ct(name) else of_others for name in modality]

    @property
    def num_channels(self) -> int:
        """Number of channels of the images that come out."""
        return sum(map(len, self.views))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            if len(image) != len(self.views):
                count = f"{len(self.views)} channel{'' if len(self.views) == 1 else 's'}"
                raise InputError(
                    f"{key} must have {count}, as modality in dataset.json names them, got "
                    f"{len(image)}; use mr.yaml where none is a CT"
                )
            out[key] = torch.cat(
                [view(image[index : index + 1]) for index, views in enumerate(self.views) for view in views]
            )
        return out
