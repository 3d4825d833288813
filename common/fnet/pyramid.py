"""Pyramid of a volume: its views at several resolutions, the input of F-Net.

Source: T. Brosch and A. Saalbach, *Foveal fully convolutional nets for multi-organ segmentation*, SPIE Medical
Imaging 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from common.cli import InputError
from common.data import Strided

__all__ = ["Pyramid", "average_whole", "filter_weights", "spatial"]


def spatial(slices: Iterable[slice]) -> tuple[Any, ...]:
    """Return the index of a box of a tensor of shape `(..., H, W, D)`."""
    return (..., *slices)


class Pyramid:
    """Pyramid of a volume averaged over cubes of 1, 2, 4, ... voxels; patches of any level are strided views of it.

    Entry `x` of level `r` is the mean of the `2^r` voxels that begin at voxel `x`, along each axis. A stride of `2^r`
    through it is therefore the block average of the volume, for a block grid that may begin at any voxel.

    Args:
        volume: tensor of shape `(..., H, W, D)`.
        num_levels: number of resolutions, the volume's own included.
        filter: weights of the mean: `box` (equal, the block average), `linear` (a triangle, twice as wide) or
            `gaussian` (a standard deviation of half the block, four blocks wide).
        padding_value: intensity beyond the border; if not given, the smallest one of each channel, which is air.
        phases: for each level the voxel (modulo `2^r`) at which its block grid begins. The level is then kept at a
            stride of `2^r` only: 8, 64, ... times less memory. Windows must start on that grid.

    Attributes:
        is_stored: a store of preprocessed scans may hold it, see `common.data.store`.
    """

    is_stored: ClassVar = True

    def __init__(
        self,
        volume: torch.Tensor,
        num_levels: int,
        filter: str = "box",
        padding_value: float | torch.Tensor | None = None,
        phases: Sequence[int] | None = None,
    ) -> None:
        self.spatial_size = tuple(volume.shape[-3:])
        fill = volume.amin(dim=(-3, -2, -1), keepdim=True) if padding_value is None else torch.as_tensor(padding_value)
        self.fill = fill.to(volume)  # of shape `(..., 1, 1, 1)`
        self.steps: list[int] = []  # voxels between two entries of a level
        self.origins: list[int] = []  # voxel of the first entry of a level, the same on each axis
        self.levels: list[torch.Tensor] = []
        for level in range(num_levels):
            weights = filter_weights(filter, level)
            overhang = (len(weights) - 2**level) // 2  # voxels by which the filter exceeds its block, on each side
            origin = 1 - 2**level - overhang
            step = 1
            if phases is not None:
                step = 2**level
                origin -= (origin - phases[level]) % step
            self.steps.append(step)
            self.origins.append(origin)
            before = overhang - origin
            after = 2**level - 1 + 2 * overhang
            self.levels.append(_smooth(_pad(volume, before, after, self.fill), weights.to(volume), step))

    def __getstate__(self) -> dict[str, Any]:
        """Return what is stored: each level in the strides in which windows read it."""
        hops = (2**level // step for level, step in enumerate(self.steps))
        return {**vars(self), "levels": [Strided(*pair) for pair in zip(self.levels, hops, strict=True)]}

    def window(self, level: int, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
        """Return a block-averaged patch.

        Args:
            level: resolution; the patch has voxels of `2^level` voxels of the volume.
            start: first voxel of the patch in the volume; may lie outside.
            size: patch size in voxels of this level.

        Returns:
            Tensor of shape `(..., *size)`, a view where the patch lies inside the volume.
        """
        stride, step, origin, entries = 2**level, self.steps[level], self.origins[level], self.levels[level]
        if any((first - origin) % step for first in start):
            raise InputError(f"start must lie on the grid {origin} + {step} i of level {level}, got {tuple(start)}")
        inside, outside = [], []
        for first, length, available in zip(start, size, entries.shape[-3:], strict=True):
            position, hop = (first - origin) // step, stride // step
            skip = max(0, math.ceil(-position / hop))
            count = max(0, min(length, math.ceil((available - position) / hop)) - skip)
            inside.append(slice(position + skip * hop, position + (skip + count) * hop, hop) if count else slice(0, 0))
            outside.append(slice(skip, skip + count))
        view = entries[spatial(inside)]
        if view.shape[-3:] == tuple(size):
            return view
        patch = self.fill.expand(*entries.shape[:-3], *size).clone()
        patch[spatial(outside)] = view
        return patch


def filter_weights(filter: str, level: int) -> torch.Tensor:
    """Return the weights of the mean along one axis, in float64; their number is even but at level 0, with one."""
    block = 2**level
    if level == 0:
        return torch.ones(1, dtype=torch.float64)
    if filter == "box":
        return torch.full((block,), 1 / block, dtype=torch.float64)
    distance = (torch.arange(-2 * block, 2 * block).double() + 0.5) / block  # from the block's center, in blocks
    if filter == "linear":
        weights = (1 - distance.abs()).clamp(min=0)[block:-block]
    elif filter == "gaussian":
        weights = torch.exp(-0.5 * (distance / 0.5) ** 2)
    else:
        raise InputError(f"filter must be box, linear or gaussian, got {filter!r}")
    return weights / weights.sum()


def _pad(volume: torch.Tensor, before: int, after: int, fill: torch.Tensor) -> torch.Tensor:
    if before == after == 0:
        return volume
    size = [length + before + after for length in volume.shape[-3:]]
    padded = fill.expand(*volume.shape[:-3], *size).clone()
    padded[spatial(slice(before, before + length) for length in volume.shape[-3:])] = volume
    return padded


def average_whole(
    volume: torch.Tensor,
    weights: torch.Tensor,
    padding_value: float | None,
    margin: int,
    size: list[int],
    block: int,
) -> torch.Tensor:
    """Return the window of a whole volume that `Pyramid` gives, as TorchScript can compile it.

    Args:
        volume: tensor of shape `(B, C, H, W, D)`.
        weights: of the mean along one axis, see `filter_weights`.
        padding_value: see `Pyramid`.
        margin: voxels by which the window begins before the volume, and at least by which it ends behind it.
        size: of the window in blocks.
        block: edge of a block in voxels.
    """
    fill = volume.amin(dim=(2, 3, 4), keepdim=True)
    if padding_value is not None:
        fill = torch.full_like(fill, padding_value)
    overhang = (weights.shape[0] - block) // 2  # voxels by which the filter exceeds its block, on each side
    edges = [block * count + 2 * overhang for count in size]
    padded = fill.expand(volume.shape[0], volume.shape[1], edges[0], edges[1], edges[2]).clone()
    low, (height, width, depth) = margin + overhang, volume.shape[2:]
    padded[:, :, low : low + height, low : low + width, low : low + depth] = volume
    return _smooth(padded, weights.to(volume), block)


def _smooth(volume: torch.Tensor, weights: torch.Tensor, step: int) -> torch.Tensor:
    """Apply the filter along the three axes, keeping every `step`-th entry."""
    if weights.shape[0] == 1:
        return volume
    if torch.jit.is_scripting():  # it compiles no `autocast` of any device, and leaves out the other branch
        return _convolve(volume, weights, step)
    else:
        with torch.autocast(volume.device.type, enabled=False):  # averages as exact as those that training cuts from
            return _convolve(volume, weights, step)


def _convolve(volume: torch.Tensor, weights: torch.Tensor, step: int) -> torch.Tensor:
    smoothed = volume.reshape(-1, 1, volume.shape[-3], volume.shape[-2], volume.shape[-1])
    for axis in range(3):
        shape, stride = [1, 1, 1, 1, 1], [1, 1, 1]
        shape[2 + axis], stride[axis] = weights.shape[0], step
        smoothed = F.conv3d(smoothed, weights.view(shape), stride=stride)
    return smoothed.reshape(list(volume.shape[:-3]) + list(smoothed.shape[-3:]))
