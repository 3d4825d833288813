"""Laws of the descriptor of a whole scan."""

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet, UNet
from torch import nn

from common.active_learning import describe_scan
from common.atlas import GreyValueDifference, PlanarAtlas
from common.networks import ContextUNet, FNet, LayerUNet


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
def test_any_network_describes_a_scan_by_two_numbers_for_each_of_its_widest_features(scan, settle, name):
    torch.manual_seed(0)
    make, width = NETWORKS[name]
    network = settle(make())
    descriptor = describe_scan(network, scan)
    assert descriptor.shape == (2 * width,)
    torch.testing.assert_close(describe_scan(network, scan), descriptor, rtol=0, atol=0)
    assert not torch.allclose(describe_scan(network, scan.flip(1) ** 2), descriptor)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_numbers_are_mean_and_standard_deviation_of_the_first_of_the_widest_maps():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1), nn.Conv3d(2, 3, 1))
    network[0].weight.data = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1, 1)
    network[0].bias.data = torch.tensor([0.0, 1.0])
    scan = torch.randn(1, 64, 64, 64, generator=torch.Generator().manual_seed(0)) + 3
    expected = torch.stack((scan.mean(), 1 - 2 * scan.mean(), scan.std(), 2 * scan.std()))
    torch.testing.assert_close(describe_scan(network, scan), expected, rtol=1e-4, atol=1e-4)


def test_a_2d_network_sees_slices_across_the_axis():
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 1), bias=False), nn.Conv2d(1, 1, 1))
    network[0].weight.data = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3, 1)  # the slope along the rows of a slice
    scan = torch.arange(64.0).view(1, 64, 1, 1).expand(1, 64, 64, 64)
    slopes = [describe_scan(network, scan, axis)[0].item() for axis in (0, 1, 2)]
    assert slopes == [0.0, 2.0, 2.0]


def test_an_atlas_describes_places_whether_it_has_a_scan_or_not(scan):
    atlas = PlanarAtlas(GreyValueDifference(out_channels=5), step=2)
    descriptor = describe_scan(atlas, scan)
    assert descriptor.shape == (10,)
    atlas.add(scan, (scan > 0).long(), "scan")
    torch.testing.assert_close(describe_scan(atlas, scan), descriptor)
    places = atlas.describe(scan)
    assert places.shape == (512, 5)
    torch.testing.assert_close(descriptor[:5], places.float().mean(dim=0))


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
