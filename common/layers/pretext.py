"""Pretext tasks: layer decomposition, those that it is compared with, and its simulations beside labeled scans.

Sources: layer decomposition, X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through
layer decomposition*, arXiv 2021 (https://arxiv.org/abs/2109.03230), section 3.3; rotation, relative location and jigsaw
puzzles in 3D, A. Taleb et al., *3D self-supervised methods for medical imaging*, NeurIPS 2020
(https://arxiv.org/abs/2006.03829); restoration, Z. Zhou et al., *Models Genesis*, MICCAI 2019
(https://arxiv.org/abs/1908.06912).

Minibatches are those of `PatchLoader`: each image comes with a seed, which has all of its chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, OneOf, RandCoarseDropout, RandCoarseShuffle, RandHistogramShift
from torch import nn

from common.cli import InputError, check_whole_numbers
from common.training import PretextTask

from .augmentation import EachChannel
from .network import EncoderClassifier, LayerUNet
from .simulation import Layers, RandTumorLayers, split_layers

__all__ = [
    "JigsawPuzzle",
    "JointSegmentation",
    "LayerDecomposition",
    "RelativeLocation",
    "Restoration",
    "RotationPrediction",
]

_Loss = Callable[[Any, Any], torch.Tensor]
_Move = Callable[[torch.Tensor], torch.Tensor]


class LayerDecomposition(PretextTask):
    """Layer decomposition: simulated tumors are put into scans, and their layers are to be told.

    In an adaptation, real scans follow, whose tumors nobody has marked. Their target is the scan itself, with a mask of
    -1 and an opacity of 1, see `LayerDecompositionLoss`.

    Args:
        network: such as `LayerUNet`.
        simulation: draws the tumors.
        loss: such as `LayerDecompositionLoss`.
        selection_loss: by which the weights of an epoch are chosen; `loss` if not given.
        handlers: of this task alone.
    """

    def __init__(
        self,
        network: nn.Module,
        simulation: RandTumorLayers,
        loss: _Loss,
        selection_loss: _Loss | None = None,
        handlers: Sequence[Any] = (),
    ) -> None:
        super().__init__(network, loss, selection_loss, handlers)
        self.simulation = simulation

    def make_batch(self, batch: Mapping[str, Any], move: _Move) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans of shape `(B, C, H, W, D)` and layers of shape `(B, 3 * C + 2, H, W, D)`, see `Layers`.

        Args:
            batch: with donors; or the `normal` one, which is such, and the `real` one of a `CombinedLoader`.
            move: brings a tensor to the device of the network.
        """
        target = _simulate(self.simulation, batch.get("normal", batch), move)
        if "real" in batch:
            scans = move(batch["real"]["image"])
            absent, mask = torch.zeros_like(scans), -torch.ones_like(scans[:, :1])
            layers = Layers(organ=absent, tumor=absent, mask=mask, alpha=-mask, image=scans)
            target = torch.cat((target, torch.cat(layers, dim=1)))
        return split_layers(target).image.clone(), target


