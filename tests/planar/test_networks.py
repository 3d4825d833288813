"""Laws of the networks that describe slabs and cubes, and of the heads that teach them to."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.planar import (
    CubicDescriptor,
    HeatmapDecoder,
    NeighborClassifier,
    OffsetRegressor,
    PlanarDescriptor,
    SiameseNetwork,
    TriplanarPretext,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (PlanarDescriptor, 139_744),
        (OffsetRegressor, 27_138),
        (HeatmapDecoder, 28_189),
        (CubicDescriptor, 393_392),
        (NeighborClassifier, 31_238),
    ],
)
def test_the_parameters_are_as_many_as_the_papers(network, expected):
    assert sum(parameter.numel() for parameter in network().parameters()) == expected


@pytest.mark.parametrize(
    ("network", "input_shape", "output_shape"),
    [
        (PlanarDescriptor(), (3, 42, 42), (64, 1, 1)),
        (PlanarDescriptor(5, 16, 8), (5, 42, 42), (16, 1, 1)),
        (CubicDescriptor(), (1, 25, 25, 25), (192, 1, 1, 1)),
        (CubicDescriptor(2, 12, 8), (2, 25, 25, 25), (12, 1, 1, 1)),
        (OffsetRegressor(), (128, 1, 1), (2,)),
        (HeatmapDecoder(), (128, 1, 1), (1, 19, 19)),
        (HeatmapDecoder(32), (32, 1, 1), (1, 19, 19)),
        (NeighborClassifier(), (384, 1, 1, 1), (6,)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_output_has_the_shape_that_is_written(network, input_shape, output_shape, batch):
    assert network(torch.randn(batch, *input_shape)).shape == (batch, *output_shape)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (PlanarDescriptor(), (1, 3, 42, 43), r"slabs must have 42 x 42 samples, got \(42, 43\)"),
        (PlanarDescriptor(), (1, 3, 84, 84), r"slabs must have 42 x 42 samples, got \(84, 84\)"),
        (CubicDescriptor(), (1, 1, 25, 25, 24), r"cubes must have 25 samples a side, got \(25, 25, 24\)"),
    ],
)
def test_patches_of_another_size_are_refused(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))


def test_a_planar_descriptor_is_computed_as_the_paper_says():
    """The same layers, written down with torch's functions: convolution, maximum, norm, activation."""
    network = PlanarDescriptor()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    weights = list(network.parameters())
    slabs = torch.randn(2, 3, 42, 42)
    features, sizes = slabs, []
    for index in range(6):
        kernel, scale, shift = weights[3 * index : 3 * index + 3]
        features = F.conv2d(features, kernel)
        if index < 2:
            features = F.max_pool2d(features, 2)
        features = F.leaky_relu(F.group_norm(features, 4, scale, shift), 0.01)
        sizes.append(features.shape[-1])
    assert sizes == [20, 9, 7, 5, 3, 1]
    torch.testing.assert_close(network(slabs), features, atol=1e-4, rtol=1e-4)


def test_a_heatmap_is_computed_as_the_paper_says():
    network = HeatmapDecoder()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    weights = list(network.parameters())

    def block(features, index, conv=F.conv2d):
        kernel, scale, shift = weights[3 * index : 3 * index + 3]
        return F.leaky_relu(F.group_norm(conv(features, kernel), 4, scale, shift), 0.01)

    features = descriptors = torch.randn(2, 128, 1, 1)
    for index in range(3):
        features = block(features, index)
    features = block(block(features, 3, F.conv_transpose2d), 4)
    features = F.interpolate(features, (11, 11), mode="bilinear", align_corners=True)
    features = F.avg_pool2d(block(block(features, 5, F.conv_transpose2d), 6), 3, stride=1, padding=1)
    features = F.interpolate(block(features, 7, F.conv_transpose2d), (19, 19), mode="bilinear", align_corners=True)
    expected = F.conv2d(features, weights[-2], weights[-1], padding=1)
    torch.testing.assert_close(network(descriptors), expected, atol=1e-4, rtol=1e-4)


def test_a_cube_shrinks_to_one_voxel_as_the_paper_says():
    sizes = []
    network = CubicDescriptor()
    for block in network:
        block.register_forward_hook(lambda module, args, output: sizes.append(output.shape[-1]))
    network(torch.zeros(1, 1, 25, 25, 25))
    assert sizes == [21, 17, 13, 9, 7, 3, 1]


def test_only_the_last_convolution_of_a_head_has_a_bias():
    for head in (OffsetRegressor(), HeatmapDecoder(), NeighborClassifier()):
        convs = [module for module in head.modules() if hasattr(module, "kernel_size") and hasattr(module, "weight")]
        assert [conv.bias is not None for conv in convs] == [False] * (len(convs) - 1) + [True]
    for descriptor in (PlanarDescriptor(), CubicDescriptor()):
        assert not any(name.endswith("conv.bias") for name in descriptor.state_dict())


