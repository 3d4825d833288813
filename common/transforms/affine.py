"""Random shifts, rotations, scalings, mirroring and contrasts: what the augmentations of patches and slices share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import create_rotate

from common.data import exchange_classes, mirrored_classes

__all__ = ["Movement", "AffineAugmentation", "read_points", "regular_grid"]


class Movement(NamedTuple):
    """Affine movement of the points of a patch.

    Attributes:
        matrix: of shape `(3, 3)`, applied to a point seen from the center.
        center: of the patch, in voxels.
        moved: where the center goes.
        is_mirrored: the first axis runs the other way.
    """

    matrix: torch.Tensor
    center: torch.Tensor
    moved: torch.Tensor
    is_mirrored: bool

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Return where points of shape `(..., 3)` go."""
        return (points - self.center) @ self.matrix.T + self.moved


class AffineAugmentation:
    """Base of random augmentations that read a patch through an affine movement, and change its contrast.

    Args:
        shift_range: largest shift along each axis in voxels.
        rotate_range: largest angle about each axis in degrees.
        log_scale_range: largest logarithm of the scale.
        mirror: names of the classes by their value: where they tell sides, half of the patches show left and right in
            each other's place, and the classes follow (see `common.data.mirrored_classes`). The first axis runs from
            side to side. None: no patch is mirrored.
        log_contrast_range: largest logarithm of the factor of the intensities, of each channel its own.
        brightness_range: largest number that is added to them, those of a normalized scan, likewise.
    """

    def __init__(
        self,
        shift_range: float = 10.0,
        rotate_range: float = 15.0,
        log_scale_range: float = 0.2,
        mirror: Mapping[int, str] | None = None,
        log_contrast_range: float = 0.2,
        brightness_range: float = 0.2,
    ) -> None:
        self.shift_range = shift_range
        self.rotate_range = rotate_range
        self.log_scale_range = log_scale_range
        self.mirrored = mirrored_classes(mirror) if mirror is not None else {}
        self.log_contrast_range = log_contrast_range
        self.brightness_range = brightness_range

    def draw(
        self, rng: np.random.Generator, start: Sequence[float], size: Sequence[int], can_mirror: bool = True
    ) -> Movement:
        """Draw a movement of the patch of `size` voxels that begins at `start`; along an axis of length 1 it stays.

        Args:
            rng: source of all chance.
            start: first voxel.
            size: of the patch, along three axes.
            can_mirror: whether the first axis runs from side to side.
        """
        is_flat = np.array(size) == 1
        scale = math.exp(rng.uniform(-self.log_scale_range, self.log_scale_range))
        limits = math.radians(self.rotate_range) * np.array([is_flat.sum() <= is_flat[axis] for axis in range(3)])
        x, y, z = rng.uniform(-1, 1, 3) * limits
        matrix = torch.as_tensor(scale * create_rotate(3, (x, -y, z))[:3, :3], dtype=torch.float32)
        is_mirrored = can_mirror and bool(self.mirrored) and rng.random() < 0.5
        if is_mirrored:
            matrix = matrix * torch.tensor((-1.0, 1.0, 1.0))
        center = torch.tensor([first + (edge - 1) / 2 for first, edge in zip(start, size, strict=True)])
        shift = rng.uniform(-self.shift_range, self.shift_range, 3) * ~is_flat
        return Movement(matrix, center, center + torch.as_tensor(shift, dtype=torch.float32), is_mirrored)

    def vary(self, patches: Sequence[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
        """Return patches of shape `(C, ...)` of one place with another contrast and brightness, all alike."""
        ranges = np.array([(self.log_contrast_range,), (self.brightness_range,)])
        log_contrast, brightness = torch.as_tensor(rng.uniform(-ranges, ranges, (2, len(patches[0])))).float()
        shape = (-1, *[1] * (patches[0].ndim - 1))
        return [log_contrast.exp().view(shape) * patch + brightness.view(shape) for patch in patches]

    def read_label(self, label: torch.Tensor, points: torch.Tensor, is_mirrored: bool) -> torch.Tensor:
        """Return the classes of a label of shape `(1 or 2, H, W, D)` at points; beyond the border it is background."""
        read = read_points(label.float(), points, "nearest").to(label.dtype)
        return exchange_classes(read, self.mirrored) if is_mirrored else read


def regular_grid(start: Sequence[float], size: Sequence[int], step: int = 1) -> torch.Tensor:
    """Return the voxel coordinates of a regular grid, of shape `(*size, 3)`."""
    axes = [first + step * torch.arange(length) for first, length in zip(start, size, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()


def read_points(volume: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Return the values of a volume of shape `(C, H, W, D)` at voxel coordinates; beyond the border it is zero.

    Args:
        volume: of floating-point numbers.
        points: of shape `(h, w, d, 3)`.
        mode: `bilinear`, or `nearest`.
    """
    size = torch.tensor(volume.shape[1:], dtype=torch.float32)
    normalized = (2 * points + 1) / size - 1  # as grid_sample counts without align_corners
    patch = F.grid_sample(volume[None], normalized[None].flip(-1), mode=mode, padding_mode="zeros", align_corners=False)
    return patch[0]
