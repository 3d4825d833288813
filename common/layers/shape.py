"""Star-shaped random bodies, ellipsoids whose surface simplex noise moves in and out; that noise; a check of ranges.

Sources: bodies, F. Perez-Garcia et al., *A self-supervised learning strategy for postoperative brain cavity
segmentation simulating resections*, IJCARS 2021 (https://arxiv.org/abs/2105.11239), as used by X. Zhang et al., arXiv
2021 (https://arxiv.org/abs/2109.03230); noise, K. Perlin, *Improving noise*, SIGGRAPH 2002
(https://doi.org/10.1145/566654.566636), in the simplex form of S. Gustavson, *Simplex noise demystified*, 2005.

They move the vertices of a mesh and rasterize it. A point of the unit sphere moves along its radius only, so that a
voxel lies inside if and only if its distance from the center is below the radius in its direction: that is evaluated
here, without a mesh. The radius is known on a grid of directions, and linear between them, as on a mesh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Randomizable
from scipy.spatial.transform import Rotation

from common.cli import InputError
from common.cli.options import POSITIVE, POSITIVE_INT, Kind

__all__ = ["RandStarShape", "check_ranges", "draw_permutation", "fractal_noise", "keep_joined", "simplex_noise"]

# bodies
_NUM_PARALLELS = 41  # of directions; at the equator they are as dense as the 2562 vertices of the paper's mesh
_TOLERANCE = 0.03  # of the volume, within which a body is not tried again
_MAX_TRIALS = 4
_MAX_OFFSET = 10.0  # single precision stays exact enough for 7 octaves

# noise
_SKEW, _UNSKEW = 1 / 3, 1 / 6
_REACH = 0.6  # squared distance at which a corner has no influence
_SCALE = 32.0  # brings the values to about -1 to 1
_GRADIENTS = [
    [*edge]
    for edge in sorted(
        {(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if abs(x) + abs(y) + abs(z) == 2}
    )
]


class RandStarShape(Randomizable):
    """Random body of a given volume, star-shaped and of any orientation.

    Args:
        volume: smallest and largest volume in mm^3; its logarithm is uniformly distributed.
        axis_ratio: smallest and largest ratio of the second and third semi-axis to the first.
        octaves: smallest and largest number of octaves of the noise.
        roughness: how far the noise moves the surface, as a share of the radius.

    Attributes:
        volume_mm3: volume of the body that was drawn.

    Raises:
        TypeError: when a bound is no number of its kind.
        ValueError: when a range is empty, or the roughness out of range.
    """

    def __init__(
        self,
        volume: Sequence[float] = (500.0, 50_000.0),
        axis_ratio: Sequence[float] = (0.5, 1.0),
        octaves: Sequence[int] = (4, 7),
        roughness: float = 0.5,
    ) -> None:
        check_ranges(POSITIVE, volume=volume, axis_ratio=axis_ratio)
        check_ranges(POSITIVE_INT, octaves=octaves)
        if not 0 <= roughness < 1:
            raise InputError(f"roughness must be from 0 to below 1, got {roughness}")
        self.volume = volume
        self.axis_ratio = axis_ratio
        self.octaves = octaves
        self.roughness = roughness

    def randomize(self, data: None = None) -> None:
        """Draw volume, axes, rotation and noise."""
        low, high = (math.log(bound) for bound in self.volume)
        self.volume_mm3 = math.exp(self.R.uniform(low, high))
        self.axes = np.array([1.0, *self.R.uniform(*self.axis_ratio, size=2)])
        self.rotation = Rotation.random(random_state=self.R).as_matrix()
        self.num_octaves = int(self.R.randint(self.octaves[0], self.octaves[1] + 1))
        self.permutation = draw_permutation(self.R)
        self.offset = self.R.uniform(0, _MAX_OFFSET, size=3)

    def __call__(
        self, spacing: Sequence[float], device: torch.device | str = "cpu", randomize: bool = True, scale: float = 1.0
    ) -> torch.Tensor:
        """Return the body in a box of odd size, whose middle voxel is its center.

        Args:
            spacing: edges of a voxel in mm.
            device: where the mask shall be.
            randomize: draw another body.
            scale: of the volume that was drawn.

        Returns:
            Mask of shape `(h, w, d)`.
        """
        if randomize:
            self.randomize()
        directions = _grid_of_directions(device)
        points = directions + torch.from_numpy(self.offset).to(directions)
        permutation = torch.from_numpy(self.permutation).to(device)
        radii = 1 + self.roughness * fractal_noise(points, permutation, self.num_octaves)
        # the volume of a star is the mean of r^3 over all directions, times that of the ellipsoid
        share = float(_mean_over_sphere(radii**3)) * 4 / 3 * math.pi * float(self.axes.prod())
        volume = target = scale * self.volume_mm3
        bodies: dict[float, torch.Tensor] = {}  # by their error
        for _ in range(_MAX_TRIALS):
            body = self._fill(radii, self.axes * (volume / share) ** (1 / 3), spacing, device)
            found = int(body.sum()) * math.prod(spacing)
            bodies[abs(found / target - 1)] = body
            if min(bodies) < _TOLERANCE:
                break
            volume *= target / found  # coarse voxels lose thin tips
        return bodies[min(bodies)]

    def _fill(
        self, radii: torch.Tensor, semi_axes: np.ndarray, spacing: Sequence[float], device: torch.device | str
    ) -> torch.Tensor:
        """Return the voxels of a body that reaches so far in the directions of `_grid_of_directions`."""
        reach = float(radii.max()) * np.linalg.norm(self.rotation * semi_axes, axis=1)  # of a rotated ellipsoid
        half = [math.ceil(extent / edge) for extent, edge in zip(reach, spacing, strict=True)]
        columns = [
            edge * torch.arange(-count, count + 1.0, device=device).view(-1, *[1] * (2 - axis))
            for axis, (count, edge) in enumerate(zip(half, spacing, strict=True))
        ]
        to_sphere = (self.rotation / semi_axes).T.tolist()
        point = [sum(weight * column for weight, column in zip(row, columns, strict=True)) for row in to_sphere]
        distance = sum(part.square() for part in point).sqrt_()
        inside = distance < float(radii.min())
        is_open = (distance < float(radii.max())) & ~inside  # where the direction decides
        places = is_open.flatten().nonzero().flatten()
        reach_there = _look_up(radii, [part.flatten()[places] for part in point])
        inside.view(-1)[places] = distance.flatten()[places] < reach_there
        inside[tuple(half)] = True
        return keep_joined(inside)


def check_ranges(kind: Kind, **ranges: Sequence[float]) -> None:
    """Refuse ranges that are not two numbers of a kind, the smallest and the largest, by their names."""
    for name, bounds in ranges.items():
        kind.list.check(name, bounds)
        if len(bounds) != 2 or bounds[0] > bounds[1]:
            raise InputError(f"{name} must be two numbers that do not decrease, got {list(bounds)}")


def keep_joined(body: torch.Tensor) -> torch.Tensor:
    """Return a body without the voxels that lie apart from it, such as those of a thin tip.

    What stays is joined to the center by a row of voxels of the body, each of which shares a face with the next one,
    that is nearer to the center.

    Args:
        body: mask of odd size, whose middle voxel is its center and belongs to it.
    """
    while True:
        joined = torch.zeros_like(body)
        joined[tuple(length // 2 for length in body.shape)] = True
        for axis, length in enumerate(body.shape):
            half = length // 2
            joined.narrow(axis, 0, half).logical_or_(body.narrow(axis, 1, half))
            joined.narrow(axis, half + 1, half).logical_or_(body.narrow(axis, half, half))
        joined &= body
        if torch.equal(joined, body):
            return body
        body = joined


def _grid_of_directions(device: torch.device | str) -> torch.Tensor:
    """Return unit vectors from pole to pole and once around, the first meridian twice: shape `(rows, columns, 3)`."""
    polar = torch.linspace(0, math.pi, _NUM_PARALLELS, device=device)[:, None]
    azimuth = torch.linspace(-math.pi, math.pi, 2 * _NUM_PARALLELS - 1, device=device)
    x, y = polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()
    return torch.stack((x, y, polar.cos().expand_as(x)), dim=-1)


def _mean_over_sphere(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over all directions of what is known in those of `_grid_of_directions`."""
    weights = torch.linspace(0, math.pi, _NUM_PARALLELS, device=values.device).sin()
    return weights @ values[:, 1:].mean(dim=1) / weights.sum()


