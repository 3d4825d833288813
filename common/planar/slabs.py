"""Pretext tasks of planar descriptors, HEATMAP and REG2D: where does a slab of a volume lie, seen from another one?

A slab is a stack of a few parallel planes, seen as an image whose channels are the planes. Of a scan with several
channels, they are the planes of the first channel, then those of the second one, and so on.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision).
As in the paper, the gap between two slabs lies along their normal; in the authors' code, which mixes the orders of axes
and coordinates, it lies in the plane for two of the three normals:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from common.cli import InputError, check_choice

from .networks import HeatmapDecoder, PlanarDescriptor
from .pairs import Lattice, RandPatchPair, sample_patches

__all__ = ["RandSlabPair", "displacement_heatmap", "sample_slabs", "slab_lattice"]

logger = logging.getLogger(__name__)

_PEAK = 10.0  # of a heatmap, at the displacement

_SHARPNESS = 15.0  # of the peak, per squared normalized length

# bounds of the displacement along each axis in the plane, in either direction, at the start and the end of the training
_DISPLACEMENTS = np.array([(0.25, 0.3), (0.0, 0.7)])


def sample_slabs(
    volume: torch.Tensor,
    centers: torch.Tensor,
    axis: int,
    half_width: float = 0.4,
    half_depth: float = 0.05,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample the slabs around centers: 3 planes of 42 x 42 samples each.

    Lengths are normalized: each axis of a volume runs from -1 to 1, see `sample_patches`.

    Args:
        volume: tensor of shape `(C, H, W, D)`.
        centers: tensor of shape `(N, 3)`.
        axis: of the volume, to which the planes are perpendicular.
        half_width: from the center to the outermost samples along the axes in the plane.
        half_depth: from the center to the outermost planes.
        mode: `bilinear` or `nearest`, see `sample_patches`. In volumes of 103 voxels a side, 42 samples up to a
            `half_width` of 41/102 and 3 planes up to a `half_depth` of 6/102 are plain slices. A warning, once for each
            size, tells where nearest voxels are repeated or skipped, as in 60 a side, of which 42 samples take 24.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Returns:
        Tensor of shape `(N, 3 * C, 42, 42)`, the planes of one channel after the other; rows and columns run along the
        axes in the plane, in the order of the volume.
    """
    lattice = slab_lattice(axis, half_width, half_depth)
    _check_evenness([volume], lattice, mode)
    patches = sample_patches([volume], centers.unsqueeze(0), lattice, mode, padding_mode).squeeze(0)
    return patches.movedim(axis + 2, 2).flatten(1, 2)


def displacement_heatmap(displacements: torch.Tensor) -> torch.Tensor:
    """Return heatmaps `10 * exp(-15 * distance^2)`, the distance being that from the displacement.

    Args:
        displacements: tensor of shape `(..., 2)`.

    Returns:
        Tensor of shape `(..., 1, 19, 19)`; rows run along the first coordinate, columns along the second one, and the
        centers of pixels from -1 to 1.
    """
    pixels = torch.linspace(-1, 1, HeatmapDecoder.size, device=displacements.device)
    rows, columns = (-_SHARPNESS * (pixels - displacements[..., axis, None]) ** 2 for axis in (0, 1))
    return _PEAK * (rows[..., :, None] + columns[..., None, :]).exp().unsqueeze(-3)