class JointSegmentation:
    """Segmentation of labeled scans and, beside them, of simulated tumors, whose masks count as labels.

    Not in the paper, whose fine-tuning sees labeled scans only.

    Args:
        simulation: draws the tumors.
        labels: names of the classes.

    Raises:
        ValueError: when there are other classes than background and one kind of tumor, which no simulation has.
    """

    def __init__(self, simulation: RandTumorLayers, labels: Mapping[int, str]) -> None:
        if len(labels) != 2:
            raise InputError(
                f"labels must be background and a tumor beside simulations, got {dict(labels)}; leave out joint.yaml"
            )
        self.simulation = simulation

    def make_batch(self, batch: Mapping[str, Any], move: _Move) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans of shape `(B, C, H, W, D)` and their labels; the simulated ones come last.

        Labels have shape `(B, 1 or 2, H, W, D)`: where some are pseudo-labels, those of simulations are in no doubt.

        Args:
            batch: of a `CombinedLoader`: `labeled`, and `normal` with donors.
            move: brings a tensor to the device of the network.
        """
        layers = split_layers(_simulate(self.simulation, batch["normal"], move))
        image, label = (move(batch["labeled"][key]) for key in ("image", "label"))
        mask = layers.mask.gt(0.5).to(label)
        mask = torch.cat((mask, torch.zeros_like(mask)), dim=1) if label.shape[1] > 1 else mask
        return torch.cat((image, layers.image)), torch.cat((label, mask))


def _simulate(simulation: RandTumorLayers, batch: Mapping[str, Any], move: _Move) -> torch.Tensor:
    """Return the layers of a minibatch of normal scans, simulated where the network is."""
    return simulation.make_batch({**batch, **{key: move(batch[key]) for key in ("image", "organ", "donor")}})


class Restoration(PretextTask):
    """Restoration of scans that were distorted as Models Genesis does it.

    Intensities are changed by a monotone curve, voxels shuffled within small boxes, and boxes, or all but boxes, are
    filled with noise. All channels of a scan have the same curve, between the extremes of each, and what lies at one
    place stays together.

    Args:
        network: returns an image.
        loss: of that and the scan.
    """

    def __init__(self, network: nn.Module, loss: _Loss) -> None:
        super().__init__(network, loss)
        inner = RandCoarseDropout(holes=3, max_holes=6, spatial_size=(16, 16, 4), prob=0.9)
        outer = RandCoarseDropout(holes=3, max_holes=6, spatial_size=(48, 48, 12), prob=0.9, dropout_holes=False)
        self.transform = Compose(
            [
                EachChannel(RandHistogramShift(num_control_points=(4, 8), prob=0.9)),
                _RandCoarseShuffle(holes=100, spatial_size=(4, 4, 2), prob=0.5),
                OneOf([inner, outer], weights=[0.8, 0.2]),
            ]
        )

    def make_batch(self, batch: Mapping[str, Any], move: _Move) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distorted images of shape `(B, C, H, W, D)`, and the images."""
        images = move(batch["image"])
        distorted = []
        for image, seed in zip(images, batch["seed"], strict=True):
            self.transform.set_random_state(int(seed))
            distorted.append(torch.as_tensor(self.transform(image.clone()), dtype=image.dtype))
        return torch.stack(distorted).to(images.device), images


class _RandCoarseShuffle(RandCoarseShuffle):
    """MONAI's shuffle within boxes, which has an order of the voxels for each channel, with one order for all."""

    def _transform_holes(self, img: np.ndarray) -> np.ndarray:
        for box in self.hole_coords:
            voxels = img[box].reshape(len(img), -1)
            img[box] = voxels[:, self.R.permutation(voxels.shape[1])].reshape(img[box].shape)
        return img


