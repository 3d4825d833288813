"""Voxels of a volume: the grid of those that are described, and the choice of those that an atlas keeps.

An atlas has all voxels of the organs, and of the background a part that is evenly spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import ensure_tuple_rep
from scipy.spatial import KDTree

from common.cli import check_each
from common.cli.options import SIZE

__all__ = ["VoxelGrid", "choose_voxels", "within_radius"]


class VoxelGrid:
    """Grid of every `step`-th voxel of an image along each axis, as far from both ends as possible.

    Args:
        spatial_size: `(H, W, D)` of the image in voxels.
        step: distance of neighbors in voxels, one for all axes or one for each.

    Attributes:
        size: number of grid points along each axis: that of the voxels divided by the step, rounded down, at least 1.
        first: index of the first voxel of the grid along each axis.
    """

    def __init__(self, spatial_size: Sequence[int], step: int | Sequence[int]) -> None:
        check_each(SIZE, step=step)
        self.spatial_size = tuple(spatial_size)
        self.step = tuple(ensure_tuple_rep(step, 3))
        axes = list(zip(self.spatial_size, self.step, strict=True))
        self.size = tuple(max(1, edge // hop) for edge, hop in axes)
        self.first = tuple(
            (edge - 1 - (count - 1) * hop) // 2 for (edge, hop), count in zip(axes, self.size, strict=True)
        )

    def indices(self) -> torch.Tensor:
        """Return the voxel of each grid point, of shape `(N, 3)`; the last axis runs fastest."""
        axes = zip(self.first, self.size, self.step, strict=True)
        return torch.cartesian_prod(*(first + hop * torch.arange(count) for first, count, hop in axes))

    def known_indices(self, is_known: torch.Tensor) -> torch.Tensor:
        """Return the known voxel nearest to each grid point that has one around it, of shape `(n, 3)`.

        Each voxel lies around one grid point, the nearest one along each axis. Where all voxels are known, these are
        the voxels of `indices`.

        Args:
            is_known: truth values of shape `(H, W, D)`.
        """
        if is_known.all():
            return self.indices()
        voxels = is_known.nonzero()
        first, hop, size = (
            torch.tensor(numbers, device=voxels.device) for numbers in (self.first, self.step, self.size)
        )
        places = ((voxels - first + hop // 2).div(hop, rounding_mode="floor")).clamp(min=0).minimum(size - 1)
        points = (places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2]
        order = (voxels - first - hop * places).square().sum(dim=1).argsort(stable=True)
        order = order[points[order].argsort(stable=True)]
        is_nearest = points[order].diff(prepend=points.new_tensor([-1])) != 0
        return voxels[order[is_nearest]].cpu()

    def find(self, centers: torch.Tensor) -> torch.Tensor:
        """Return which of some places lies at each point of the grid, -1 where none does, of shape `size`.

        Args:
            centers: of shape `(N, 3)`, as `centers` returns them, of this image or of one of the same field of view.
        """
        edges, first, hop = (
            torch.tensor(numbers, device=centers.device)
            for numbers in ([max(edge - 1, 0) for edge in self.spatial_size], self.first, self.step)
        )
        points = (((centers + 1) / 2 * edges - first) / hop).round().long()
        inside = ((points >= 0) & (points < torch.tensor(self.size, device=centers.device))).all(dim=1)
        places = torch.full(self.size, -1, device=centers.device)
        places[points[inside].unbind(1)] = inside.nonzero().squeeze(1)
        return places

    def centers(self, indices: torch.Tensor) -> torch.Tensor:
        """Return where voxels lie when each axis of the image runs from -1 to 1, of shape `(N, 3)`.

        An axis with a single voxel has it at 0.
        """
        edges = torch.tensor([max(edge - 1, 1) for edge in self.spatial_size])
        is_long = torch.tensor([edge > 1 for edge in self.spatial_size])
        return (2 * indices / edges - 1) * is_long

    def upsample(self, values: torch.Tensor) -> torch.Tensor:
        """Interpolate values linearly between grid points; beyond the outermost ones, repeat these.

        Args:
            values: of shape `(N, C)`, in the order of `indices`.

        Returns:
            Tensor of shape `(C, H, W, D)`, which has the values themselves at the voxels of the grid.
        """
        image = values.T.unflatten(1, self.size)
        for axis, (edge, count, first, hop) in enumerate(
            zip(self.spatial_size, self.size, self.first, self.step, strict=True), start=1
        ):
            place = ((torch.arange(edge, device=values.device) - first) / hop).clamp(0, count - 1)
            low = place.long()
            high = (low + 1).clamp(max=count - 1)
            weight = (place - low).to(image).view(-1, *[1] * (3 - axis))
            image = torch.lerp(image.index_select(axis, low), image.index_select(axis, high), weight)
        return image


def within_radius(centers: torch.Tensor, others: torch.Tensor, radius: float | None) -> torch.Tensor:
    """Return which places lie within a radius of any of the others, of shape `(N,)` on the CPU.

    Args:
        centers: of shape `(N, 3)`.
        others: of shape `(M, 3)`.
        radius: in the units of the coordinates; `None`: all places do.
    """
    if radius is None:
        return torch.ones(len(centers), dtype=torch.bool)
    distances, _ = KDTree(others.cpu()).query(centers.cpu(), distance_upper_bound=radius)
    return torch.from_numpy(np.isfinite(distances))


def choose_voxels(
    indices: torch.Tensor, classes: torch.Tensor, max_background: int | None = None, seed: int = 0
) -> torch.Tensor:
    """Keep all voxels of the foreground, and as many of the background as a cap allows.

    The background is lined up along a space-filling curve, which is cut into runs of one length. A random voxel of each
    run, which is compact in space, is kept.

    Args:
        indices: of the voxels in their volume, of shape `(N, 3)`.
        classes: of the voxels, of shape `(N,)`; 0 is the background.
        max_background: cap of the background; none if not given.
        seed: of the random voxels.

    Returns:
        Ascending places in `indices` and `classes`, of shape `(n,)`.
    """
    background = (classes == 0).nonzero().squeeze(1)
    if max_background is None or len(background) <= max_background:
        return torch.arange(len(classes))
    along_curve = background[_places_along_curve(indices[background]).argsort()]
    ends = torch.arange(max_background + 1) * len(background) // max_background
    chance = torch.rand(max_background, generator=torch.Generator().manual_seed(seed))
    kept = along_curve[ends[:-1] + (chance * ends.diff()).long()]
    return torch.cat((kept, classes.nonzero().squeeze(1))).sort().values


def _places_along_curve(indices: torch.Tensor) -> torch.Tensor:
    """Return places along the Z-order curve, which interleaves the bits of the three indices."""
    code = torch.zeros(len(indices), dtype=torch.long)
    for bit in range(int(indices.max()).bit_length()):
        for axis in range(3):
            code |= ((indices[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
