"""Cropping of the empty space around the patient."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import CropForegroundd

__all__ = ["CropBodyd"]


class CropBodyd(CropForegroundd):
    """Crop to the bounding box of the voxels above air.

    Zero is water in Hounsfield units, so cropping "to non-zero" would keep the air and cut into soft tissue.

    Args:
        keys: items to crop, of shape `(C, H, W, D)`.
        source_key: the image whose voxels decide.
        air: intensity at or below which a voxel lies outside the body; `None` crops nothing.
        allow_missing_keys: skip the keys that an item lacks.

    Raises:
        ValueError: when no voxel is above air.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source_key: str = "image",
        air: float | None = -500.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, source_key, select_fn=self._is_body, allow_missing_keys=allow_missing_keys)
        self.air = air

    def _is_body(self, image: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(image, dtype=torch.bool) if self.air is None else image > self.air

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        image = data[self.source_key]
        if not self._is_body(image).any():
            name = getattr(image, "meta", {}).get("filename_or_obj", "image")
            raise ValueError(
                f"{name}: image must have voxels above air ({self.air}), got at most {float(image.max()):g}; "
                "is it in other units? set air to null to skip the crop"
            )
        return super().__call__(data, lazy)
