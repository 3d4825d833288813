"""Descriptors of slabs that overlap: they share their planes, and the first convolution and pooling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from .networks import PlanarDescriptor
from .pairs import slice_starts
from .slabs import slab_lattice

__all__ = ["describe_slabs"]


def describe_slabs(
    network: PlanarDescriptor,
    volume: torch.Tensor,
    centers: torch.Tensor,
    axis: int,
    slab: tuple[float, float, str, str],
    batch_size: int,
) -> torch.Tensor | None:
    """Describe the slabs around centers, or return None where they are no plain slices of all voxels in the plane.

    Slabs of one plane are windows of its image, which is convolved once.

    Args:
        network: of this axis.
        volume: tensor of shape `(C, H, W, D)`.
        centers: tensor of shape `(N, 3)`.
        axis: of the volume, to which the planes are perpendicular.
        slab: `half_width`, `half_depth`, `mode` and `padding_mode`, see `sample_slabs`.
        batch_size: slabs that are described at once.

    Returns:
        Tensor of shape `(N, out_channels)`.
    """
    half_width, half_depth, mode, padding_mode = slab
    lattice = slab_lattice(axis, half_width, half_depth)
    starts = slice_starts(volume, centers, lattice) if mode == "nearest" else None
    hops = [round(step) for step in lattice.steps(volume.shape[1:])]
    in_plane = [other for other in range(3) if other != axis]
    if starts is None or any(hops[other] != 1 for other in in_plane):
        return None
    depths = hops[axis] * torch.arange(network.num_planes)
    output = torch.empty((len(centers), network.out_channels), device=volume.device)
    for start in starts[:, axis].unique():
        rows = (starts[:, axis] == start).nonzero().squeeze(1)
        corners = starts[rows][:, in_plane]
        low = corners.amin(dim=0)
        edges = (corners.amax(dim=0) - low + network.size).tolist()
        planes = [first + torch.arange(edge) for first, edge in zip(low, edges, strict=True)]
        planes.insert(axis, start + depths)
        image = _read(volume, planes, padding_mode).movedim(axis + 1, 1).flatten(0, 1).unsqueeze(0)
        for first, second in itertools.product(range(2), repeat=2):  # pixels, at which windows of two begin
            is_here = ((corners - low) % 2 == torch.tensor((first, second))).all(dim=1)
            if is_here.any():
                pooled = network.pool(image[..., first:, second:])
                windows = (corners[is_here] - low).div(2, rounding_mode="floor")
                for some, corner in zip(rows[is_here].split(batch_size), windows.split(batch_size), strict=True):
                    output[some] = network.describe_pooled(_cut(pooled, corner, network.pooled_size)).flatten(1)
    return output


def _read(volume: torch.Tensor, planes: Sequence[torch.Tensor], padding_mode: str) -> torch.Tensor:
    """Return the intensities of a volume at voxels along each axis, of which some may lie beyond the border."""
    edges = volume.shape[1:]
    axes = zip(planes, edges, strict=True)
    first, second, third = torch.meshgrid(*(plane.clamp(0, edge - 1) for plane, edge in axes), indexing="ij")
    values = volume[:, first, second, third]
    if padding_mode == "zeros":
        inside = [(plane >= 0) & (plane < edge) for plane, edge in zip(planes, edges, strict=True)]
        values = values * torch.stack(torch.meshgrid(*inside, indexing="ij")).all(dim=0)
    return values


def _cut(image: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
    """Return windows of an image of shape `(1, C, H, W)`, of shape `(N, C, size, size)`, channels last in memory."""
    view = image[0].movedim(0, 2).unfold(0, size, 1).unfold(1, size, 1).permute(0, 1, 3, 4, 2)
    return view[corners.unbind(1)].permute(0, 3, 1, 2)
