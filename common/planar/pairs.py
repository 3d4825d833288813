"""Patches around positions in a volume, random pairs of them, the pretext tasks on these, and their minibatches.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Randomizable, Transform
from torch import nn

from common.cli import InputError, check_each
from common.cli.options import POSITIVE_INT
from common.data import DeviceCacheDataset, VolumeLoader
from common.training import PretextTask

__all__ = ["Lattice", "PairLoader", "PairTask", "RandPatchPair", "sample_patches", "slice_starts"]

_HALFWAY = 1e-5  # to the right of halfway between voxels, far more than the rounding of a coordinate

_MAX_CENTER = 0.5  # largest coordinate of a first center along each axis


class Lattice(NamedTuple):
    """Lattice of the points of a patch, evenly spaced along each axis, as offsets from its center.

    Attributes:
        half_widths: normalized length from the center to the outermost points along each axis.
        num_points: along each axis; 1 goes with a half width of 0.
    """

    half_widths: tuple[float, float, float]
    num_points: tuple[int, int, int]

    def offsets(self, device: torch.device | None = None) -> list[torch.Tensor]:
        """Return the offsets along each axis."""
        pairs = zip(self.half_widths, self.num_points, strict=True)
        return [torch.linspace(-half_width, half_width, num, device=device) for half_width, num in pairs]

    def steps(self, spatial_size: Sequence[int]) -> list[float]:
        """Return the distance of neighboring points in voxels along each axis."""
        triples = zip(self.half_widths, self.num_points, spatial_size, strict=True)
        return [half_width * (size - 1) / max(num - 1, 1) for half_width, num, size in triples]


def sample_patches(
    volumes: Sequence[torch.Tensor],
    centers: torch.Tensor,
    lattice: Lattice,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Sample the intensities at the points of patches.

    Coordinates are normalized: along each axis of a volume they run from -1, the center of its first voxel, to 1, the
    center of its last one. They are ordered as the axes are.

    Args:
        volumes: tensors of shape `(C, H, W, D)`, of one number of channels, which need not be of one size.
        centers: `K` positions in each of the volumes, of shape `(N, K, 3)`, in single precision or better.
        lattice: points of a patch.
        mode: `bilinear` between voxels, or the `nearest` one, and halfway between two the later one. On a CPU, the
            latter is several times as fast where points are whole numbers of voxels apart: patches are plain slices.
        padding_mode: outside of the volume are `zeros`, or the values of its `border`.

    Returns:
        Tensor of shape `(N, K, C, *lattice.num_points)`, on the device of the volumes, of the type of the centers.

    Raises:
        ValueError: when the volumes have not as many channels and at least 2 voxels along each axis.
    """
    for volume in volumes:
        if volume.ndim != 4 or len(volume) != len(volumes[0]) or min(volume.shape[1:]) < 2:
            raise InputError(
                f"volumes must be ({len(volumes[0])}, H, W, D) with 2 voxels or more a side, got {tuple(volume.shape)}"
            )
    if mode == "nearest":
        centers = centers + _HALFWAY
        if all(_can_slice(volume, lattice) for volume in volumes):
            pairs = zip(volumes, centers, strict=True)
            return torch.stack([_slice_patches(*pair, lattice, padding_mode) for pair in pairs]).to(centers.dtype)
    grids = _sampling_grid(centers, lattice.offsets(centers.device))
    patches = [
        F.grid_sample(volume.to(grid.dtype).unsqueeze(0), grid.flatten(0, 1).unsqueeze(0), mode, padding_mode, True)
        for volume, grid in zip(volumes, grids, strict=True)
    ]
    return torch.cat(patches).unflatten(2, grids.shape[1:3]).transpose(1, 2)


