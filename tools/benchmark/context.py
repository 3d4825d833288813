"""Benchmark of context restoration: its corruption beside a training step, its slices and its inference.

An `image_size` and a `patch_size` are edges in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.inferers import SliceInferer
from monai.transforms import Compose
from scipy.stats import qmc
from torch import nn

from common.context import (
    ContextUNet,
    InpaintingLoss,
    InpaintingTask,
    RandContextRestoration,
    SliceDataset,
    SliceLoader,
    WholeSliceInferer,
    draw_poisson_places,
)
from common.training import MixedPrecisionInferer, PrepareTask, has_bfloat16
from tools.benchmark.measure import Row, Step, Timer, adam_step, compare

__all__ = ["all_rows"]

NUM_CLASSES = 4
MASKS_PER_REPEAT = 4  # one takes a millisecond


class ContextSize(NamedTuple):
    """Size of a pretraining; the defaults are the paper's.

    Args:
        image_size: edge of the slices in pixels.
        batch_size: slices in a step.
        features: feature maps of each level of the U-Net, finest first.
        num_groups: groups of channels in each GroupNorm.
        in_channels: of the slices.
        patch_size: edge in pixels of the patches that the training step swaps.
    """

    image_size: int = 512
    batch_size: int = 9
    features: Sequence[int] = (32, 64, 128, 256, 512)
    num_groups: int = 16
    in_channels: int = 3
    patch_size: int = 32

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.image_size}^2, {self.features[0]}-{self.features[-1]} maps"

    def network(self, out_channels: int, head_kernel_size: int) -> ContextUNet:
        return ContextUNet(self.in_channels, out_channels, self.features, self.num_groups, head_kernel_size)

    def images(self) -> torch.Tensor:
        return torch.randn(self.batch_size, self.in_channels, *2 * [self.image_size])


def all_rows(timer: Timer, quick: bool) -> list[Row]:
    """Return all rows of context restoration, in the sizes of the paper or, when `quick`, in smaller ones.

    A CPU trains with batches of 2, CUDA with the paper's batches of 9; both in bfloat16 where they have it.
    """
    is_cuda = timer.device == "cuda"
    size = ContextSize(128, features=(16, 32, 64, 128)) if quick else ContextSize()
    if not is_cuda:
        size = size._replace(batch_size=2)
    patch_sizes = (32, 16, 8) if quick else (64, 32, 16, 8)  # no two of 64 make a quarter of 128^2
    rows = mask_rows(size.image_size, patch_sizes, timer)
    rows += corruption_rows(size, patch_sizes, timer, aim=0.03 if is_cuda else 0.1)
    rows += slice_loader_rows(size, timer)
    rows += slice_inference_rows(size._replace(batch_size=8), 64 if is_cuda else 8, timer)
    return rows


def bridson_places(R: np.random.RandomState, image_size: int, patch_size: int) -> np.ndarray:
    """Draw what `draw_poisson_places` draws for a square image, by Bridson's algorithm.

    SciPy fills the image with points at the distance, and as many as are needed are taken from them. Rounding down
    leaves the patches disjoint, and may bring two of them nearer to each other by less than a pixel and a half.

    Returns:
        First row and first column of each patch, of shape `(num_patches, 2)`.
    """
    num_patches = image_size**2 // (4 * patch_size**2)
    room = image_size - patch_size + 1
    points = np.empty((0, 2))
    while len(points) < num_patches:
        sampler = qmc.PoissonDisk(2, radius=patch_size * math.sqrt(2) / room, seed=R)  # SciPy 1.12 has no `rng`
        points = sampler.fill_space()
    chosen = R.choice(len(points), size=num_patches, replace=False)
    return np.minimum(points[chosen] * room, room - 1).astype(int)


def mask_rows(image_size: int, patch_sizes: Sequence[int], timer: Timer) -> list[Row]:
    """Compare masks of emptied patches at a distance with those that Bridson's algorithm draws, on the CPU."""
    R = np.random.RandomState(0)
    rows = []
    for patch_size in patch_sizes:
        draws = [
            partial(draw_poisson_places, R, 2 * (image_size,), patch_size, is_paired=False),
            partial(bridson_places, R, image_size, patch_size),
        ]
        steps = [partial(_draw_masks, draw, image_size, patch_size) for draw in draws]
        name = f"Poisson-disc masks of {image_size}^2, K={patch_size}"
        sides = {"darts on open places": steps[0], "Bridson (SciPy), thinned": steps[1]}
        row = timer.compare(name, sides, "masks/s", MASKS_PER_REPEAT)
        shares = [np.mean(step()) for step in steps]
        row.notes["covered share of the image"] = f"{shares[0]:.4f} against {shares[1]:.4f}"
        rows.append(row)
    return rows


