"""Laws of inference on whole volumes: the tiles leave no trace."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from common.fnet import FNet, FNetInferer


@pytest.fixture
def network(settle):
    torch.manual_seed(0)
    return settle(FNet(1, 3, (3, 2, 2), 3, gain=1.0)).double()


@pytest.fixture
def volume():
    """Two samples of different brightness, whose smallest intensities lie in one corner."""
    volume = torch.randn(2, 1, 23, 17, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    volume[:, :, 0, 0, 0] = torch.tensor([[-8.0], [-20.0]])
    return volume


@torch.no_grad()
def probabilities(network, volume):
    return network(volume).softmax(1)


@pytest.mark.parametrize("tile_size", [1, 4, 7, 8, (4, 16, 8), 16, 96, (100, 5, 100)])
def test_dense_tiles_of_any_size_equal_the_whole_volume(network, volume, tile_size):
    with torch.no_grad():
        found = FNetInferer(tile_size)(volume, network)
    torch.testing.assert_close(found.double(), probabilities(network, volume), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("num_head_convs", "kernel", "features"), [(0, 3, (2, 2)), (1, 3, (2, 2, 2, 2)), (1, 5, (2, 2, 2)), (2, 5, (2, 2))]
)
@pytest.mark.parametrize("tile_size", [1, 9, 16])
def test_dense_tiles_leave_no_gap_whatever_the_design(settle, num_head_convs, kernel, features, tile_size):
    """With one head convolution a small tile was smaller than the step to the next one: voxels stayed unset."""
    network = settle(FNet(1, 2, features, kernel, num_head_convs=num_head_convs, gain=1.0))
    volume = torch.randn(1, 1, 19, 9, 9)
    with torch.no_grad():
        found = FNetInferer(tile_size)(volume, network)
    torch.testing.assert_close(found, probabilities(network, volume), atol=1e-5, rtol=0)


def test_the_border_is_padded_with_air_of_the_whole_volume_not_of_the_tile(network, volume):
    """The far corner is brighter than the rest: its tile's own minimum would be another padding."""
    volume[..., 16:, :, :] += 5
    with torch.no_grad():
        small, large = (FNetInferer(tile_size)(volume, network) for tile_size in (4, 64))
    torch.testing.assert_close(small, large, atol=1e-6, rtol=0)
    torch.testing.assert_close(small.double(), probabilities(network, volume), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("patch_size", "overlap"), [(8, 0.5), (8, 0.0), (16, 0.7), ((8, 16, 12), 0.5), (32, 0.5), (12, 0.99)]
)
def test_overlapping_patches_equal_dense_tiles(network, volume, patch_size, overlap):
    with torch.no_grad():
        dense = FNetInferer(8)(volume, network)
        blended = FNetInferer(mode="overlap", patch_size=patch_size, overlap=overlap)(volume, network)
    torch.testing.assert_close(blended, dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["dense", "overlap"])
def test_samples_of_a_batch_do_not_see_each_other(network, volume, mode):
    inferer = FNetInferer(8, mode, patch_size=16)
    with torch.no_grad():
        together = inferer(volume, network)
        alone = torch.cat([inferer(sample, network) for sample in volume.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["dense", "overlap"])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 3, 30), (16, 16, 1)])
def test_a_volume_smaller_than_the_patch_keeps_its_size(network, mode, size):
    volume = torch.randn(1, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        found = FNetInferer(16, mode, patch_size=16)(volume, network)
    torch.testing.assert_close(found.double(), probabilities(network, volume), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["dense", "overlap"])
def test_float16_halves_the_memory_of_the_result(network, volume, mode):
    with torch.no_grad():
        whole = FNetInferer(8, mode, patch_size=16)(volume, network)
        half = FNetInferer(8, mode, patch_size=16, output_dtype=torch.float16)(volume, network)
    assert half.dtype == torch.float16 and whole.dtype == torch.float32
    torch.testing.assert_close(half.float(), whole, atol=1e-3, rtol=0)


def test_a_parallel_wrapper_and_metadata_change_nothing(network, volume):
    with torch.no_grad():
        plain = FNetInferer(8)(volume, network)
        wrapped = FNetInferer(8)(MetaTensor(volume), nn.DataParallel(network))
    assert type(wrapped) is torch.Tensor
    assert torch.equal(plain, wrapped)


def test_the_volume_stays_untouched(network, volume):
    copy = volume.clone()
    with torch.no_grad():
        FNetInferer(8)(volume, network)
    assert torch.equal(volume, copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "gaussian"}, "mode must be one of dense, overlap, got 'gaussian'"),
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\), got 1.0"),
        ({"overlap": -0.1}, r"overlap must be in \[0, 1\), got -0.1"),
        ({"tile_size": 0}, "tile_size must be a whole number from 1, or three of them, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FNetInferer(**options)


def test_a_patch_that_does_not_fit_the_network_is_refused(network, volume):
    with pytest.raises(
        ValueError, match=r"patch_size must be a feasible size such as \[12, 16\] .* got \(13, 13, 13\)"
    ):
        FNetInferer(mode="overlap", patch_size=13)(volume, network)


def test_a_patch_smaller_than_the_grid_of_the_network_is_refused(settle):
    """Patches of 2 voxels on a grid of 8 left gaps, and NaN in them."""
    network = settle(FNet(1, 2, (2, 2, 2, 2), 3, num_head_convs=1))
    with pytest.raises(ValueError, match=r"patch_size must be at least the network's stride of 8, got \(2, 2, 2\)"):
        FNetInferer(mode="overlap", patch_size=2)(torch.randn(1, 1, 20, 8, 8), network)
