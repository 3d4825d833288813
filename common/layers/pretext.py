"""Pretext tasks that layer decomposition is compared with: how was a scan turned, cut up or distorted?

Sources: rotation, relative location and jigsaw puzzles in 3D, A. Taleb et al., *3D self-supervised methods for medical
imaging*, NeurIPS 2020 (https://arxiv.org/abs/2006.03829); restoration, Z. Zhou et al., *Models Genesis*, MICCAI 2019
(https://arxiv.org/abs/1908.06912). Each image's chance is in a seed of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.engines import PrepareBatch
from monai.transforms import Compose, OneOf, RandCoarseDropout, RandCoarseShuffle, RandHistogramShift

from common.cli import InputError, check_whole_numbers

from .simulation import LAYERS, RandTumorLayers

__all__ = [
    "PrepareJointLabels",
    "PrepareLayers",
    "RandDistortion",
    "RandJigsaw",
    "RandRelativeLocation",
    "RandRotationTask",
]


class RandRotationTask:
    """Turn scans by multiples of 90 degrees: by how much, and about which axis?

    Class 0 is no turn; 90, 180 and 270 degrees about each axis follow.

    Args:
        axes: spatial axes to turn about. Patches must be square across each of them.

    Attributes:
        num_classes: of the target.

    Raises:
        ValueError: when `axes` are not some of 0, 1 and 2, each once.
    """

    def __init__(self, axes: Sequence[int] = (0, 1, 2)) -> None:
        if not axes or not {*axes} <= {0, 1, 2} or len({*axes}) < len(axes):
            raise InputError(f"axes must be some of 0, 1 and 2, each once, got {list(axes)}")
        self.turns = [(0, 0), *((axis, count) for axis in axes for count in (1, 2, 3))]
        self.num_classes = len(self.turns)

    def make_batch(
        self, images: torch.Tensor, seeds: torch.Tensor | Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return turned images of shape `(B, C, H, W, D)` and classes of shape `(B,)`.

        Raises:
            ValueError: when the images are not square across an axis.
        """
        for axis, _ in self.turns[1:]:
            plane = [length for other, length in enumerate(images.shape[2:]) if other != axis]
            if plane[0] != plane[1]:
                raise InputError(f"image must be square across axis {axis}, got {tuple(images.shape[2:])}")
        classes = [np.random.RandomState(int(seed)).randint(self.num_classes) for seed in seeds]
        turned = [self.turn(image, chosen) for image, chosen in zip(images, classes, strict=True)]
        return torch.stack(turned), torch.tensor(classes, device=images.device)

    def turn(self, image: torch.Tensor, chosen: int) -> torch.Tensor:
        """Return an image of shape `(C, H, W, D)`, turned as a class says."""
        axis, count = self.turns[chosen]
        first, second = (other + 1 for other in range(3) if other != axis)
        return torch.rot90(image, count, (first, second))


