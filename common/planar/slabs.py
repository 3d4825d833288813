"""Pretext tasks of planar descriptors, HEATMAP and REG2D: where does a slab of a volume lie, seen from another one?

A slab is a stack of a few parallel planes, seen as an image whose channels are the planes.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision). As in the paper, the
gap between two slabs lies along their normal; in the authors' code, which mixes the orders of axes and coordinates, it
lies in the plane for two of the three normals:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from common.cli import InputError, check_choice, check_whole_numbers

from .pairs import Lattice, RandPatchPair, sample_patches

__all__ = ["RandSlabPair", "displacement_heatmap", "sample_slabs"]

logger = logging.getLogger(__name__)


def sample_slabs(
    volume: torch.Tensor,
    centers: torch.Tensor,
    axis: int,
    half_width: float = 0.4,
    num_samples: int = 42,
    half_depth: float = 0.05,
    num_planes: int = 3,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample the slabs around centers.

    Lengths are normalized: each axis of a volume runs from -1 to 1, see `sample_patches`.

    Args:
        volume: tensor of shape `(1, H, W, D)`.
        centers: tensor of shape `(N, 3)`.
        axis: of the volume, to which the planes are perpendicular.
        half_width: from the center to the outermost samples along the axes in the plane.
        num_samples: along each axis in the plane.
        half_depth: from the center to the outermost planes.
        num_planes: of a slab.
        mode: `bilinear` or `nearest`, see `sample_patches`. In volumes of 103 voxels a side, 42 samples up to a
            `half_width` of 41/102 and 3 planes up to a `half_depth` of 6/102 are plain slices. A warning, once for each
            size, tells where nearest voxels are repeated or skipped, as in 60 a side, of which 42 samples take 24.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Returns:
        Tensor of shape `(N, num_planes, num_samples, num_samples)`; rows and columns run along the axes in the plane,
        in the order of the volume.

    Raises:
        ValueError: when `axis` is out of range, or a shape does not fit.
    """
    lattice = _slab_lattice(axis, half_width, num_samples, half_depth, num_planes)
    _check_evenness([volume], lattice, mode)
    return sample_patches([volume], centers.unsqueeze(0), lattice, mode, padding_mode).squeeze(0).movedim(axis + 1, 1)


def displacement_heatmap(
    displacements: torch.Tensor, size: int = 19, peak: float = 10.0, sharpness: float = 15.0
) -> torch.Tensor:
    """Return heatmaps `peak * exp(-sharpness * distance^2)`, the distance being that from the displacement.

    Args:
        displacements: tensor of shape `(..., 2)`.
        size: pixels along each axis, whose centers run from -1 to 1.
        peak: value at the displacement.
        sharpness: of the peak, per squared normalized length.

    Returns:
        Tensor of shape `(..., 1, size, size)`; rows run along the first coordinate, columns along the second one.
    """
    pixels = torch.linspace(-1, 1, size, device=displacements.device)
    rows, columns = (-sharpness * (pixels - displacements[..., axis, None]) ** 2 for axis in (0, 1))
    return peak * (rows[..., :, None] + columns[..., None, :]).exp().unsqueeze(-3)