class RandSlabPair(RandPatchPair):
    """Random pairs of slabs for each normal axis: the network predicts where the second one lies, seen from the first.

    The displacement in the plane is the target. Along the normal, the slabs are a random gap apart, which is no target
    and keeps the network from following edges from one slab into the other. In the plane, both coordinates of the
    displacement have absolute values that are uniform between two bounds. During the training these go from 0.25 and
    0.3 to 0 and 0.7, and displacements become more diverse.

    Called with `N` volumes, it returns the slabs, of shape `(N, 3, 2, 3 * C, 42, 42)` with the normal axis first, and
    the target: heatmaps of shape `(N, 3, 1, 19, 19)`, or displacements of `(N, 3, 2)`.

    Args:
        target: `heatmap`, see `displacement_heatmap`, or `displacement`.
        half_width: see `sample_slabs`.
        half_depth: see `sample_slabs`.
        gap: bounds of the distance of the centers along the normal, in either direction.
        mode: `bilinear` or `nearest`, see `sample_slabs`.
        padding_mode: `zeros` or `border`, see `RandPatchPair`.

    Attributes:
        centers: normalized coordinates of the centers, of shape `(N, 3, 2, 3)`.

    Raises:
        ValueError: when slabs could overlap along the normal, or an argument is out of range.
    """

    def __init__(
        self,
        target: str = "heatmap",
        half_width: float = 0.4,
        half_depth: float = 0.05,
        gap: Sequence[float] = (0.125, 0.25),
        mode: str = "bilinear",
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(mode, padding_mode)
        check_choice("target", target, ("heatmap", "displacement"))
        if len(gap) != 2 or not 0 <= gap[0] <= gap[1] <= 1:
            raise InputError(f"gap must be two increasing numbers in [0, 1], got {gap!r}")
        if gap[0] <= 2 * half_depth:
            raise InputError(
                f"gap must be larger than the depth of a slab {2 * half_depth}, got {gap!r}; raise "
                "it, or lower half_depth"
            )
        self.target = target
        self.lattices = [slab_lattice(axis, half_width, half_depth) for axis in range(3)]
        self.gap = tuple(gap)

    def randomize(self, num_pairs: int, progress: float = 1.0) -> None:  # type: ignore[override]
        low, high = (1 - progress) * _DISPLACEMENTS[0] + progress * _DISPLACEMENTS[1]
        centers = []
        for axis in range(3):
            displacements = self.R.uniform(low, high, (num_pairs, 3))
            displacements[:, axis] = self.R.uniform(*self.gap, num_pairs)
            displacements *= self.R.choice((-1, 1), (num_pairs, 3))
            centers.append(self._place(displacements))
        self.centers = np.stack(centers, axis=1)

    def _sample(self, volumes: Sequence[torch.Tensor], centers: torch.Tensor) -> torch.Tensor:
        pairs = []
        for axis, lattice in enumerate(self.lattices):
            _check_evenness(volumes, lattice, self.mode)
            slabs = sample_patches(volumes, centers[:, axis], lattice, self.mode, self.padding_mode)
            pairs.append(slabs.movedim(axis + 3, 3).flatten(2, 3))
        return torch.stack(pairs, dim=1)

    def _target(self) -> torch.Tensor:
        displacements = torch.from_numpy(self.centers[..., 1, :] - self.centers[..., 0, :]).float()
        in_plane = torch.tensor([(1, 2), (0, 2), (0, 1)])  # of each normal axis
        target = displacements.gather(2, in_plane.expand(len(displacements), -1, -1))
        return displacement_heatmap(target) if self.target == "heatmap" else target


def slab_lattice(axis: int, half_width: float, half_depth: float) -> Lattice:
    """Return the points of the slabs that are perpendicular to an axis, see `sample_slabs`."""
    widths, numbers = [half_width] * 3, [PlanarDescriptor.size] * 3
    widths[axis], numbers[axis] = half_depth, PlanarDescriptor.num_planes
    return Lattice((widths[0], widths[1], widths[2]), (numbers[0], numbers[1], numbers[2]))


def _check_evenness(volumes: Sequence[torch.Tensor], lattice: Lattice, mode: str) -> None:
    """Warn of nearest voxels when along a slab they drift by one from whole numbers of voxels between samples."""
    if mode != "nearest":
        return
    for size in {tuple(volume.shape[-3:]) for volume in volumes}:
        pairs = [*zip(lattice.steps(size), lattice.num_points, strict=True)]
        if any(step < 0.5 or abs(step - round(step)) * (num - 1) >= 1 for step, num in pairs):
            even_size = 1 + max(round((num - 1) / width) for width, num in zip(*lattice, strict=True))
            _warn_of_unevenness(size, even_size)


@cache
def _warn_of_unevenness(size: tuple[int, ...], even_size: int) -> None:
    logger.warning(
        "slabs of nearest voxels repeat or skip some in a grid of %s; choose spacing and field_of_view such that it "
        "has %d a side, or --sampling bilinear",
        " x ".join(map(str, size)),
        even_size,
    )
