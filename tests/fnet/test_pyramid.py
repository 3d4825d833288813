"""Laws of the multi-resolution views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.fnet import Pyramid


@pytest.fixture
def volume():
    return torch.randn(2, 2, 21, 17, 14, generator=torch.Generator().manual_seed(1))


def block_average(volume, level, start, size, fill, reach=260):
    """Average blocks of the padded volume the plain way."""
    block = 2**level
    padded = F.pad(volume - fill, 6 * (reach,)) + fill if reach else volume
    axes = (slice(first + reach, first + reach + block * length) for first, length in zip(start, size, strict=True))
    return F.avg_pool3d(padded[(..., *axes)], block)


@pytest.mark.parametrize("level", range(4))
def test_box_window_inside_equals_block_average_at_any_offset(volume, level):
    pyramid = Pyramid(volume, 4)
    size = tuple(max(1, (edge - 5) // 2**level) for edge in volume.shape[-3:])
    for start in [(0, 0, 0), (1, 2, 3), (5, 5, 5), (4, 0, 1)]:
        expected = block_average(volume, level, start, size, torch.tensor(0.0), reach=0)
        torch.testing.assert_close(pyramid.window(level, start, size), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding_value", [None, -7.5])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_box_window_beyond_the_border_equals_block_average_of_the_padded_volume(level, padding_value):
    volume = torch.randn(1, 2, 9, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fill = volume.amin((-3, -2, -1), keepdim=True) if padding_value is None else padding_value
    pyramid = Pyramid(volume, 4, padding_value=padding_value)
    for start in [(-5, 2, -1), (-30, 4, 3), (3, 6, 5), (8, 0, 0), (9, -9, 0)]:
        expected = block_average(volume, level, start, (3, 5, 2), fill, reach=48)
        torch.testing.assert_close(pyramid.window(level, start, (3, 5, 2)), expected, atol=1e-12, rtol=0)


def test_beyond_the_border_is_the_smallest_intensity_of_the_same_channel_and_sample(volume):
    windows = Pyramid(volume, 3).window(2, (400, 400, 400), (2, 2, 2))
    assert torch.equal(windows, volume.amin((-3, -2, -1), keepdim=True).expand(2, 2, 2, 2, 2))


@pytest.mark.parametrize("filter", ["box", "linear", "gaussian"])
@pytest.mark.parametrize("phase", [0, -10, 3])
def test_phases_give_the_same_windows_in_less_memory(volume, filter, phase):
    whole, thin = Pyramid(volume, 4, filter), Pyramid(volume, 4, filter, phases=[phase] * 4)
    for level in range(4):
        for shift in (-3, 0, 1):
            start = (phase + shift * 8, phase, phase + 8)
            torch.testing.assert_close(
                thin.window(level, start, (4, 3, 3)), whole.window(level, start, (4, 3, 3)), atol=1e-5, rtol=0
            )
    assert thin.levels[3].numel() < whole.levels[3].numel() / 100


def test_a_window_off_the_grid_of_the_phases_is_refused(volume):
    pyramid = Pyramid(volume, 3, phases=[0, 1, 2])
    pyramid.window(2, (-2, 2, 6), (1, 1, 1))
    with pytest.raises(ValueError, match=r"start must lie on the grid .* of level 2, got \(2, 3, 2\)"):
        pyramid.window(2, (2, 3, 2), (1, 1, 1))


@pytest.mark.parametrize("filter", ["box", "linear", "gaussian"])
def test_every_filter_keeps_a_constant_volume_constant_and_a_ramp_a_ramp(filter):
    ramp = torch.arange(48.0).view(1, 48, 1, 1).expand(1, 48, 40, 40)
    pyramids = Pyramid(torch.full((1, 40, 40, 40), 3.0), 4, filter), Pyramid(ramp, 4, filter)
    for level in range(4):
        block, size = 2**level, (2, 1, 1)
        constant, sloped = (pyramid.window(level, (16, 16, 16), size) for pyramid in pyramids)
        torch.testing.assert_close(constant, torch.full((1, *size), 3.0))
        middles = 16 + (block - 1) / 2 + block * torch.arange(2.0)  # the filters are centered on their blocks
        torch.testing.assert_close(sloped.flatten(), middles)


def test_the_linear_filter_is_a_triangle_twice_as_wide_as_its_block():
    impulse = torch.zeros(1, 9, 9, 9)
    impulse[0, 4, 4, 4] = 1
    response = Pyramid(impulse, 2, "linear").levels[1][0, :, 6, 6]
    torch.testing.assert_close(response[response > 0] / response.sum(), torch.tensor([0.125, 0.375, 0.375, 0.125]))


def test_an_unknown_filter_is_refused(volume):
    with pytest.raises(ValueError, match="filter must be box, linear or gaussian, got 'cubic'"):
        Pyramid(volume, 2, "cubic")


def test_averages_keep_full_precision_under_autocast(volume):
    """Inference averaged in bfloat16 under AMP what training had averaged in float32."""
    expected = Pyramid(volume, 3).levels[2]
    with torch.autocast("cpu", torch.bfloat16):
        found = Pyramid(volume, 3).levels[2]
    assert torch.equal(found, expected)


def test_the_volume_stays_untouched(volume):
    copy = volume.clone()
    Pyramid(volume, 3).window(0, (-1, -1, -1), (4, 4, 4)).zero_()
    assert torch.equal(volume, copy)
