"""Slabs that share their planes are described as each by itself."""

from __future__ import annotations

import pytest
import torch

from common.planar import LearnedDescriptor, VoxelGrid, extract_descriptors
from common.planar.shared_slabs import describe_slabs

EDGE = 60
WHOLE = {"half_width": 41 / (EDGE - 1), "half_depth": 6 / (EDGE - 1), "mode": "nearest"}  # whole numbers of voxels
SIZES = {"out_channels": 8, "features": 4, "in_channels": 2}


def make(**options):
    torch.manual_seed(0)
    return LearnedDescriptor(**SIZES, **{**WHOLE, **options})


@pytest.fixture(scope="module")
def volume():
    return torch.randn(2, EDGE, EDGE, EDGE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("step", [7, 10])
def test_they_are_described_as_each_by_itself(volume, step, padding_mode):
    """With an odd step, slabs begin at even and at odd pixels."""
    descriptor = make(padding_mode=padding_mode)
    grid = VoxelGrid(volume.shape[1:], step)
    centers = grid.centers(grid.indices())[::3]
    assert describe_slabs(descriptor.descriptors[0], volume, centers, 0, descriptor.slab, 32) is not None
    with torch.no_grad():
        alone = descriptor(volume, centers)
    torch.testing.assert_close(extract_descriptors(volume, descriptor, centers), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"mode": "bilinear"}, {"half_width": 0.5}, {"half_width": 82 / (EDGE - 1)}], ids=str
)
def test_other_slabs_share_nothing(volume, options):
    """Those that lie between voxels, drift among them, or leave some out."""
    descriptor = make(**options)
    centers = torch.rand(5, 3, generator=torch.Generator().manual_seed(2)) - 0.5
    assert describe_slabs(descriptor.descriptors[1], volume, centers, 1, descriptor.slab, 32) is None
    with torch.no_grad():
        alone = descriptor(volume, centers)
    torch.testing.assert_close(extract_descriptors(volume, descriptor, centers), alone, atol=1e-5, rtol=1e-5)


def test_a_whole_image_is_pooled_as_its_windows(volume):
    network = make().descriptors[0]
    with torch.no_grad():
        pooled = network.pool(volume[:, ::10].reshape(1, -1, EDGE, EDGE)[:, :6])
        window = network.pool(volume[:, ::10].reshape(1, -1, EDGE, EDGE)[:, :6, 4:46, 10:52])
    assert pooled.shape[2:] == (EDGE // 2 - 1, EDGE // 2 - 1)
    torch.testing.assert_close(pooled[..., 2:22, 5:25], window)
