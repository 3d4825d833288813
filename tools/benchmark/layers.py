"""Benchmark of layer decomposition: its simulation beside the published way, and beside a training step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import GaussianSmooth, Rand3DElastic

from common.layers import LAYERS, LayerDecompositionLoss, LayerUNet, RandStarShape, RandTumorLayers
from common.training import MixedPrecisionInferer
from tools.benchmark.measure import Row, Step, Timer, adam_step
from tools.benchmark.mesh import MeshRasterizer

__all__ = ["all_rows"]

PUBLISHED_SECONDS = 4.5  # of one CPU core for a sample of 128^3, as measured for the authors' pipeline


class LayersSize(NamedTuple):
    """Size of a pretraining; the defaults are the paper's.

    Args:
        patch_size: edge of the patches in voxels.
        batch_size: patches in a step.
        features: see `LayerUNet`.
    """

    patch_size: int = 128
    batch_size: int = 2
    features: Sequence[int] = (64, 128, 256, 512)

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.patch_size}^3, {self.features[0]}-{self.features[-1]} maps"

    def batch(self, device: str) -> dict[str, Any]:
        """Return scans that are brighter in their middle, whose whole middle is the organ."""
        edge, rim = self.patch_size, self.patch_size // 8
        image = torch.zeros(self.batch_size, 1, edge, edge, edge)
        inner = image[:, :, rim : edge - rim, rim : edge - rim, rim : edge - rim]
        inner.normal_(1.0, 0.1, generator=torch.Generator().manual_seed(0))
        return {
            "image": image.to(device),
            "organ": (image > 0).to(device, torch.uint8),
            "donor": image.flip(2).to(device),
            "spacing": torch.ones(self.batch_size, 3),
        }


def all_rows(timer: Timer, quick: bool) -> list[Row]:
    """Return all rows of layer decomposition, in the sizes of the paper on CUDA; on a CPU the network is smaller."""
    size = LayersSize(patch_size=64 if quick else 128)
    if timer.device == "cpu":
        size = size._replace(features=(16, 32, 64, 128))
    rows = simulation_rows(size, timer)
    if find_spec("itk"):
        rows += shape_rows(size, timer)
    rows += stage_rows(size, timer)
    rows += training_rows(size, timer)
    return rows


def simulation_rows(size: LayersSize, timer: Timer) -> list[Row]:
    """Compare simulated samples with the deformation and the blur of whole scans, most of the published pipeline.

    The latter are MONAI's; the shapes of the published pipeline, see `shape_rows`, come on top."""
    batch = size.batch(timer.device)
    deform = Rand3DElastic((5, 8), (100, 200), prob=1.0, device=torch.device(timer.device))
    blur = GaussianSmooth(1.0)
    deform.set_random_state(0)

    def published() -> None:
        for donor in batch["donor"]:
            blur(deform(donor))

    steps = {"simulated sample, whole": _simulation(batch), "deformed and blurred whole scan (MONAI)": published}
    row = timer.compare(f"simulation, {size.patch_size}^3", steps, "samples/s", size.batch_size)
    if timer.device == "cpu" and size.patch_size == 128:
        row.notes["times as fast as 4.5 s per sample"] = PUBLISHED_SECONDS * row.median_a
    return [row]


def shape_rows(size: LayersSize, timer: Timer) -> list[Row]:
    """Compare shapes that are filled voxel by voxel with the same ones as meshes that ITK rasterizes on the CPU.

    Args:
        size: of the samples; a shape has a hundredth of their volume, in voxels of 1 mm.
    """
    volume = size.patch_size**3 / 100
    shape, same = (RandStarShape((volume, volume)).set_random_state(0) for _ in range(2))
    steps: dict[str, Step] = {
        "voxel by voxel": lambda: shape((1.0, 1.0, 1.0), timer.device),
        "mesh, rasterized by ITK": MeshRasterizer(same),
    }
    return [timer.compare(f"shape of {volume:.0f} voxels", steps, "shapes/s", 1)]


def stage_rows(size: LayersSize, timer: Timer) -> list[Row]:
    """Compare the simulation with the drawing of its shapes alone."""
    shape = RandStarShape().set_random_state(0)
    steps: dict[str, Step] = {
        "shape, place, texture and composition": _simulation(size.batch(timer.device)),
        "shape alone": lambda: [shape((1.0, 1.0, 1.0), timer.device) for _ in range(size.batch_size)],
    }
    name = f"stages of the simulation, {size.patch_size}^3"
    row = timer.compare(name, steps, "samples/s", size.batch_size)
    row.notes["share of the shapes in %"] = 100 * row.median_a / row.median_b
    return [row]


def training_rows(size: LayersSize, timer: Timer) -> list[Row]:
    """Compare a step of pretraining with the simulation of its minibatch, which comes before it on the same device."""
    torch.manual_seed(0)
    batch = size.batch(timer.device)
    network = LayerUNet(features=size.features).to(timer.device).train()
    inferer, compute_loss = MixedPrecisionInferer(), LayerDecompositionLoss()
    target = RandTumorLayers().make_batch({**batch, "seed": range(size.batch_size)})
    image = target[:, LAYERS.index("image"), None].clone()
    step = adam_step(network, lambda: compute_loss(inferer(image, network), target), 1e-3)
    steps = {"simulation": _simulation(batch), "training step": step}
    row = timer.compare(f"pretraining, {size}", steps, "samples/s", size.batch_size)
    row.notes["share of the simulation in %"] = 100 * np.divide(row.median_b, row.median_a + row.median_b)
    return [row]


def _simulation(batch: dict[str, Any]) -> Step:
    """Return what simulates other tumors in the scans of a batch each time."""
    simulation, seeds = RandTumorLayers(prob=1.0), itertools.count()
    return lambda: simulation.make_batch({**batch, "seed": [next(seeds) for _ in batch["image"]]})
