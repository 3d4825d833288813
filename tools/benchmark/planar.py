"""Benchmark of planar descriptors: a step of their pretraining, their extraction, and the search for neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from common.planar import (
    LearnedDescriptor,
    PlanarAtlas,
    RandSlabPair,
    TriplanarPretext,
    VoxelGrid,
    extract_descriptors,
    nearest_neighbors,
)
from tools.benchmark.measure import Row, Step, Timer, adam_step, compare, peak_memory

__all__ = ["all_rows"]


class PlanarSize(NamedTuple):
    """Size of a pretraining; the networks are the paper's.

    Args:
        batch_size: pairs of slabs in a step, for each of the three planes.
        edge: of the volumes in voxels; in 103, slabs are plain slices.
        num_volumes: that stay on the device.
    """

    batch_size: int = 8
    edge: int = 103
    num_volumes: int = 8

    def __str__(self) -> str:
        return f"batch {self.batch_size}, {self.edge}^3"

    def volumes(self, device: str) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(1, *3 * [self.edge], generator=generator).to(device) for _ in range(self.num_volumes)]

    def slabs(self) -> dict[str, Any]:
        """Return the geometry of the slabs as the bundle has it."""
        return {"half_width": 41 / 102, "half_depth": 6 / 102, "mode": "nearest", "padding_mode": "border"}


def all_rows(timer: Timer, quick: bool) -> list[Row]:
    """Return all rows of planar descriptors, in the sizes of the paper on CUDA, and in smaller ones on a CPU.

    The paper's volume has 192,720 positions.
    """
    is_cuda = timer.device == "cuda"
    size = PlanarSize(batch_size=8 if quick else 64) if is_cuda else PlanarSize()
    num_queries, num_references = (2000, 5000) if quick else (4000, 45000)
    rows = pretraining_rows(size, timer)
    rows += extraction_rows(size, 400 if quick else 4000, timer)
    rows += neighbor_rows(num_queries, num_references, timer)
    spatial_size = (243, 176, 293) if is_cuda and not quick else (48, 48, 48)
    rows += volume_rows(spatial_size, 4, num_references, timer)
    return rows


def pretraining_rows(size: PlanarSize, timer: Timer) -> list[Row]:
    """Compare steps that describe both slabs of a pair in one pass with steps of two passes, and with the sampling."""
    torch.manual_seed(0)
    volumes = size.volumes(timer.device)
    pairs = RandSlabPair(**size.slabs())

    def sample() -> tuple[torch.Tensor, torch.Tensor]:
        drawn = np.arange(size.batch_size) % len(volumes)
        return pairs([volumes[index] for index in drawn])

    steps = [_training_step(sample, is_fused, timer.device) for is_fused in (True, False)]
    fused, apart, alone = timer.time([*steps, sample])
    name = f"pretraining of three planes, {size}"
    rows = [compare(name, ("one pass for both slabs", "two passes"), (fused, apart), "steps/s", (1, 1))]
    row = compare(name, ("sampling of the pairs", "step with it"), (alone, fused), "steps/s", (1, 1))
    row.notes["share of the step in %"] = 100 * row.median_b / row.median_a
    return [*rows, row]


def _training_step(sample: Step, is_fused: bool, device: str) -> Step:
    torch.manual_seed(0)
    network = TriplanarPretext().to(device)

    def loss() -> torch.Tensor:
        pairs, target = sample()
        return F.mse_loss(network(pairs) if is_fused else _two_passes(network, pairs), target)

    return adam_step(network, loss, 5e-5)


def _two_passes(network: TriplanarPretext, pairs: torch.Tensor) -> torch.Tensor:
    """Return what the network returns, each slab of the pairs being described on its own."""
    parts = []
    for descriptor, head, own in zip(
        network.descriptors.values(), network.heads.values(), pairs.unbind(1), strict=True
    ):
        parts.append(head(torch.cat([descriptor(slabs) for slabs in own.unbind(1)], dim=1)))
    return torch.stack(parts, dim=1)


def extraction_rows(size: PlanarSize, num_places: int, timer: Timer) -> list[Row]:
    """Compare the extraction in batches with one of patch after patch by `grid_sample`."""
    volume = size.volumes(timer.device)[0]
    centers = (1.2 * torch.rand(num_places, 3, generator=torch.Generator().manual_seed(1)) - 0.6).to(timer.device)
    torch.manual_seed(0)
    batched = LearnedDescriptor(**size.slabs()).to(timer.device)
    single = LearnedDescriptor(**{**size.slabs(), "mode": "bilinear"}).to(timer.device)
    single.load_state_dict(batched.state_dict())
    count = max(num_places // 20, 1)
    sides = [
        partial(extract_descriptors, volume, batched, centers),
        partial(extract_descriptors, volume, single, centers[:count], 1),
    ]
    name = f"descriptors of {num_places} places, {size.edge}^3"
    labels = ("in batches, slabs as slices", "patch after patch, grid_sample")
    row = compare(name, labels, timer.time(sides), "descriptors/s", (num_places, count))
    exact, other = (extract_descriptors(volume, single, centers[:count], batch) for batch in (None, 1))
    row.notes["largest difference, both by grid_sample"] = (exact - other).abs().max().item()
    return [row]


def search(num_queries: int, num_references: int, num_neighbors: int, device: str, is_brute: bool = False) -> Step:
    """Return the search of random descriptors among others, exact in chunks or with all distances at once."""
    generator = torch.Generator().manual_seed(0)
    queries, references = (torch.randn(num, 192, generator=generator) for num in (num_queries, num_references))
    return partial(
        brute_force if is_brute else nearest_neighbors, queries.to(device), references.to(device), num_neighbors
    )


def brute_force(
    queries: torch.Tensor, references: torch.Tensor, num_neighbors: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared distances and indices of the nearest references, by the matrix of all distances."""
    distances, indices = torch.cdist(queries, references).topk(num_neighbors, largest=False)
    return distances.square(), indices


