"""Pretext task of cubic descriptors, DOERSCH: on which side of a cube does a neighboring one lie?

It is the task of C. Doersch, A. Gupta, A. Efros, *Unsupervised visual representation learning by context prediction*,
ICCV 2015 (https://arxiv.org/abs/1505.05192), in three dimensions.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.cli import InputError

from .networks import CubicDescriptor
from .pairs import Lattice, RandPatchPair, sample_patches

__all__ = ["RandCubePair", "sample_cubes"]

_JITTER = 0.05


def sample_cubes(
    volume: torch.Tensor,
    centers: torch.Tensor,
    half_width: float = 0.2,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample the cubes around centers, 25 samples a side.

    Args:
        volume: tensor of shape `(C, H, W, D)`, each axis of which runs from -1 to 1.
        centers: tensor of shape `(N, 3)`.
        half_width: normalized length from the center to the outermost samples along each axis.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Returns:
        Tensor of shape `(N, C, 25, 25, 25)`.
    """
    return sample_patches([volume], centers.unsqueeze(0), _cube_lattice(half_width), mode, padding_mode).squeeze(0)


class RandCubePair(RandPatchPair):
    """Random pairs of a cube and one of its six neighbors: the network predicts which one it is.

    Each coordinate of the neighbor's center is jittered uniformly by up to 0.05, which keeps the network from following
    edges from one cube into the other.

    Called with `N` volumes, it returns the cubes, of shape `(N, 2, C, 25, 25, 25)`, and the neighbors' classes, of
    shape `(N,)`: `2 * axis` for the neighbor further along an axis and `2 * axis + 1` for the one on the other side. In
    an RAS volume these are right, left, anterior, posterior, superior, inferior.

    Args:
        half_width: see `sample_cubes`.
        distance: normalized length between the centers along the axis, before the jitter.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `RandPatchPair`.

    Attributes:
        centers: normalized coordinates of the centers, of shape `(N, 2, 3)`.
        neighbors: the classes, of shape `(N,)`.

    Raises:
        ValueError: when cubes could overlap.
    """

    def __init__(
        self,
        half_width: float = 0.2,
        distance: float = 0.45,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(mode, padding_mode)
        if distance - _JITTER < 2 * half_width - 1e-9:
            raise InputError(
                f"cube_distance must be at least the width of a cube, 2 * cube_half_width, and the jitter {_JITTER}: "
                f"{2 * half_width + _JITTER:g}, got {distance}; raise it, or lower cube_half_width"
            )
        self.lattice = _cube_lattice(half_width)
        self.distance = distance
        self.neighbors = np.empty(0, dtype=int)

    def randomize(self, num_pairs: int, progress: float = 1.0) -> None:  # type: ignore[override]
        self.neighbors = self.R.randint(6, size=num_pairs)
        displacements = self.R.uniform(-_JITTER, _JITTER, (num_pairs, 3))
        axis, is_opposite = np.divmod(self.neighbors, 2)
        displacements[np.arange(num_pairs), axis] += np.where(is_opposite, -self.distance, self.distance)
        self.centers = self._place(displacements)

    def keep(self, share: slice) -> None:
        super().keep(share)
        self.neighbors = self.neighbors[share]

    def _sample(self, volumes: Sequence[torch.Tensor], centers: torch.Tensor) -> torch.Tensor:
        return sample_patches(volumes, centers, self.lattice, self.mode, self.padding_mode)

    def _target(self) -> torch.Tensor:
        return torch.from_numpy(self.neighbors)


def _cube_lattice(half_width: float) -> Lattice:
    return Lattice((half_width,) * 3, (CubicDescriptor.size,) * 3)
