"""Resampling along one axis after the other, of a volume whose new voxels lie parallel to the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.config import DtypeLike
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL
from monai.transforms import SpatialResample, TraceableTransform
from monai.utils import TraceKeys
from monai.utils.type_conversion import get_torch_dtype_from_string

__all__ = ["SeparableResample", "interpolate_axes"]

_MOST_SHEAR = 1e-4  # voxels, by which an axis may leave its direction over its length: what rounding makes of an affine

_LINEAR = {"mode": "bilinear", "padding_mode": "border", "align_corners": False, "lazy": False}

_NUM_VALUES = 2**18  # interpolated at once: 1 MB


def interpolate_axes(volume: torch.Tensor, centers: Sequence[np.ndarray]) -> torch.Tensor:
    """Return linear interpolations between the voxels of a volume, at the places of a grid along its axes.

    Args:
        volume: of shape `(C, H, W, D)`.
        centers: places along each of the three axes, in voxels from the first one; beyond the first and the last one,
            their value holds.

    Returns:
        Volume in single precision, of shape `(C, len(centers[0]), len(centers[1]), len(centers[2]))`.
    """
    out = volume.float()
    shrinks = [len(places) <= size for places, size in zip(centers, volume.shape[1:], strict=True)]
    order = [axis for axis in range(3) if shrinks[axis]] + [axis for axis in (2, 1, 0) if not shrinks[axis]]
    for axis in order:  # the smallest volumes first, and long runs of memory in the large ones
        out = _interpolate(out, 1 + axis, centers[axis])
    return out


def _interpolate(volume: torch.Tensor, dim: int, places: np.ndarray) -> torch.Tensor:
    last = volume.shape[dim] - 1
    inside = places.clip(0, last)
    below = np.floor(inside).clip(0, max(last - 1, 0))
    first = torch.from_numpy(below.astype(np.int64)).to(volume.device)
    share = torch.from_numpy((inside - below).astype(np.float32)).to(volume.device)
    share = share.reshape(-1, *[1] * (volume.ndim - 1 - dim))
    second = (first + 1).clamp(max=last)
    out = volume.new_empty((*volume.shape[:dim], len(places), *volume.shape[dim + 1 :]))
    num_places = max(_NUM_VALUES * (last + 1) // volume.numel(), 1)
    for start in range(0, len(places), num_places):  # parts that a cache holds, without a second large volume
        part = slice(start, start + num_places)
        low, high = (volume.index_select(dim, indices[part]) for indices in (first, second))
        torch.lerp(low, high, share[part], out=out[(slice(None),) * dim + (part,)])
    return out


class SeparableResample(SpatialResample):
    """Resample like MONAI's `SpatialResample`, along one axis after the other where the new voxels are parallel.

    Both give the same but for rounding. MONAI computes the place of each new voxel, three numbers in double precision,
    which took most of the time of a large scan's inference. What is not parallel, or not a linear interpolation with
    the border's values outside, is left to it.
    """

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Sequence[int] | torch.Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: DtypeLike = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        given = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners, "lazy": lazy}
        options = {name: getattr(self, name) if value is None else value for name, value in given.items()}
        if isinstance(img, MetaTensor) and options == _LINEAR:
            size = _sizes(spatial_size)
            if dst_affine is not None and len(size) == img.ndim - 1 == 3 and not img.pending_operations:
                matrix = np.linalg.solve(_to_numpy(img.affine), _to_numpy(dst_affine))
                if _is_parallel(matrix, size) and not _is_same(img, dst_affine, matrix, size):
                    return self._resample(img, matrix, size)
        return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)

    def _resample(self, img: MetaTensor, matrix: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        """Return the volume with new voxels, and note in its metadata how to come back, as MONAI does."""
        meta = TraceableTransform.track_transform_meta(
            img,
            sp_size=torch.tensor(size),
            affine=torch.from_numpy(matrix),
            extra_info={
                "dtype": "float64",
                "mode": "bilinear",
                "padding_mode": "border",
                "align_corners": False,
                "src_affine": img.affine.to(torch.float64),
            },
            orig_size=img.shape[1:],
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        centers = [matrix[axis, axis] * np.arange(edge) + matrix[axis, 3] for axis, edge in enumerate(size)]
        return MetaTensor(interpolate_axes(img.as_tensor(), centers)).copy_meta_from(meta)

    def inverse(
        self, data: torch.Tensor
    ) -> torch.Tensor:  # MONAI's calls SpatialResample, and not what derives from it
        transform = self.pop_transform(data)
        options: dict[str, Any] = dict(transform[TraceKeys.EXTRA_INFO])
        options["dtype"] = get_torch_dtype_from_string(options["dtype"])
        options["dst_affine"] = options.pop("src_affine")
        options["spatial_size"] = transform[TraceKeys.ORIG_SIZE]
        if options["align_corners"] == TraceKeys.NONE:
            options["align_corners"] = False
        with self.trace_transform(False):
            return self(data, **options)


def _sizes(spatial_size: Any) -> list[int]:
    """Return the edges of a grid, if they are told."""
    return [] if spatial_size is None or isinstance(spatial_size, int) else [int(edge) for edge in spatial_size]


def _to_numpy(affine: Any) -> np.ndarray:
    return np.asarray(affine, dtype=np.float64)


def _is_parallel(matrix: np.ndarray, size: Sequence[int]) -> bool:
    """Tell whether new axes have the directions of the old ones."""
    shear = matrix[:3, :3] - np.diag(matrix.diagonal()[:3])
    return bool((np.abs(shear) @ size < _MOST_SHEAR).all())


def _is_same(img: MetaTensor, affine: Any, matrix: np.ndarray, size: Sequence[int]) -> bool:
    """Tell whether a grid is that of the volume to MONAI, which then keeps it as it is."""
    pairs = ((matrix, np.eye(4)), (_to_numpy(img.affine), _to_numpy(affine)))
    return size == list(img.shape[1:]) and any(np.allclose(old, new, atol=AFFINE_TOL) for old, new in pairs)
