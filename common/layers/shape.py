"""Random star-shaped bodies: a sphere whose surface is moved in and out by noise, stretched to an ellipsoid.

Source: F. Perez-Garcia et al., *A self-supervised learning strategy for postoperative brain cavity segmentation
simulating resections*, IJCARS 2021 (https://arxiv.org/abs/2105.11239), as used by X. Zhang et al., arXiv 2021
(https://arxiv.org/abs/2109.03230). They move the vertices of a mesh and rasterize it. A point of the unit sphere moves
along its radius only, so that a voxel lies inside if and only if its distance from the center is below the radius in
its direction: that is evaluated here, without a mesh. The radius is known on a grid of directions, and linear between
them, as on a mesh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Randomizable
from scipy.spatial.transform import Rotation

from common.cli import InputError, check_whole_numbers

from .noise import draw_permutation, fractal_noise

__all__ = ["RandStarShape", "keep_joined"]

_NUM_PARALLELS = 41  # of directions; at the equator they are as dense as the 2562 vertices of the paper's mesh

_TOLERANCE = 0.03  # of the volume, within which a body is not tried again

_MAX_TRIALS = 4

_MAX_OFFSET = 10.0  # single precision stays exact enough for 7 octaves


class RandStarShape(Randomizable):
    """Draw a body of a given volume, of any orientation.

    Args:
        volume: smallest and largest volume in mm^3; its logarithm is uniformly distributed.
        axis_ratio: smallest and largest ratio of the second and third semi-axis to the first.
        octaves: smallest and largest number of octaves of the noise.
        roughness: how far the noise moves the surface, as a share of the radius.
        persistence: see `fractal_noise`.
        lacunarity: see `fractal_noise`.

    Attributes:
        volume_mm3: volume of the body that was drawn.

    Raises:
        ValueError: when a range is empty, or a number out of range.
    """

    def __init__(
        self,
        volume: Sequence[float] = (500.0, 50_000.0),
        axis_ratio: Sequence[float] = (0.5, 1.0),
        octaves: Sequence[int] = (4, 7),
        roughness: float = 0.5,
        persistence: float = 0.5,
        lacunarity: float = 2.0,
    ) -> None:
        for name, values in (("volume", volume), ("axis_ratio", axis_ratio), ("octaves", octaves)):
            if len(values) != 2 or not 0 < values[0] <= values[1] < math.inf:
                raise InputError(f"{name} must be two positive numbers that do not decrease, got {list(values)}")
        check_whole_numbers(octaves=octaves[0])
        check_whole_numbers(octaves=octaves[1])
        if not 0 <= roughness < 1:
            raise InputError(f"roughness must be from 0 to below 1, got {roughness}")
        self.volume = tuple(volume)
        self.axis_ratio = tuple(axis_ratio)
        self.octaves = tuple(octaves)
        self.roughness = roughness
        self.persistence = persistence
        self.lacunarity = lacunarity

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
        radii = self._radii(torch.device(device))
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
        """Return the voxels of the body."""
        reach = float(radii.max()) * np.linalg.norm(self.rotation * semi_axes, axis=1)  # of a rotated ellipsoid
        half = [max(math.ceil(extent / edge), 0) for extent, edge in zip(reach, spacing, strict=True)]
        axes = [
            edge * torch.arange(-count, count + 1, dtype=torch.float32, device=device)
            for count, edge in zip(half, spacing, strict=True)
        ]
        columns = [axis.view(-1, *[1] * (2 - index)) for index, axis in enumerate(axes)]
        to_sphere = (self.rotation / semi_axes).T.tolist()
        point = [sum(weight * axis for weight, axis in zip(row, columns, strict=True)) for row in to_sphere]
        distance = sum(part.square() for part in point).sqrt_()
        inside = distance < float(radii.min())
        is_open = (distance < float(radii.max())) & ~inside  # where the direction decides
        places = is_open.flatten().nonzero().flatten()
        reach_there = _look_up(radii, [part.flatten()[places] for part in point])
        inside.view(-1)[places] = distance.flatten()[places] < reach_there
        inside[tuple(half)] = True
        return keep_joined(inside)

    def _radii(self, device: torch.device) -> torch.Tensor:
        """Return how far the body reaches, in the directions of `_grid_of_directions`."""
        permutation = torch.from_numpy(self.permutation).to(device)
        directions = _grid_of_directions(device)
        points = directions + torch.from_numpy(self.offset).to(directions)
        return 1 + self.roughness * fractal_noise(
            points, permutation, self.num_octaves, self.persistence, self.lacunarity
        )


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


def _grid_of_directions(device: torch.device) -> torch.Tensor:
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
