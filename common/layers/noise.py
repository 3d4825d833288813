"""Simplex noise of several octaves, on the device of its points.

Source: K. Perlin, *Improving noise*, SIGGRAPH 2002 (https://doi.org/10.1145/566654.566636), in the simplex form of S.
Gustavson, *Simplex noise demystified*, 2005.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["draw_permutation", "fractal_noise", "simplex_noise"]

_SKEW, _UNSKEW = 1 / 3, 1 / 6

_REACH = 0.6  # squared distance at which a corner has no influence

_SCALE = 32.0  # brings the values to about -1 to 1

_GRADIENTS = [
    [*edge]
    for edge in sorted(
        {(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if abs(x) + abs(y) + abs(z) == 2}
    )
]


def draw_permutation(R: np.random.RandomState) -> np.ndarray:
    """Draw which gradient belongs to which corner of the lattice: 256 whole numbers, twice in a row."""
    return np.tile(R.permutation(256), 2)


def simplex_noise(points: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Return noise that is smooth, has features of about the size 1 and lies between about -1 and 1.

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
    steps = {
        1: (x_y & x_z, ~x_y & y_z, ~(x_z | y_z)),
        2: (x_y | x_z, ~x_y | y_z, ~(x_z & y_z)),
    }
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


def fractal_noise(
    points: torch.Tensor, permutation: torch.Tensor, octaves: int, persistence: float = 0.5, lacunarity: float = 2.0
) -> torch.Tensor:
    """Return the mean of several octaves of simplex noise, each finer and weaker than the one before.

    Args:
        points: tensor of shape `(..., 3)`.
        permutation: see `simplex_noise`.
        octaves: number of them.
        persistence: weight of an octave, relative to the one before.
        lacunarity: frequency of an octave, relative to the one before.

    Returns:
        Tensor of shape `(...)`, between about -1 and 1.
    """
    order = torch.arange(octaves, device=points.device, dtype=points.dtype)
    weights = persistence**order
    noise = simplex_noise(points * (lacunarity**order).view(-1, *[1] * points.ndim), permutation)
    return torch.einsum("o,o...->...", weights / weights.sum(), noise)