def test_weights_are_drawn_from_xaviers_normal_distribution():
    kernel = PlanarDescriptor().state_dict()["5.conv.weight"]
    assert kernel.std().item() == pytest.approx((2 / (2 * 9 * 64)) ** 0.5, rel=0.02)
    kernel = CubicDescriptor().state_dict()["5.conv.weight"]
    assert kernel.std().item() == pytest.approx((2 / (2 * 125 * 32)) ** 0.5, rel=0.02)


def test_both_patches_of_all_pairs_in_one_pass_are_as_in_two():
    network = TriplanarPretext()
    pairs = torch.randn(4, 3, 2, 3, 42, 42)
    heatmaps = network(pairs)
    assert heatmaps.shape == (4, 3, 1, 19, 19)
    for axis in range(3):
        descriptor, head = network.descriptors[str(axis)], network.heads[str(axis)]
        expected = head(torch.cat([descriptor(pairs[:, axis, 0]), descriptor(pairs[:, axis, 1])], dim=1))
        torch.testing.assert_close(heatmaps[:, axis], expected, atol=1e-5, rtol=1e-4)


def test_what_a_pair_gives_does_not_depend_on_the_other_pairs():
    network = TriplanarPretext(target="displacement")
    pairs = torch.randn(3, 3, 2, 3, 42, 42)
    together = network(pairs)
    assert together.shape == (3, 3, 2)
    torch.testing.assert_close(together, torch.cat([network(pair[None]) for pair in pairs]), atol=1e-5, rtol=1e-4)


def test_the_networks_of_the_axes_share_nothing():
    network = TriplanarPretext()
    pairs = torch.randn(2, 3, 2, 3, 42, 42)
    before = network(pairs)
    pairs[:, 1] += torch.randn_like(pairs[:, 1])
    after = network(pairs)
    assert torch.equal(before[:, ::2], after[:, ::2])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_an_axis_learns_beside_the_others_as_it_learns_alone():
    together = TriplanarPretext(target="displacement")
    alone = copy.deepcopy(SiameseNetwork(together.descriptors["1"], together.heads["1"]))
    pairs, target = torch.randn(2, 3, 2, 3, 42, 42), torch.rand(2, 3, 2)
    F.l1_loss(together(pairs), target).backward()
    F.l1_loss(alone(pairs[:, 1]), target[:, 1]).backward()
    beside = SiameseNetwork(together.descriptors["1"], together.heads["1"])
    for one, other in zip(beside.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(3 * one.grad, other.grad, atol=1e-5, rtol=1e-3)


def test_names_of_the_state_dict_stay():
    names = list(TriplanarPretext().state_dict())
    blocks = [f"{block}.{part}" for block in range(6) for part in ("conv.weight", "norm.weight", "norm.bias")]
    expected = [f"descriptors.{axis}.{block}" for axis in range(3) for block in blocks]
    assert [name for name in names if name.startswith("descriptors")] == expected
    assert all(name.startswith(("descriptors.", "heads.0.", "heads.1.", "heads.2.")) for name in names)


def test_every_parameter_gets_a_gradient():
    for network, shape in (
        (TriplanarPretext(), (2, 3, 2, 3, 42, 42)),
        (TriplanarPretext(target="displacement"), (2, 3, 2, 3, 42, 42)),
        (SiameseNetwork(CubicDescriptor(), NeighborClassifier()), (2, 2, 1, 25, 25, 25)),
    ):
        network(torch.randn(shape)).square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_siamese_network_tells_which_patch_comes_first():
    network = SiameseNetwork(PlanarDescriptor(), OffsetRegressor())
    pairs = torch.randn(2, 2, 3, 42, 42)
    assert network(pairs).shape == (2, 2)
    assert not torch.allclose(network(pairs), network(pairs.flip(1)))


def test_contiguous_and_channels_last_slabs_have_the_same_descriptor():
    slabs = torch.randn(2, 3, 42, 42)
    network = PlanarDescriptor()
    expected = network(slabs)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(slabs.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(nn.Sequential.forward(network, slabs), expected, atol=1e-5, rtol=1e-4)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target must be one of heatmap, displacement, got 'offset'"):
        TriplanarPretext("offset")


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (TriplanarPretext(in_channels=2), (2, 3, 2, 6, 42, 42)),
        (SiameseNetwork(CubicDescriptor(2), NeighborClassifier()), (2, 2, 2, 25, 25, 25)),
    ],
)
def test_channels_may_change_places_together_with_the_weights_that_see_them(network, shape):
    torch.manual_seed(0)
    network, pairs = (
        network.double(),
        torch.randn(shape, dtype=torch.float64),
    )  # sums of 32 bits differ with their order
    channels = -3 if len(shape) == 6 and shape[1] == 3 else 2
    expected = network(pairs)
    for module in network.modules():
        if isinstance(module, CubicDescriptor | PlanarDescriptor):
            kernel = next(module.parameters())  # of the first convolution
            kernel.data = torch.cat(kernel.chunk(2, dim=1)[::-1], dim=1)
    exchanged = torch.cat(pairs.chunk(2, dim=channels)[::-1], dim=channels)
    torch.testing.assert_close(network(exchanged), expected)
    assert not torch.allclose(network(pairs), expected, atol=1e-3)
