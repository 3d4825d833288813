"""Laws of F-Net: sizes, parameters, and one result however a volume is cut."""

from __future__ import annotations

import re

import pytest
import torch
from scripted import check_scripted
from torch import nn

from common.fnet import FNet, FNetGeometry
from common.fnet.network import extraction_pathway

ALL_DESIGNS = [(q, k, levels) for q in (0, 1, 2) for k in (3, 5) for levels in (2, 3, 4)]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def small(settle, features=(2, 3, 2), in_channels=1, **options):
    torch.manual_seed(0)
    return settle(FNet(in_channels, 2, features, gain=1.0, **options))


def segment(network, patches):
    """Return the logits of an output patch, given the input patches of all levels."""
    image, *context = patches
    return network(image, context)


def by_hand(network, image):
    """Compute the logits of a whole image with plain padding and average pooling."""
    geometry = network.geometry
    patch = [geometry.next_feasible(edge) for edge in image.shape[-3:]]
    fill = image.amin((-3, -2, -1), keepdim=True)
    levels = []
    for level, (margin, size) in enumerate(zip(geometry.margins, geometry.input_sizes(patch), strict=True)):
        padding = []
        for edge, cells in zip(reversed(image.shape[-3:]), reversed(size), strict=True):
            padding += [margin, cells * 2**level - margin - edge]
        levels.append(nn.functional.avg_pool3d(nn.functional.pad(image - fill, padding) + fill, 2**level))
    logits = segment(network, levels)
    return logits[(..., *(slice(0, edge) for edge in image.shape[-3:]))]


# ---- numbers of the specification ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1_945_538),
        ({"num_head_convs": 0}, 1_681_570),
        ({"kernel_size": 3}, 421_442),
        ({"features": (16, 24, 32, 48)}, 1_916_442),
    ],
)
def test_number_of_parameters_is_that_of_the_specification(options, expected):
    assert count(FNet(1, 2, **options)) == expected


def test_number_of_parameters_of_one_pathway_is_that_of_the_specification():
    assert count(extraction_pathway(1, 32, 5)) == 260_288


@pytest.mark.parametrize(
    ("num_head_convs", "patch", "kernel", "expected"),
    [
        (2, 64, 3, (74, 42, 26, 18)),
        (2, 64, 5, (84, 52, 36, 28)),
        (2, 72, 3, (82, 46, 28, 19)),
        (2, 72, 5, (92, 56, 38, 29)),
        (0, 64, 5, (76, 48, 34, 27)),
        (0, 72, 5, (84, 52, 36, 28)),
    ],
)
def test_input_sizes_are_those_of_the_specification(num_head_convs, patch, kernel, expected):
    sizes = FNetGeometry(kernel_size=kernel, num_head_convs=num_head_convs).input_sizes(patch)
    assert sizes == tuple((size,) * 3 for size in expected)


@pytest.mark.parametrize(("num_head_convs", "kernel"), [(0, 3), (1, 3), (1, 5)])
@pytest.mark.parametrize("patch", [64, 72])
def test_an_infeasible_patch_is_refused_with_sizes_that_are_feasible(num_head_convs, kernel, patch):
    geometry = FNetGeometry(kernel_size=kernel, num_head_convs=num_head_convs)
    with pytest.raises(ValueError, match=rf"patch_size must be a feasible size such as .* got \({patch}, ") as error:
        geometry.input_sizes(patch)
    suggested = [int(edge) for edge in re.search(r"\[(.*?)\]", str(error.value)).group(1).split(",")]
    assert min(suggested) < patch < max(suggested)
    for edge in suggested:
        geometry.input_sizes(edge)


def test_margins_of_the_default_are_ten_voxels_of_each_level():
    assert FNetGeometry().margins == (10, 20, 40, 80)
    assert FNetGeometry(kernel_size=3).margins == (5, 10, 20, 40)


@pytest.mark.parametrize(("q", "k", "levels"), ALL_DESIGNS)
def test_the_input_of_every_level_is_centered_on_the_output(q, k, levels):
    geometry = FNetGeometry(levels, k, num_head_convs=q)
    patch = geometry.next_feasible(20)
    for level, (margin, size) in enumerate(zip(geometry.margins, geometry.input_sizes(patch), strict=True)):
        assert size[0] * 2**level == patch + 2 * margin


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": 1}, "num_levels must be at least 2, got 1"),
        ({"kernel_size": 4}, "kernel_size must be odd and at least 3, got 4"),
        ({"kernel_size": 1}, "kernel_size must be odd and at least 3, got 1"),
        ({"num_head_convs": 3}, "num_head_convs must be one of 0, 1, 2, got 3"),
    ],
)
def test_a_geometry_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FNetGeometry(**options)


