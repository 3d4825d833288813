"""Pretext task of cubic descriptors, DOERSCH: on which side of a cube does a neighboring one lie?

It is the task of C. Doersch, A. Gupta, A. Efros, *Unsupervised visual representation learning by context prediction*,
ICCV 2015 (https://arxiv.org/abs/1505.05192), in three dimensions.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.cli import InputError, check_whole_numbers

from .pairs import Lattice, RandPatchPair, sample_patches

__all__ = ["RandCubePair", "sample_cubes"]


def sample_cubes(
    volume: torch.Tensor,
    centers: torch.Tensor,
    half_width: float = 0.2,
    num_samples: int = 25,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample the cubes around centers.

    Lengths are normalized: each axis of a volume runs from -1 to 1, see `sample_patches`.

    Args:
        volume: tensor of shape `(1, H, W, D)`.
        centers: tensor of shape `(N, 3)`.
        half_width: from the center to the outermost samples along each axis.
        num_samples: along each axis.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Returns:
        Tensor of shape `(N, 1, num_samples, num_samples, num_samples)`.
    """
    lattice = _cube_lattice(half_width, num_samples)
    return sample_patches([volume], centers.unsqueeze(0), lattice, mode, padding_mode).movedim(0, 1)


class RandCubePair(RandPatchPair):
    """Random pairs of a cube and one of its six neighbors: the network predicts which one it is.

    Called with `N` volumes, it returns the cubes, of shape `(N, 2, 1, num_samples, num_samples, num_samples)`, and the
    neighbors' classes, of shape `(N,)`: `2 * axis` for the neighbor further along an axis and `2 * axis + 1` for the
    one on the other side. In an RAS volume these are right, left, anterior, posterior, superior, inferior.

    Args:
        half_width: see `sample_cubes`.
        num_samples: see `sample_cubes`.
        distance: between the centers along the axis, before the jitter.
        jitter: largest absolute value of what is added to each coordinate of the neighbor's center, uniformly; it keeps
            the network from following edges from one cube into the other.
        max_center: largest coordinate of the first center along each axis.
        max_outside: largest share of a cube's samples that may lie outside of the volume; see `RandPatchPair`.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Attributes:
        centers: normalized coordinates of the centers, of shape `(N, 2, 3)`.
        neighbors: the classes, of shape `(N,)`.

    Raises:
        TypeError: when `num_samples` is no whole number.
        ValueError: when an argument is out of range, or cubes could overlap.
    """

    def __init__(
        self,
        half_width: float = 0.2,
        num_samples: int = 25,
        distance: float = 0.45,
        jitter: float = 0.05,
        max_center: float = 0.5,
        max_outside: float = 1.0,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(max_center, max_outside, mode, padding_mode)
        check_whole_numbers(num_samples=num_samples)
        if num_samples < 2:
            raise InputError(f"num_samples must be at least 2, got {num_samples}")
        if jitter < 0 or distance - jitter < 2 * half_width - 1e-9:
            raise InputError(
                f"distance must exceed the width of a cube {2 * half_width} by the jitter, got {distance} and {jitter}"
            )
        self.lattice = _cube_lattice(half_width, num_samples)
        self.distance = distance
        self.jitter = jitter
        self.neighbors = np.empty(0, dtype=int)

    def randomize(self, num_pairs: int, progress: float = 1.0) -> None:  # type: ignore[override]
        self.neighbors = self.R.randint(6, size=num_pairs)
        displacements = self.R.uniform(-self.jitter, self.jitter, (num_pairs, 3))
        axis, is_opposite = np.divmod(self.neighbors, 2)
        displacements[np.arange(num_pairs), axis] += np.where(is_opposite, -self.distance, self.distance)
        self.centers = self._place(displacements, self.lattice)

    def keep(self, share: slice) -> None:
        super().keep(share)
        self.neighbors = self.neighbors[share]

    def _sample(self, volumes: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        centers = torch.from_numpy(self.centers).float().to(device, non_blocking=True)
        return sample_patches(volumes, centers, self.lattice, self.mode, self.padding_mode).unsqueeze(2)

    def _target(self) -> torch.Tensor:
        return torch.from_numpy(self.neighbors)


def _cube_lattice(half_width: float, num_samples: int) -> Lattice:
    return Lattice((half_width,) * 3, (num_samples,) * 3)