def training_step(size: ContextSize, is_corrupted: bool, device: str) -> Step:
    """Return a step of pretraining (corruption, forward, backward, Adam) as the bundle does it, on random slices."""
    torch.manual_seed(0)
    network = size.network(size.in_channels, 3).to(device).train()
    inferer, compute_loss = MixedPrecisionInferer(), InpaintingLoss()
    images = size.images().to(device)
    corrupt = _corruption(size.patch_size, images) if is_corrupted else lambda: (images, images)

    def loss() -> torch.Tensor:
        image, target = corrupt()
        return compute_loss(inferer(image, network), target)

    return adam_step(network, loss, 1e-3, betas=(0.99, 0.995))


def corruption_rows(size: ContextSize, patch_sizes: Sequence[int], timer: Timer, aim: float) -> list[Row]:
    """Compare the training step with one that leaves out the corruption, and the latter with the corruption alone.

    The first row has patches of `size.patch_size`; the others are the drawing and swapping of patches for a batch.
    The device is waited for, so that on CUDA no drawing hides behind the network of the step before.

    Args:
        aim: largest share of the step that the corruption may take.
    """
    torch.manual_seed(0)
    images = size.images().to(timer.device)
    steps = [training_step(size, is_corrupted, timer.device) for is_corrupted in (True, False)]
    steps += [_corruption(patch_size, images) for patch_size in patch_sizes]
    corrupted, plain, *alone = timer.time(steps)
    amounts = (size.batch_size, size.batch_size)
    precision = "bfloat16" if has_bfloat16(torch.device(timer.device)) else "float32"
    notes: dict[str, Any] = {"precision of the convolutions": precision}
    sides = (f"swapped patches, K={size.patch_size}", "uncorrupted images")
    rows = [compare(f"training step, {size}", sides, (corrupted, plain), "images/s", amounts, notes)]
    for patch_size, seconds in zip(patch_sizes, alone, strict=True):
        sides = (f"draw and swap, K={patch_size}", "training step, uncorrupted images")
        row = compare(f"corruption, {size}", sides, (seconds, plain), "images/s", amounts)
        row.notes["share of the step in %"] = 100 * row.median_b / row.median_a
        row.notes["aim: less than, in %"] = 100 * aim
        rows.append(row)
    return rows


def slice_loader_rows(size: ContextSize, timer: Timer) -> list[Row]:
    """Compare the slices that one process takes from cached volumes with those that training takes in the same time."""
    torch.manual_seed(0)
    volumes = [size.images().movedim(0, -1) for _ in range(2)]
    cases: list[Any] = [{"image": volume} for volume in volumes]
    dataset = SliceDataset(cases, Compose([]))
    batches = iter(SliceLoader(dataset, size.batch_size, num_batches=timer.repeats + 1))
    steps: dict[str, Step] = {
        "cached volumes, no workers": lambda: next(batches)["image"].to(timer.device),
        "training step": training_step(size, True, timer.device),
    }
    return [timer.compare(f"loader, {size}", steps, "slices/s", size.batch_size)]


def slice_inference_rows(size: ContextSize, num_slices: int, timer: Timer) -> list[Row]:
    """Compare inference of whole slices with MONAI's, whose window is then the slice; the logits must be the same."""
    torch.manual_seed(0)
    network: nn.Module = size.network(NUM_CLASSES, 1).to(timer.device).eval()
    edges = 2 * [size.image_size]
    volume = torch.randn(1, size.in_channels, *edges, num_slices, device=timer.device)
    inferers: dict[str, Any] = {
        "WholeSliceInferer": WholeSliceInferer(2, size.batch_size, sigmoid=False),
        "MONAI's SliceInferer": SliceInferer(2, roi_size=edges, sw_batch_size=size.batch_size, overlap=0),
    }
    steps = {name: torch.inference_mode()(partial(inferer, volume, network)) for name, inferer in inferers.items()}
    row = timer.compare(f"inference of {num_slices} slices, {size}", steps)
    ours, theirs = (step() for step in steps.values())
    row.notes["largest difference of the logits"] = (ours - theirs).abs().max().item()
    row.notes["largest logit"] = theirs.abs().max().item()
    return [row]


def _corruption(patch_size: int, images: torch.Tensor) -> Step:
    """Return what corrupts the images with other patches each time."""
    prepare = PrepareTask(InpaintingTask(RandContextRestoration(patch_size)))
    seeds = itertools.count()
    return lambda: prepare({"image": images, "seed": [next(seeds) for _ in images]}, images.device)


def _draw_masks(draw: Callable[[], np.ndarray], image_size: int, patch_size: int) -> np.ndarray:
    masks = np.zeros((MASKS_PER_REPEAT, image_size, image_size), dtype=bool)
    for mask in masks:
        for row, column in draw().tolist():
            mask[row : row + patch_size, column : column + patch_size] = True
    return masks