# ---- one result however a volume is cut ---------------------------------------------------------


@pytest.mark.parametrize(("q", "k", "levels"), ALL_DESIGNS)
def test_patch_equals_dense_equals_plain_padding_and_pooling(settle, q, k, levels):
    network = small(settle, (2, 3, 2, 3)[:levels], kernel_size=k, num_head_convs=q).double()
    stride = network.geometry.stride
    image = torch.randn(1, 1, 13, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        dense = network(image)
        torch.testing.assert_close(dense, by_hand(network, image), atol=1e-12, rtol=0)
        patch_size = 3 * (network.geometry.next_feasible(3),)
        for start in [(0, 0, 0), (stride, 0, -stride)]:
            patch = segment(network, network.geometry.windows(network.geometry.pyramid(image), start, patch_size))
            inside, outside = [], []
            for first, length, available in zip(start, patch_size, image.shape[2:], strict=True):
                low, high = max(first, 0), min(first + length, available)
                inside.append(slice(low, max(low, high)))
                outside.append(slice(low - first, max(low, high) - first))
            torch.testing.assert_close(patch[(..., *outside)], dense[(..., *inside)], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"fusion": "sum"}, {"kernel_size": 5}, {"num_head_convs": 0, "kernel_size": 5}]
)
def test_patches_of_one_size_agree_to_the_bit_at_offsets_of_the_stride(settle, options):
    network = small(settle, (4, 4, 4), **{"kernel_size": 3, **options})
    stride, patch_size = network.geometry.stride, (16, 16, 16)
    pyramid = network.geometry.pyramid(torch.randn(1, 1, 24, 24, 24))
    with torch.no_grad():
        first, second = (
            segment(network, network.geometry.windows(pyramid, start, patch_size))
            for start in [(0, 0, 0), (stride, 0, 2 * stride)]
        )
    assert torch.equal(first[..., stride:, :, 2 * stride :], second[..., :-stride, :, : -2 * stride])


def test_off_the_grid_of_the_stride_patches_are_refused(settle):
    network = small(settle, kernel_size=3)
    pyramid = network.geometry.pyramid(torch.randn(1, 1, 16, 16, 16))
    with pytest.raises(ValueError, match="start must lie on the grid"):
        network.geometry.windows(pyramid, (0, 2, 0), (8, 8, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 3},
        {"fusion": "sum", "features": (3, 3, 3)},
        {"features": (4, 2, 3, 2)},
        {"pyramid_filter": "gaussian"},
        {"pyramid_filter": "linear"},
        {"padding_value": -2.0},
    ],
)
def test_patch_equals_dense_for_every_option(settle, options):
    network = small(settle, **{"kernel_size": 3, **options}).double()
    image = torch.randn(2, options.get("in_channels", 1), 17, 10, 9, dtype=torch.float64)
    patch_size = 3 * (network.geometry.next_feasible(4),)
    with torch.no_grad():
        dense = network(image)
        patch = segment(network, network.geometry.windows(network.geometry.pyramid(image), (8, 0, 0), patch_size))
    rows, columns, slices = min(patch_size[0], 9), min(patch_size[1], 10), min(patch_size[2], 9)
    difference = patch[..., :rows, :columns, :slices] - dense[..., 8 : 8 + rows, :columns, :slices]
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 5, 3), (16, 9, 12)])
@pytest.mark.parametrize("upsample_mode", ["nearest", "trilinear"])
def test_an_image_of_any_size_gives_logits_of_its_own_size(settle, size, upsample_mode):
    network = small(settle, kernel_size=3, upsample_mode=upsample_mode)
    assert network(torch.randn(2, 1, *size)).shape == (2, 2, *size)


def test_padding_with_another_value_changes_the_border_only(settle):
    image = torch.randn(1, 1, 40, 8, 8)
    first, second = (
        small(settle, (2, 2), kernel_size=3, padding_value=value)(image) for value in (float(image.min()), 5.0)
    )
    assert torch.equal(first, small(settle, (2, 2), kernel_size=3)(image))
    assert not torch.allclose(first[..., 0, :, :], second[..., 0, :, :])