def neighbor_rows(num_queries: int, num_references: int, timer: Timer, num_neighbors: int = 21) -> list[Row]:
    """Compare the search among random descriptors with brute force; notes are the memory of both and the recall."""
    sizes = (num_queries, num_references, num_neighbors, timer.device)
    steps = {"nearest_neighbors": search(*sizes), "matrix of all distances": search(*sizes, is_brute=True)}
    name = f"{num_neighbors} neighbors of {num_queries} among {num_references} descriptors"
    row = timer.compare(name, steps, "queries/s", num_queries)
    found, expected = (step()[1].sort(dim=1).values for step in steps.values())
    row.notes["recall"] = (found == expected).double().mean().item()
    row.notes["peak memory of A in MiB"] = peak_memory(search, sizes, timer.device)
    row.notes["peak memory of B in MiB"] = peak_memory(search, (*sizes, True), timer.device)
    return [row]


def volume_rows(spatial_size: Sequence[int], step: int, num_references: int, timer: Timer) -> list[Row]:
    """Compare the segmentation of a volume with the extraction of its descriptors alone.

    Args:
        step: between described voxels.
        num_references: voxels of the atlas.
    """
    torch.manual_seed(0)
    volume = torch.randn(1, *spatial_size, device=timer.device)
    descriptor = LearnedDescriptor()
    atlas = PlanarAtlas(descriptor, 7, step=step).to(timer.device)
    grid = VoxelGrid(spatial_size, step)
    centers = grid.centers(grid.indices()).to(timer.device)
    atlas.descriptors = torch.randn(num_references, descriptor.out_channels, device=timer.device).half()
    atlas.centers = torch.rand(num_references, 3, device=timer.device)
    atlas.labels = (torch.arange(num_references, device=timer.device) % 7).to(atlas.labels)
    atlas.is_voter = torch.ones_like(atlas.labels, dtype=torch.bool)
    atlas.class_counts = atlas.labels.long().bincount(minlength=7)
    steps: dict[str, Step] = {
        "segmentation, end to end": partial(atlas, volume[None]),
        "descriptors alone": partial(extract_descriptors, volume, descriptor, centers),
    }
    name = f"volume of {len(centers)} positions, atlas of {num_references}"
    return [timer.compare(name, steps, "positions/s", len(centers))]
