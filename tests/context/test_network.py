"""Laws of the 2D U-Net of context prediction and restoration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripted import check_scripted
from torch import nn

from common.context import ContextUNet, StandardizedConv2d

FEATURES = (4, 8, 16)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ContextUNet(1, 2, FEATURES, num_groups=2)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "head_kernel_size", "expected"),
    [(1, 1, 3, 7_849_281), (1, 4, 1, 7_849_124), (3, 3, 3, 7_850_435), (3, 4, 1, 7_849_700)],
)
def test_the_parameters_are_as_many_as_the_papers(in_channels, out_channels, head_kernel_size, expected):
    network = ContextUNet(in_channels, out_channels, head_kernel_size=head_kernel_size)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("features", [16, "16,32"])
def test_features_that_are_no_list_are_refused(features):
    with pytest.raises(
        (TypeError, ValueError), match=f"features must be a list, each entry a whole number from 1, got {features!r}"
    ):
        ContextUNet(1, 2, features)


def test_an_image_with_other_channels_is_refused(network):
    with pytest.raises(ValueError, match="image must have in_channels 1, got 3 channels"):
        network(torch.zeros(1, 3, 8, 8))


def test_names_of_the_state_dict_stay(network):
    encoder = [f"encoder.{level}.{name}" for level in range(3) for name in ("conv", "standardized_conv", "norm")]
    decoder = [f"decoder.{level}.{name}" for level in range(2) for name in ("upsample", "conv", "norm")]
    names = [f"{name}.{part}" for name in (*encoder, *decoder, "head") for part in ("weight", "bias")]
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (13, 30), (4, 7), (3, 1)])
@pytest.mark.parametrize("head_kernel_size", [1, 3])
def test_the_output_has_the_size_of_any_image(size, head_kernel_size):
    network = ContextUNet(3, 5, FEATURES, 2, head_kernel_size)
    assert network(torch.randn(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("head_kernel_size", [1, 3])
def test_torchscript_gives_the_same_for_images_of_any_size(head_kernel_size):
    check_scripted(ContextUNet(3, 5, FEATURES, 2, head_kernel_size), [(2, 3, 13, 30), (1, 3, 1, 2), (1, 3, 16, 16)])


def test_torchscript_refuses_an_image_with_other_channels_in_the_same_words(network):
    with pytest.raises(torch.jit.Error, match="image must have in_channels 1, got 3 channels"):
        torch.jit.script(network)(torch.zeros(1, 3, 8, 8))


def test_beyond_the_border_an_image_goes_on_as_it_ends(network):
    image = torch.randn(1, 1, 6, 11)
    longer = torch.cat((image, image[..., -1:]), dim=-1)
    longer = torch.cat((longer, longer[..., -1:, :], longer[..., -1:, :]), dim=-2)
    torch.testing.assert_close(network(image), network(longer)[..., :6, :11])


def test_an_image_of_feasible_size_is_computed_as_the_paper_says(network):
    """The same layers, written down with torch's functions; GroupNorm by its formula."""
    weights = network.state_dict()

    def of(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def standardized(features, name):
        weight, bias = of(name)
        rows = weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True).sqrt() + 1e-5)
        return F.relu(F.conv2d(features, rows.view_as(weight), bias, padding=1))

    def norm(features, name):
        scale, shift = of(name)
        groups = features.view(features.shape[0], 2, -1)
        groups = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return groups.view_as(features) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)

    for value in weights.values():  # biases and shifts that matter
        if value.ndim == 1:
            value.add_(0.3 * torch.randn_like(value))
    image = torch.randn(2, 1, 8, 12)
    features, skips = image, []
    for level in range(3):
        features = F.max_pool2d(features, 2) if level else features
        features = F.relu(F.conv2d(features, *of(f"encoder.{level}.conv"), padding=1))
        features = norm(standardized(features, f"encoder.{level}.standardized_conv"), f"encoder.{level}.norm")
        skips.append(features)
    for level in range(2):
        name = f"decoder.{level}"
        features = F.conv_transpose2d(features, *of(f"{name}.upsample"), stride=2, padding=1, output_padding=1)
        features = torch.cat((features, skips[1 - level]), dim=1)
        features = norm(standardized(features, f"{name}.conv"), f"{name}.norm")
    torch.testing.assert_close(network(image), F.conv2d(features, *of("head")), atol=1e-4, rtol=1e-4)


def test_a_filters_scale_and_offset_do_not_change_what_it_computes():
    conv = StandardizedConv2d(3, 4, 3)
    image = torch.randn(1, 3, 6, 6)
    before = conv(image)
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([2.0, 3.0, 0.5, 1.0]).view(-1, 1, 1, 1)).add_(0.7)
    torch.testing.assert_close(conv(image), before, atol=1e-3, rtol=1e-3)


def test_a_constant_filter_gives_its_bias_and_no_nan():
    conv = StandardizedConv2d(1, 1, 3)
    nn.init.ones_(conv.weight)
    output = conv(torch.randn(1, 1, 5, 5))
    torch.testing.assert_close(output, conv.bias.view(1, 1, 1, 1).expand_as(output), atol=1e-3, rtol=0)
    output.sum().backward()
    assert conv.weight.grad.isfinite().all()


def test_weights_begin_as_he_draws_them():
    torch.manual_seed(0)
    weights = ContextUNet(3, 4).state_dict()
    for name, fan_in in (
        ("encoder.2.conv", 64 * 9),
        ("encoder.3.standardized_conv", 256 * 9),
        ("decoder.1.conv", 256 * 9),
        ("decoder.0.upsample", 512 * 9 / 2),  # of a transposed convolution of half the channels, see ContextUNet
    ):
        assert weights[f"{name}.weight"].std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert not weights[f"{name}.bias"].any()


def test_every_parameter_gets_a_gradient(network):
    network(torch.randn(2, 1, 16, 16)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_small_network_has_groups_of_one_channel():
    assert ContextUNet(1, 1, (16, 32, 64))(torch.randn(1, 1, 8, 8)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": (8, 16)}, r"features must be multiples of num_groups 16, got \(8, 16\)"),
        ({"features": (16, 40)}, r"features must be multiples of num_groups 16, got \(16, 40\)"),
        ({"num_groups": 0}, "num_groups must be a whole number from 1, got 0"),
        ({"features": (16,)}, r"features must have at least 2 levels, got \(16,\)"),
        ({"head_kernel_size": 2}, "head_kernel_size must be odd, got 2"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContextUNet(1, 1, **arguments)
