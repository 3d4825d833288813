"""Resampling to another voxel size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Spacingd

from common.cli import InputError
from common.data import IGNORED

from .separable import SeparableResample

__all__ = ["IsotropicSpacingd", "VoxelSpacingd"]

_MOST_VOXELS = 4e9  # 16 GB


class VoxelSpacingd(Spacingd):
    """Resample to a voxel size.

    No labeled slice or stroke falls between larger voxels: where the nearest voxel of a label is not labeled, the
    nearest one counts that is, and whose center lies within the new voxel.

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
        self.spacing_transform.sp_resample = SeparableResample()

    def __call__(self, data: Mapping[Hashable, MetaTensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        images = {key: data[key] for key in self.key_iterator(dict(data))}
        for image in images.values():
            self._check_size(image)
        resampled = super().__call__(images, lazy)
        for key, mode in self.key_iterator(resampled, self.mode):
            if mode == "nearest":
                resampled[key] = _keep_labeled(resampled[key], images[key])
        return {**data, **resampled}

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


def _keep_labeled(label: MetaTensor, source: MetaTensor) -> MetaTensor:
    """Return a resampled label, of shape `(1 or 2, *spatial_size)`, with what fell between its voxels in the source."""
    is_open = label[0].numpy() == IGNORED
    if not is_open.any():
        return label
    to_label = np.linalg.inv(label.affine.numpy()) @ source.affine.numpy()  # their axes are parallel
    centers = [to_label[axis, axis] * np.arange(size) + to_label[axis, 3] for axis, size in enumerate(source.shape[1:])]
    places = [_round_up(axis).clip(0, size - 1) for axis, size in zip(centers, is_open.shape, strict=True)]
    lost = np.nonzero(is_open[np.ix_(*places)] & (source[0].numpy() != IGNORED))
    offsets = [
        (center - place)[index] * edge
        for center, place, index, edge in zip(centers, places, lost, label.pixdim.tolist(), strict=True)
    ]
    farthest_first = np.argsort(-np.square(offsets).sum(axis=0), kind="stable")  # of a voxel's, the last one stays
    chosen = [index[farthest_first] for index in lost]
    target = [place[index] for place, index in zip(places, chosen, strict=True)]
    kept = label.clone()
    kept.numpy()[:, *target] = source.numpy()[:, *chosen]
    return kept


def _round_up(values: np.ndarray) -> np.ndarray:
    """Return the nearest whole numbers, of halves the next: not the even one, which would be that of two of them."""
    return np.floor(values + (0.5 + 1e-6)).astype(int)


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
