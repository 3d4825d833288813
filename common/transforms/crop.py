"""Crops: of the empty space around the patient, and of boxes that may reach beyond a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import CropForegroundd

from common.cli import InputError
from common.data import StoredArray, body_channel

__all__ = ["CropBodyd", "padded_crop"]


class CropBodyd(CropForegroundd):
    """Crop to the bounding box of the voxels above air.

    Zero is water in Hounsfield units, so cropping "to non-zero" would keep the air and cut into soft tissue. Of several
    channels a single one decides, since the units of the others may be any: see `body_channel`.

    Args:
        keys: items to crop, of shape `(C, H, W, D)`.
        source_key: the image whose voxels decide.
        air: intensity at or below which a voxel lies outside the body; `None` crops nothing.
        modality: name of each channel of the image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source_key: str = "image",
        air: float | None = -500.0,
        allow_missing_keys: bool = False,
        modality: Sequence[str] = ("",),
    ) -> None:
        self.channel = body_channel(modality)
        super().__init__(
            keys,
            source_key,
            select_fn=self._is_body,
            channel_indices=[self.channel],
            allow_missing_keys=allow_missing_keys,
        )
        self.air = air

    def _is_body(self, image: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(image, dtype=torch.bool) if self.air is None else image > self.air

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        image = data[self.source_key][self.channel]
        if not self._is_body(image).any():
            name = getattr(image, "meta", {}).get("filename_or_obj", "image")
            raise InputError(
                f"{name}: image must have voxels above air ({self.air}), got at most {float(image.max()):g}; "
                "is it in other units? set air to null to skip the crop"
            )
        return super().__call__(data, lazy)


def padded_crop(
    volume: torch.Tensor | StoredArray,
    start: Sequence[int],
    size: Sequence[int],
    fill_value: torch.Tensor | float = 0,
) -> torch.Tensor:
    """Return a copy of a box of a volume or an image, of shape `(C, *size)`.

    Args:
        volume: tensor of shape `(C, *spatial_size)`, or one in a store.
        start: first voxel of the box along each spatial axis; it may lie outside.
        size: edges of the box in voxels.
        fill_value: what lies beyond the border, one number or one for each channel.
    """
    fill = torch.as_tensor(fill_value, dtype=volume.dtype, device=volume.device).view(-1, *[1] * len(size))
    box = fill.expand(len(volume), *size).clone()
    inside, outside = [], []
    for first, length, available in zip(start, size, volume.shape[1:], strict=True):
        low = min(max(first, 0), available)
        high = max(min(first + length, available), low)
        inside.append(slice(low, high))
        outside.append(slice(low - first, high - first))
    if all(part.start < part.stop for part in inside):
        box[(slice(None), *outside)] = volume[(slice(None), *inside)]
    return box
