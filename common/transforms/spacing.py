"""Resampling to another voxel size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Spacingd

from common.cli import InputError

__all__ = ["IsotropicSpacingd", "VoxelSpacingd"]

_MOST_VOXELS = 4e9  # 16 GB


class VoxelSpacingd(Spacingd):
    """Resample to a voxel size.

    Entries such as `image_path`, which MONAI Label adds, are held back: MONAI 1.6's `Spacingd` takes every key that
    begins with `image_` for the image's metadata and fails on text.

    Args:
        keys: items to resample, of shape `(C, H, W, D)`.
        spacing: edges of a voxel in mm; 0 keeps that of the scan. `None`: nothing is resampled.
        mode: interpolation of each key, `bilinear` or `nearest`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float] | None,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        if spacing is not None and len(spacing) != 3:
            raise InputError(f"spacing must be three lengths in mm, got {list(spacing)}")
        pixdim = [edge or -1 for edge in spacing or (0, 0, 0)]  # MONAI keeps the voxel size where it is not positive
        super().__init__(keys, pixdim=pixdim, mode=mode, allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, MetaTensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        images = {key: data[key] for key in self.key_iterator(dict(data))}
        for image in images.values():
            self._check_size(image)
        return {**data, **super().__call__(images, lazy)}

    def _check_size(self, image: MetaTensor) -> None:
        """Refuse a grid that no memory holds before it is made."""
        edges, shape = np.asarray(image.pixdim), np.array(image.shape[1:])
        wanted = np.asarray(self.spacing_transform.pixdim)
        sizes = np.ceil(shape * edges / np.where(wanted > 0, wanted, edges))
        if np.prod(sizes) > _MOST_VOXELS:
            extent, grid = (" x ".join(f"{size:.4g}" for size in values) for values in (shape * edges, sizes))
            raise InputError(
                f"{image.meta.get('filename_or_obj', 'image')}: resampled scan must have at most {_MOST_VOXELS:.0e} "
                f"voxels, got {grid} for a field of view of {extent} mm; look at its voxel size, or at spacing"
            )


class IsotropicSpacingd(VoxelSpacingd):
    """Resample to cubic voxels, whose edge is `spacing` in mm; see `VoxelSpacingd`."""

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, 3 * (spacing,), mode, allow_missing_keys)