def test_in_eval_mode_a_sample_does_not_see_the_others_of_its_batch(settle):
    network = small(settle, kernel_size=3)
    images = torch.randn(3, 1, 9, 8, 7) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1, 1)
    together = network(images)
    for index in range(3):
        torch.testing.assert_close(network(images[index : index + 1]), together[index : index + 1])


def test_levels_are_computed_from_coarse_to_fine(settle):
    """Of equally wide maps, the description of a scan takes the first: that of the coarsest level."""
    network = small(settle, kernel_size=3)
    order = []
    for level, pathway in enumerate(network.extraction):
        pathway.register_forward_hook(lambda *_, level=level: order.append(level))
    network(torch.randn(1, 1, 8, 8, 8))
    assert order == [2, 1, 0]


def test_every_parameter_gets_a_gradient(settle):
    network = small(settle, kernel_size=3).train()
    network(torch.randn(2, 1, 8, 8, 8)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() >= 0] == []
    assert all(network.extraction[level][0].conv.weight.grad.abs().sum() > 0 for level in range(3))


def test_names_of_the_weights_stay():
    names = list(FNet(1, 2, (2, 2), 3).state_dict())
    assert names[:2] == ["extraction.0.0.conv.weight", "extraction.0.0.conv.bias"]
    for name in ["extraction.1.2.adn.N.running_var", "integration.0.0.conv.weight", "integration.0.1.bias"]:
        assert name in names
    assert len(names) == 2 * 3 * 7 + 2 * 7 + 2


def test_initial_weights_have_the_standard_deviation_of_xavier_times_the_gain():
    weight = FNet(1, 2, (16, 16), 5, gain=0.01).extraction[0][1].conv.weight
    assert float(weight.std()) == pytest.approx(0.01 * (2 / (2 * 16 * 125)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "mean"}, "fusion must be one of concat, sum, got 'mean'"),
        ({"upsample_mode": "cubic"}, "upsample_mode must be one of nearest, trilinear, got 'cubic'"),
        ({"fusion": "sum", "features": (2, 3)}, r"features must be the same on all levels .* got \(2, 3\)"),
        ({"features": (2,)}, "num_levels must be at least 2, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FNet(1, 2, **options)


def test_a_missing_level_is_refused(settle):
    patch = torch.zeros(1, 1, 18, 18, 18)
    with pytest.raises(ValueError, match="inputs must be one patch for each of 3 levels, got 2"):
        small(settle, kernel_size=3)(patch, [patch])


# ---- TorchScript ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"features": (2, 3, 2, 2)},
        {"in_channels": 2, "features": (3, 3, 3), "fusion": "sum", "upsample_mode": "trilinear"},
        {"pyramid_filter": "gaussian", "padding_value": -2},
        {"pyramid_filter": "linear", "num_head_convs": 0},
        {"kernel_size": 3, "num_head_convs": 1},
    ],
    ids=str,
)
def test_torchscript_gives_the_same_for_images_of_any_size(settle, options):
    channels = options.get("in_channels", 1)
    check_scripted(small(settle, **options), [(2, channels, 9, 14, 7), (1, channels, 1, 1, 2), (1, channels, 16, 8, 8)])


def test_torchscript_segments_patches_as_the_network_does(settle):
    network = small(settle, kernel_size=3)
    image, *context = network.geometry.windows(network.geometry.pyramid(torch.randn(1, 1, 9, 9, 9)), (0, 0, 0), 8)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(network)(image, context), network(image, context))


# ---- several channels ----------------------------------------------------------------------------


def test_channels_in_another_order_give_the_same_with_kernels_in_that_order(settle):
    network, order = small(settle, in_channels=3).double(), [2, 0, 1]
    image = torch.randn(1, 3, 17, 10, 9, dtype=torch.float64)
    expected = network(image)
    for level in range(3):
        conv = network.pathway(level)[0].conv
        conv.weight.data = conv.weight.data[:, order]
    torch.testing.assert_close(network(image[:, order]), expected)


def test_a_channel_whose_kernels_are_zero_changes_nothing(settle):
    network = small(settle, in_channels=2).double()
    for level in range(3):
        network.pathway(level)[0].conv.weight.data[:, 1] = 0
    image = torch.randn(1, 2, 17, 10, 9, dtype=torch.float64)
    other = torch.cat([image[:, :1], torch.randn_like(image[:, 1:])], dim=1)
    torch.testing.assert_close(network(other), network(image))