class RandPatchPair(Randomizable, Transform):
    """Base class of random pairs of patches: where the patches of the pretext tasks lie.

    The first patch of a pair lies around a uniformly random center, with coordinates from -0.5 to 0.5.

    Args:
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`. Zeros are mean tissue in a normalized volume, and an
            edge that the network can learn to see.

    Attributes:
        centers: normalized coordinates of both patches' centers, in an array whose last axes have lengths 2 and 3.
    """

    def __init__(self, mode: str = "bilinear", padding_mode: str = "zeros") -> None:
        self.mode = mode
        self.padding_mode = padding_mode
        self.centers = np.empty((0, 2, 3))

    def randomize(self, num_pairs: int, progress: float = 1.0) -> None:  # type: ignore[override]
        """Draw `centers` of some pairs; `progress` is the share of the training that is done, from 0 to 1."""
        raise NotImplementedError

    def keep(self, share: slice) -> None:
        """Forget all of the drawn pairs but some."""
        self.centers = self.centers[share]

    def __call__(
        self, volumes: Sequence[torch.Tensor], progress: float = 1.0, randomize: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a pair of patches of each volume, and what is to be predicted from it, on the volumes' device.

        Args:
            volumes: tensors of shape `(C, H, W, D)`, which need not be of one size; the same one may come repeatedly.
            progress: share of the training that is done, from 0 to 1.
            randomize: draw the patches anew.
        """
        if randomize:
            self.randomize(len(volumes), progress)
        device = volumes[0].device
        centers = torch.from_numpy(self.centers).float().to(device, non_blocking=True)
        return self._sample(volumes, centers), self._target().to(device, non_blocking=True)

    def _sample(self, volumes: Sequence[torch.Tensor], centers: torch.Tensor) -> torch.Tensor:
        """Return the patches, pair by pair."""
        raise NotImplementedError

    def _target(self) -> torch.Tensor:
        """Return what is to be predicted, pair by pair, on the CPU."""
        raise NotImplementedError

    def _place(self, displacements: np.ndarray) -> np.ndarray:
        """Return both centers of pairs, of shape `(N, 2, 3)`, given what leads from the first to the second one."""
        first = self.R.uniform(-_MAX_CENTER, _MAX_CENTER, (len(displacements), 1, 3))
        return first + np.stack((np.zeros_like(displacements), displacements), axis=1)


class PairTask(PretextTask):
    """Pretext task on pairs of patches: where does the second one lie, seen from the first one?

    Args:
        network: that learns it.
        pairs: draws the patches and what is to be predicted.
        loss: of its output and that.
        handlers: of this task alone, such as its picture.
    """

    def __init__(
        self,
        network: nn.Module,
        pairs: RandPatchPair,
        loss: Callable[[Any, Any], torch.Tensor],
        handlers: Sequence[Any] = (),
    ) -> None:
        super().__init__(network, loss, handlers=handlers)
        self.pairs = pairs


class PairLoader(VolumeLoader):
    """Loader of minibatches of random pairs of patches.

    A minibatch has `image` and `label`, what `pairs` returns for its volumes, and `case`, their files. See
    `VolumeLoader` for seeds, epochs and processes.

    Args:
        volumes: from which the patches are sampled.
        pairs: pretext task.
        batch_size: pairs in a minibatch.
        num_batches: minibatches in an epoch.
        max_epochs: epochs of the training, during which the pairs become more diverse.
        seed: of the draws.
        fixed: every epoch draws what the first one drew, and pairs are as diverse as at the end of the training.
    """

    def __init__(
        self,
        volumes: DeviceCacheDataset,
        pairs: RandPatchPair,
        batch_size: int,
        num_batches: int,
        max_epochs: int = 1,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        check_each(POSITIVE_INT, max_epochs=max_epochs)
        super().__init__(volumes, batch_size, num_batches, seed, fixed)
        self.pairs = pairs
        self.max_epochs = max_epochs

    def _make(self, cases: list[int], share: slice, R: np.random.RandomState, number: int) -> dict[str, Any]:
        items = [self.volumes[case] for case in cases[share]]
        self.pairs.set_random_state(state=R)
        last = self.max_epochs * self.num_batches - 1
        self.pairs.randomize(len(cases), 1.0 if self.fixed or number >= last else number / last)
        self.pairs.keep(share)
        image, label = self.pairs([item["image"][...] for item in items], randomize=False)  # also of a store
        return {"image": image, "label": label, "case": [item["case"] for item in items]}


def _sampling_grid(centers: torch.Tensor, offsets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the points of patches, of shape `(N, K, n0, n1, n2, 3)`, as `grid_sample` takes them.

    It wants the coordinate of the last axis first. The order is reversed here and nowhere else.
    """
    first, second, third = (centers[..., axis, None] + offset for axis, offset in enumerate(offsets))
    points = (third[..., None, None, :], second[..., None, :, None], first[..., :, None, None])
    return torch.stack(torch.broadcast_tensors(*points), dim=-1)


def _can_slice(volume: torch.Tensor, lattice: Lattice) -> bool:
    """Return whether neighboring points are whole numbers of voxels apart, along all of a patch."""
    drifts = (
        abs(step - round(step)) * num if step > 0.5 else 1.0
        for step, num in zip(lattice.steps(volume.shape[1:]), lattice.num_points, strict=True)
    )
    return volume.device.type == "cpu" and max(drifts) < 1e-3


def slice_starts(volume: torch.Tensor, centers: torch.Tensor, lattice: Lattice) -> torch.Tensor | None:
    """Return the first voxels of the patches of nearest voxels where they are plain slices, or None where they are not.

    Args:
        volume: tensor of shape `(C, H, W, D)`.
        centers: as `sample_patches` takes them, of shape `(K, 3)`.
        lattice: points of a patch.

    Returns:
        Whole numbers of shape `(K, 3)`, which may lie outside of the volume.
    """
    return _starts(volume, centers + _HALFWAY, lattice) if _can_slice(volume, lattice) else None


def _starts(volume: torch.Tensor, centers: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    corners = centers.double() - torch.tensor(lattice.half_widths, dtype=torch.float64)
    return ((corners + 1) / 2 * (torch.tensor(volume.shape[1:]) - 1)).round().long()


def _slice_patches(volume: torch.Tensor, centers: torch.Tensor, lattice: Lattice, padding_mode: str) -> torch.Tensor:
    """Return patches around centers of shape `(K, 3)`, whose points are whole numbers of voxels apart."""
    spatial_size = volume.shape[1:]
    steps = [round(step) for step in lattice.steps(spatial_size)]
    starts = _starts(volume, centers, lattice).tolist()
    patches = volume.new_zeros((len(centers), len(volume), *lattice.num_points))
    for patch, corner in zip(patches, starts, strict=True):
        inside: list[slice] = []
        outside: list[slice] = []
        for start, step, num, size in zip(corner, steps, lattice.num_points, spatial_size, strict=True):
            low = max(-(start // step), 0)
            high = max(min((size - 1 - start) // step + 1, num), low)
            inside.append(slice(low, high))
            outside.append(slice(start + low * step, max(start + high * step, 0), step))
        is_whole = inside == [slice(0, num) for num in lattice.num_points]
        if padding_mode == "border" and not is_whole:
            numbers = zip(corner, steps, lattice.num_points, spatial_size, strict=True)
            voxels = [(start + step * torch.arange(num)).clamp(0, size - 1) for start, step, num, size in numbers]
            first, second, third = torch.meshgrid(*voxels, indexing="ij")
            patch.copy_(volume[:, first, second, third])
        else:
            patch[(slice(None), *inside)] = volume[(slice(None), *outside)]
    return patches