class _Classification(PretextTask):
    """Pretext task that shows each image in one of several ways, and asks in which.

    Args:
        unet: its encoder learns the task, in an `EncoderClassifier`.
        loss: of its logits and the classes.
        num_classes: ways in which an image can be shown.
        num_patches: in which an image is shown.
    """

    def __init__(self, unet: LayerUNet, loss: _Loss, num_classes: int, num_patches: int = 1) -> None:
        super().__init__(EncoderClassifier(unet, num_classes, num_patches), loss)
        self.num_classes = num_classes

    def make_batch(self, batch: Mapping[str, Any], move: _Move) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is shown of the images, and classes of shape `(B,)`."""
        images = move(batch["image"])
        shown, classes = [], []
        for image, seed in zip(images, batch["seed"], strict=True):
            R = np.random.RandomState(int(seed))
            classes.append(int(R.randint(self.num_classes)))
            shown.append(self.show(image, classes[-1], R))
        return torch.stack(shown), torch.tensor(classes, device=images.device)

    def show(self, image: torch.Tensor, chosen: int, R: np.random.RandomState) -> torch.Tensor:
        """Return what is shown of an image of shape `(C, H, W, D)` when its class is the chosen one."""
        raise NotImplementedError


class RotationPrediction(_Classification):
    """Rotation prediction: by which multiple of 90 degrees was a scan turned, and about which axis?

    Class 0 is no turn; 90, 180 and 270 degrees about each axis follow.

    Args:
        unet: its encoder learns the task.
        loss: of the logits and the classes.
        axes: spatial axes to turn about. Patches must be square across each of them.

    Raises:
        ValueError: when `axes` are not some of 0, 1 and 2, each once.
    """

    def __init__(self, unet: LayerUNet, loss: _Loss, axes: Sequence[int] = (0, 1, 2)) -> None:
        if not axes or not {*axes} <= {0, 1, 2} or len({*axes}) < len(axes):
            raise InputError(f"axes must be some of 0, 1 and 2, each once, got {list(axes)}")
        self.turns = [(0, 0), *((axis, count) for axis in axes for count in (1, 2, 3))]
        super().__init__(unet, loss, len(self.turns))

    def show(self, image: torch.Tensor, chosen: int, R: np.random.RandomState) -> torch.Tensor:
        planes = {axis: [other + 1 for other in range(3) if other != axis] for axis, _ in self.turns}
        for axis, _ in self.turns[1:]:
            if image.shape[planes[axis][0]] != image.shape[planes[axis][1]]:
                raise InputError(
                    f"image must be square across axis {axis}, got {tuple(image.shape[1:])}; make patch_size so"
                )
        axis, count = self.turns[chosen]
        return torch.rot90(image, count, planes[axis])


class RelativeLocation(_Classification):
    """Relative location: where does a cell of a scan lie, beside the one in the middle?

    Classes are the cells in their order, without the middle one; shown are pairs of shape `(2, C, h, w, d)`.

    Args:
        unet: its encoder learns the task.
        loss: of the logits and the classes.
        grid: odd number of cells along each axis.
        gap: voxels by which a cell is smaller than its place.

    Raises:
        ValueError: when the grid has no cell in its middle, or a number is out of range.
    """

    def __init__(self, unet: LayerUNet, loss: _Loss, grid: Sequence[int] = (3, 3, 3), gap: int = 2) -> None:
        self.cells = _Cells(grid, gap)
        if any(count % 2 == 0 for count in grid):
            raise InputError(f"grid must be odd along each axis, got {list(grid)}")
        super().__init__(unet, loss, math.prod(grid) - 1, num_patches=2)

    def show(self, image: torch.Tensor, chosen: int, R: np.random.RandomState) -> torch.Tensor:
        middle = self.num_classes // 2
        return self.cells.cut(image, R)[[middle, chosen + (chosen >= middle)]]


class JigsawPuzzle(_Classification):
    """Jigsaw puzzle: in which one of a few orders are the cells of a scan shown?

    The orders are chosen one after the other, each the most unlike those before among random ones. Shown are cells of
    shape `(num_cells, C, h, w, d)`.

    Args:
        unet: its encoder learns the task.
        loss: of the logits and the classes.
        grid: number of cells along each axis.
        num_permutations: number of orders.
        gap: voxels by which a cell is smaller than its place.

    Attributes:
        permutations: of shape `(num_permutations, num_cells)`.

    Raises:
        ValueError: when there are not as many orders, or a number is out of range.
    """

    def __init__(
        self,
        unet: LayerUNet,
        loss: _Loss,
        grid: Sequence[int] = (2, 2, 2),
        num_permutations: int = 100,
        gap: int = 2,
    ) -> None:
        self.cells = _Cells(grid, gap)
        num_cells = math.prod(grid)
        check_whole_numbers(num_permutations=num_permutations)
        if not 2 <= num_permutations <= math.factorial(num_cells):
            raise InputError(f"num_permutations must be from 2 to {math.factorial(num_cells)}, got {num_permutations}")
        self.permutations = _choose_permutations(num_cells, num_permutations)
        super().__init__(unet, loss, num_permutations, num_cells)

    def show(self, image: torch.Tensor, chosen: int, R: np.random.RandomState) -> torch.Tensor:
        return self.cells.cut(image, R)[self.permutations[chosen].tolist()]


class _Cells:
    """Equal cells of images, from which a margin is left out at random, so that borders do not match.

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
            raise InputError(
                f"image must hold {self.grid} cells with gaps of {self.gap}, got "
                f"{tuple(image.shape[1:])}; raise patch_size"
            )
        cells = []
        for cell in itertools.product(*map(range, self.grid)):
            starts = [index * place + R.randint(gap + 1) for index, place, gap in zip(cell, places, gaps, strict=True)]
            window = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
            cells.append(image[(slice(None), *window)])
        return torch.stack(cells)


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
