"""Laws of the descriptor of a whole scan."""

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet, UNet
from torch import nn

from common.active_learning import describe_scan
from common.context import ContextUNet
from common.fnet import FNet
from common.layers import LayerUNet
from common.planar import GrayValueDifference, PlanarAtlas


@pytest.fixture
def scan():
    return torch.randn(1, 20, 18, 16, generator=torch.Generator().manual_seed(0))


NETWORKS = {  # with the number of channels of their widest convolution
    "fnet": (lambda: FNet(1, 6, [4, 4], kernel_size=3), 4),  # more classes than features
    "context_unet": (lambda: ContextUNet(1, 2, [4, 8], num_groups=2), 8),
    "layer_unet": (lambda: LayerUNet(features=[4, 8]), 8),
    "unet": (lambda: UNet(3, 1, 2, [4, 8, 16], [2, 2], num_res_units=1), 16),
    "basic_unet": (lambda: BasicUNet(3, 1, 2, (4, 4, 8, 8, 16, 4)), 16),
    "seg_res_net": (lambda: SegResNet(3, 8, 1, 2), 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_describes_each_part_of_a_scan_by_its_widest_features(scan, settle, name):
    torch.manual_seed(0)
    make, width = NETWORKS[name]
    network = settle(make())
    descriptor = describe_scan(network, scan)
    assert descriptor.shape == (27 * width,)
    torch.testing.assert_close(describe_scan(network, scan), descriptor, rtol=0, atol=0)
    assert not torch.allclose(describe_scan(network, scan.flip(1) ** 2), descriptor)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_numbers_are_means_over_parts_of_the_first_of_the_widest_maps():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1), nn.Conv3d(2, 3, 1))
    network[0].weight.data = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1, 1)
    network[0].bias.data = torch.tensor([0.0, 1.0])
    scan = torch.zeros(1, 64, 64, 64)
    scan[:, 43:, :21, 43:] = 5.0  # a corner
    parts = describe_scan(network, scan).view(2, 3, 3, 3)
    assert parts[0, 2, 0, 2] > 4 and parts[0, 0, 0, 0] == 0 and parts[0, 1, 1, 1] == 0
    torch.testing.assert_close(parts[1], 1 - 2 * parts[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_2d_network_sees_slices_across_the_axis(axis):
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 1), bias=False), nn.Conv2d(1, 1, 1))
    network[0].weight.data = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3, 1)  # the slope along the rows of a slice
    scan = torch.arange(64.0).view(1, 64, 1, 1).expand(1, 64, 64, 64)
    assert describe_scan(network, scan, axis).tolist() == 27 * [0.0 if axis == 0 else 2.0]


def test_an_atlas_describes_places_whether_it_has_a_scan_or_not(scan):
    atlas = PlanarAtlas(GrayValueDifference(out_channels=5), step=2)
    descriptor = describe_scan(atlas, scan)
    atlas.add(scan, (scan > 0).long(), "scan")
    torch.testing.assert_close(describe_scan(atlas, scan), descriptor)
    places = atlas.describe(scan)
    assert places.shape == (5, 9, 9, 9)
    torch.testing.assert_close(descriptor.view(5, 3, 3, 3)[:, 0, 1, 2], places[:, :3, 3:6, 6:].float().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("network", "factor", "message"),
    [
        (nn.Conv3d(1, 1, 1), 1, "network must have two convolutions, got 1 in Conv3d"),
        (nn.Sequential(nn.Conv3d(1, 1, 1), nn.Conv3d(1, 1, 1)), float("nan"), "image must give finite features"),
    ],
)
def test_refuses_what_cannot_be_described(scan, network, factor, message):
    with pytest.raises(ValueError, match=message):
        describe_scan(network, factor * scan)