class RandSlabPair(RandPatchPair):
    """Random pairs of slabs for each normal axis: the network predicts where the second one lies, seen from the first.

    The displacement in the plane is the target. Along the normal, the slabs are a random gap apart, which is no target
    and keeps the network from following edges from one slab into the other. In the plane, both coordinates of the
    displacement have absolute values that are uniform between two bounds. During the training these go from the first
    to the last ones, and displacements become more diverse.

    Called with `N` volumes, it returns the slabs, of shape `(N, A, 2, num_planes, num_samples, num_samples)` for `A`
    axes, and the target: heatmaps of shape `(N, A, 1, heatmap_size, heatmap_size)`, or displacements of `(N, A, 2)`.

    Args:
        axes: normal axes, in increasing order, each with slabs at places of its own.
        target: `heatmap`, see `displacement_heatmap`, or `displacement`.
        half_width: see `sample_slabs`.
        num_samples: see `sample_slabs`.
        half_depth: see `sample_slabs`.
        num_planes: see `sample_slabs`.
        max_center: largest coordinate of the first center along each axis.
        gap: bounds of the distance of the centers along the normal, in either direction.
        first_displacement: bounds along each axis in the plane, in either direction, at the start of the training.
        last_displacement: the same at its end.
        heatmap_size: pixels along each axis of the heatmap.
        max_outside: largest share of a slab's samples that may lie outside of the volume; see `RandPatchPair`.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`.

    Attributes:
        centers: normalized coordinates of the centers, of shape `(N, A, 2, 3)`.

    Raises:
        TypeError: when a number of samples, planes or pixels is no whole number.
        ValueError: when an argument is out of range, or slabs could overlap along the normal.
    """

    def __init__(
        self,
        axes: Sequence[int] = (0, 1, 2),
        target: str = "heatmap",
        half_width: float = 0.4,
        num_samples: int = 42,
        half_depth: float = 0.05,
        num_planes: int = 3,
        max_center: float = 0.5,
        gap: Sequence[float] = (0.125, 0.25),
        first_displacement: Sequence[float] = (0.25, 0.3),
        last_displacement: Sequence[float] = (0.0, 0.7),
        heatmap_size: int = 19,
        max_outside: float = 1.0,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(max_center, max_outside, mode, padding_mode)
        check_whole_numbers(num_samples=num_samples, num_planes=num_planes, heatmap_size=heatmap_size)
        if min(num_samples, num_planes, heatmap_size) < 2:
            raise InputError(
                "num_samples, num_planes and heatmap_size must be at least 2, "
                f"got {num_samples}, {num_planes} and {heatmap_size}"
            )
        if not axes or list(axes) != [axis for axis in (0, 1, 2) if axis in axes]:
            raise InputError(f"axes must be some of [0, 1, 2], each once and in order, got {axes!r}")
        check_choice("target", target, ("heatmap", "displacement"))
        bounds = {"gap": gap, "first_displacement": first_displacement, "last_displacement": last_displacement}
        for name, pair in bounds.items():
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= 1:
                raise InputError(f"{name} must be two increasing numbers in [0, 1], got {pair!r}")
        if gap[0] <= 2 * half_depth:
            raise InputError(f"gap must be larger than the depth of a slab {2 * half_depth}, got {gap!r}")
        self.axes = tuple(axes)
        self.target = target
        self.lattices = {axis: _slab_lattice(axis, half_width, num_samples, half_depth, num_planes) for axis in axes}
        self.gap = tuple(gap)
        self.displacements = np.array([first_displacement, last_displacement])
        self.heatmap_size = heatmap_size

    def randomize(self, num_pairs: int, progress: float = 1.0) -> None:  # type: ignore[override]
        low, high = (1 - progress) * self.displacements[0] + progress * self.displacements[1]
        centers = []
        for axis in self.axes:
            displacements = self.R.uniform(low, high, (num_pairs, 3))
            displacements[:, axis] = self.R.uniform(*self.gap, num_pairs)
            displacements *= self.R.choice((-1, 1), (num_pairs, 3))
            centers.append(self._place(displacements, self.lattices[axis]))
        self.centers = np.stack(centers, axis=1)

    def _sample(self, volumes: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        centers = torch.from_numpy(self.centers).float().to(device, non_blocking=True)
        pairs = []
        for index, axis in enumerate(self.axes):
            _check_evenness(volumes, self.lattices[axis], self.mode)
            slabs = sample_patches(volumes, centers[:, index], self.lattices[axis], self.mode, self.padding_mode)
            pairs.append(slabs.movedim(axis + 2, 2))
        return torch.stack(pairs, dim=1)

    def _target(self) -> torch.Tensor:
        displacements = torch.from_numpy(self.centers[..., 1, :] - self.centers[..., 0, :]).float()
        in_plane = torch.tensor([[other for other in (0, 1, 2) if other != axis] for axis in self.axes])
        target = displacements.gather(2, in_plane.expand(len(displacements), -1, -1))
        return displacement_heatmap(target, self.heatmap_size) if self.target == "heatmap" else target


def _slab_lattice(axis: int, half_width: float, num_samples: int, half_depth: float, num_planes: int) -> Lattice:
    if axis not in (0, 1, 2):
        raise InputError(f"axis must be 0, 1 or 2, got {axis!r}")
    widths, numbers = [half_width] * 3, [num_samples] * 3
    widths[axis], numbers[axis] = half_depth, num_planes
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