def _look_up(radii: torch.Tensor, point: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the radius in the direction of points, linear between the directions of the grid."""
    x, y, z = point
    column = torch.atan2(y, x) / math.pi
    row = torch.atan2(torch.hypot(x, y), z) * 2 / math.pi - 1
    places = torch.stack((column, row), dim=-1)
    return F.grid_sample(radii[None, None], places[None, None], padding_mode="border", align_corners=True).flatten()


def draw_permutation(R: np.random.RandomState) -> np.ndarray:
    """Draw which gradient belongs to which corner of the lattice: 256 whole numbers, twice in a row."""
    return np.tile(R.permutation(256), 2)


def simplex_noise(points: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Return simplex noise: it is smooth, has features of about the size 1 and lies between about -1 and 1.

    Args:
        points: tensor of shape `(..., 3)`.
        permutation: of `draw_permutation`, as whole numbers on the device of the points.

    Returns:
        Tensor of shape `(...)`.
    """
    table = torch.tensor(_GRADIENTS, dtype=points.dtype, device=points.device)[permutation % len(_GRADIENTS)]
    gradients = [component.contiguous() for component in table.unbind(-1)]
    coordinates = [coordinate.contiguous() for coordinate in points.unbind(-1)]
    skew = sum(coordinates) * _SKEW
    cells = [(coordinate + skew).floor_() for coordinate in coordinates]
    unskew = sum(cells) * _UNSKEW
    first = [coordinate - cell + unskew for coordinate, cell in zip(coordinates, cells, strict=True)]
    corners = [cell.long() & 255 for cell in cells]
    x, y, z = first  # from the first corner of the simplex; the largest one is stepped along first
    x_y, x_z, y_z = x >= y, x >= z, y >= z
    steps = {1: (x_y & x_z, ~x_y & y_z, ~(x_z | y_z)), 2: (x_y | x_z, ~x_y | y_z, ~(x_z & y_z))}
    total = torch.zeros_like(x)
    for corner in range(4):
        moves: Sequence[Any] = steps.get(corner, (corner // 3,) * 3)
        offset = [start - 1.0 * step + corner * _UNSKEW for start, step in zip(first, moves, strict=True)]
        i, j, k = (place + step for place, step in zip(corners, moves, strict=True))
        index = i + permutation[j + permutation[k]]
        slope = sum(gradient[index] * part for gradient, part in zip(gradients, offset, strict=True))
        influence = (_REACH - sum(part * part for part in offset)).clamp_(min=0)
        total += influence.square_().square_() * slope
    return _SCALE * total


def fractal_noise(points: torch.Tensor, permutation: torch.Tensor, octaves: int) -> torch.Tensor:
    """Return fractal noise, the mean of octaves of simplex noise, each of half the size and weight of the one before.

    Args:
        points: tensor of shape `(..., 3)`.
        permutation: see `simplex_noise`.
        octaves: number of them.

    Returns:
        Tensor of shape `(...)`, between about -1 and 1.
    """
    order = torch.arange(octaves, device=points.device, dtype=points.dtype)
    weights = 0.5**order
    noise = simplex_noise(points * (2.0**order).view(-1, *[1] * points.ndim), permutation)
    return torch.einsum("o,o...->...", weights / weights.sum(), noise)