class _Cells:
    """Cut images into equal cells, from which a margin is left out at random, so that borders do not match.

    Args:
        grid: number of cells along each axis.
        gap: voxels by which a cell is smaller than its place, along axes that are cut.
    """

    def __init__(self, grid: Sequence[int], gap: int) -> None:
        check_whole_numbers(gap=gap, **{f"grid[{axis}]": count for axis, count in enumerate(grid)})
        if len(grid) != 3 or min(grid) < 1 or math.prod(grid) < 2 or gap < 0:
            raise InputError(f"grid must be three counts with two cells or more, and gap from 0, got {grid} and {gap}")
        self.grid = tuple(grid)
        self.gap = gap

    def cut(self, image: torch.Tensor, R: np.random.RandomState) -> torch.Tensor:
        """Return the cells of an image of shape `(C, H, W, D)`, of shape `(cells, C, h, w, d)`."""
        places = [length // count for length, count in zip(image.shape[1:], self.grid, strict=True)]
        gaps = [self.gap * (count > 1) for count in self.grid]
        sizes = [place - gap for place, gap in zip(places, gaps, strict=True)]
        if min(sizes) < 1:
            raise InputError(f"image must hold {self.grid} cells with gaps of {self.gap}, got {tuple(image.shape[1:])}")
        cells = []
        for cell in itertools.product(*map(range, self.grid)):
            starts = [index * place + R.randint(gap + 1) for index, place, gap in zip(cell, places, gaps, strict=True)]
            window = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
            cells.append(image[(slice(None), *window)])
        return torch.stack(cells)


class RandRelativeLocation:
    """Show the cell in the middle of a scan and another one: where does the latter lie?

    Args:
        grid: odd number of cells along each axis.
        gap: voxels by which a cell is smaller than its place.

    Attributes:
        num_classes: of the target, in the order of the cells without the middle one.

    Raises:
        ValueError: when the grid has no cell in its middle, or a number is out of range.
    """

    def __init__(self, grid: Sequence[int] = (3, 3, 3), gap: int = 2) -> None:
        self.cells = _Cells(grid, gap)
        if any(count % 2 == 0 for count in grid):
            raise InputError(f"grid must be odd along each axis, got {list(grid)}")
        self.num_classes = math.prod(grid) - 1

    def make_batch(
        self, images: torch.Tensor, seeds: torch.Tensor | Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pairs of cells of shape `(B, 2, C, h, w, d)` and classes of shape `(B,)`."""
        pairs, classes = [], []
        middle = self.num_classes // 2
        for image, seed in zip(images, seeds, strict=True):
            R = np.random.RandomState(int(seed))
            chosen = int(R.randint(self.num_classes))
            cells = self.cells.cut(image, R)
            pairs.append(cells[[middle, chosen + (chosen >= middle)]])
            classes.append(chosen)
        return torch.stack(pairs), torch.tensor(classes, device=images.device)


class RandJigsaw:
    """Show the cells of a scan in another order: in which one of a few?

    The orders are chosen one after the other, each the most unlike those before among random ones.

    Args:
        grid: number of cells along each axis.
        num_permutations: number of orders.
        gap: voxels by which a cell is smaller than its place.

    Attributes:
        num_cells: of a scan.
        num_classes: of the target.
        permutations: of shape `(num_permutations, num_cells)`.

    Raises:
        ValueError: when there are not as many orders, or a number is out of range.
    """

    def __init__(self, grid: Sequence[int] = (2, 2, 2), num_permutations: int = 100, gap: int = 2) -> None:
        self.cells = _Cells(grid, gap)
        self.num_cells = math.prod(grid)
        check_whole_numbers(num_permutations=num_permutations)
        if not 2 <= num_permutations <= math.factorial(self.num_cells):
            raise InputError(
                f"num_permutations must be from 2 to {math.factorial(self.num_cells)}, got {num_permutations}"
            )
        self.num_classes = num_permutations
        self.permutations = _choose_permutations(self.num_cells, num_permutations)

    def make_batch(
        self, images: torch.Tensor, seeds: torch.Tensor | Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cells of shape `(B, cells, C, h, w, d)` and the classes of their orders, of shape `(B,)`."""
        shuffled, classes = [], []
        for image, seed in zip(images, seeds, strict=True):
            R = np.random.RandomState(int(seed))
            chosen = int(R.randint(self.num_classes))
            shuffled.append(self.cells.cut(image, R)[self.permutations[chosen].tolist()])
            classes.append(chosen)
        return torch.stack(shuffled), torch.tensor(classes, device=images.device)


class RandDistortion:
    """Distort scans as Models Genesis does: what did they look like?

    Intensities are changed by a monotone curve, voxels shuffled within small boxes, and boxes, or all but boxes, are
    filled with noise.

    Args:
        intensity_prob: probability of the curve.
        shuffle_prob: probability of the shuffling.
        paint_prob: probability of painting in or out.
        num_shuffles: boxes that are shuffled.
        shuffle_size: edges of these boxes in voxels.
        paint_size: edges of the painted boxes in voxels.
    """

    def __init__(
        self,
        intensity_prob: float = 0.9,
        shuffle_prob: float = 0.5,
        paint_prob: float = 0.9,
        num_shuffles: int = 100,
        shuffle_size: Sequence[int] = (4, 4, 2),
        paint_size: Sequence[int] = (16, 16, 4),
    ) -> None:
        inner = RandCoarseDropout(holes=3, max_holes=6, spatial_size=paint_size, prob=paint_prob)
        outer = RandCoarseDropout(
            holes=3, max_holes=6, spatial_size=[3 * edge for edge in paint_size], dropout_holes=False, prob=paint_prob
        )
        self.transform = Compose(
            [
                RandHistogramShift(num_control_points=(4, 8), prob=intensity_prob),
                RandCoarseShuffle(holes=num_shuffles, spatial_size=shuffle_size, prob=shuffle_prob),
                OneOf([inner, outer], weights=[0.8, 0.2]),
            ]
        )

    def make_batch(
        self, images: torch.Tensor, seeds: torch.Tensor | Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distorted images of shape `(B, C, H, W, D)`, and the images."""
        distorted = []
        for image, seed in zip(images, seeds, strict=True):
            self.transform.set_random_state(int(seed))
            distorted.append(torch.as_tensor(self.transform(image.clone()), dtype=image.dtype))
        return torch.stack(distorted).to(images.device), images


def _choose_permutations(num_cells: int, count: int) -> np.ndarray:
    """Return the identity and permutations that differ from those before in as many places as possible."""
    R = np.random.RandomState(0)
    if math.factorial(num_cells) <= 40_320:
        candidates = np.array(list(itertools.permutations(range(num_cells))))
    else:
        candidates = np.unique([R.permutation(num_cells) for _ in range(100 * count)], axis=0)
    chosen = [np.arange(num_cells)]
    nearest = np.full(len(candidates), num_cells + 1)
    while len(chosen) < count:
        nearest = np.minimum(nearest, (candidates != chosen[-1]).sum(axis=1))
        chosen.append(candidates[int(nearest.argmax())])
    return np.stack(chosen)


class PrepareLayers(PrepareBatch):
    """Put tumors into the scans of a batch where the network is, and take the layers as the target.

    A batch is one of `PatchLoader`, with donors. Or it is one of `CombinedLoader`: `normal`, and `real` scans with
    tumors that nobody has marked, whose target is the scan itself: its mask is -1 and its opacity 1, see
    `LayerDecompositionLoss`.

    Args:
        simulation: draws the tumors.
    """

    def __init__(self, simulation: RandTumorLayers) -> None:
        self.simulation = simulation

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans of shape `(B, 1, H, W, D)` and layers of shape `(B, 5, H, W, D)`, see `LAYERS`."""
        target = _simulate(self.simulation, batchdata.get("normal", batchdata), device, non_blocking)
        if "real" in batchdata:
            scans = batchdata["real"]["image"].to(target, non_blocking=non_blocking)
            layers = target.new_zeros((len(scans), *target.shape[1:]))
            layers[:, LAYERS.index("mask")] = -1
            layers[:, LAYERS.index("alpha")] = 1
            layers[:, -1:] = scans
            target = torch.cat((target, layers))
        return target[:, -1:].clone(), target


class PrepareJointLabels(PrepareBatch):
    """Put tumors into normal scans, and take their masks as labels beside those of labeled scans.

    A batch is one of `CombinedLoader`: `labeled`, and `normal` with donors. Not in the paper, whose fine-tuning sees
    labeled scans only.

    Args:
        simulation: draws the tumors.
        labels: names of the classes.

    Raises:
        ValueError: when there are other classes than background and one kind of tumor, which no simulation has.
    """

    def __init__(self, simulation: RandTumorLayers, labels: Mapping[int, str]) -> None:
        if len(labels) != 2:
            raise InputError(f"labels must be background and a tumor beside simulations, got {dict(labels)}")
        self.simulation = simulation

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans and their labels, both of shape `(B, 1, H, W, D)`; the labeled ones come first."""
        layers = _simulate(self.simulation, batchdata["normal"], device, non_blocking)
        image, label = (batchdata["labeled"][key].to(layers.device) for key in ("image", "label"))
        mask = layers[:, LAYERS.index("mask")].gt(0.5).unsqueeze(1).to(label)
        return torch.cat((image, layers[:, -1:])), torch.cat((label, mask))


def _simulate(
    simulation: RandTumorLayers, normal: Mapping[str, Any], device: str | torch.device | None, non_blocking: bool
) -> torch.Tensor:
    """Return the layers of a batch of normal scans, simulated on a device."""
    tensors = {key: normal[key].to(device=device, non_blocking=non_blocking) for key in ("image", "organ", "donor")}
    return simulation.make_batch({**normal, **tensors})
