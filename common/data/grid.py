"""Grids: how far two of them lie apart, and lengths as text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["corner_distance", "format_mm"]


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return by how many voxels of the first of two grids their corner voxels lie apart at most.

    Args:
        first: affine, `(4, 4)`.
        second: likewise.
        shape: voxels along each axis of both.
    """
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))], dtype=float)
    apart = np.linalg.solve(first[:3, :3], (corners @ (first - second)[:3, :3].T + (first - second)[:3, 3]).T)
    return float(np.abs(apart).max())


def format_mm(lengths: np.ndarray) -> str:
    """Return lengths along the axes as a text, such as 1 x 1 x 2.5 mm."""
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
