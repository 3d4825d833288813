"""Laws of windows that fit the scan, and of the two classes that layers become."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from common.layers import FittedWindowInferer, MaskInferer, SplitLayersd, fit_window

OPTIONS = {"roi_size": (20, 20, 8), "overlap": 0.25, "mode": "gaussian", "sw_batch_size": 2}


class Counting(nn.Module):
    """A network that counts the voxels that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.voxels = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.voxels += image.numel()
        return self.conv(image)


@pytest.mark.parametrize("size", [(21, 23, 8), (21, 40, 17), (24, 26, 30), (61, 20, 8), (37, 45, 24), (16, 50, 5)])
def test_windows_that_fit_see_no_more_voxels_than_those_of_monai(size):
    scan = torch.randn(1, 1, *size)
    seen = []
    for inferer in (FittedWindowInferer(**OPTIONS), SlidingWindowInferer(**OPTIONS)):
        network = Counting()
        inferer(scan, network)
        seen.append(network.voxels)
    assert seen[0] <= seen[1]
    if size == (21, 23, 8):
        assert seen[0] == 24 * 24 * 8  # one window


def test_a_scan_that_fits_into_one_window_is_seen_as_a_whole():
    scan, network = torch.randn(2, 1, 24, 21, 8), Counting()
    torch.testing.assert_close(FittedWindowInferer(**OPTIONS)(scan, network), network(scan))


@pytest.mark.parametrize(("size", "growth"), [((20, 20, 8), 1.25), ((12, 20, 5), 1.25), ((50, 41, 17), 1.0)])
def test_where_no_longer_window_pays_it_is_that_of_monai(size, growth):
    scan, network = torch.randn(1, 1, *size), Counting()
    fitted = FittedWindowInferer(**OPTIONS, growth=growth)(scan, network)
    assert torch.equal(fitted, SlidingWindowInferer(**OPTIONS)(scan, network))


def test_a_window_is_within_its_bounds_and_the_best_of_them():
    for length in range(1, 120):
        edge = fit_window(length, 20, 0.25, 1.25)
        assert edge == 20 if length <= 20 else edge in (20, 24)
    assert fit_window(24, 20, 0.25, 1.25) == 24 and fit_window(25, 20, 0.25, 1.25) == 20
    assert fit_window(81, 80, 0.25, 1.25) == 96 and fit_window(150, 128, 0.5, 1.25) == 160


def test_the_next_scan_finds_its_own_window():
    inferer, network = FittedWindowInferer(**OPTIONS), Counting()
    for size in ((25, 25, 10), (21, 21, 9), (40, 40, 16)):
        scan = torch.randn(1, 1, *size)
        assert torch.equal(inferer(scan, network), FittedWindowInferer(**OPTIONS)(scan, network))
    assert inferer.roi_size == OPTIONS["roi_size"]


def test_refuses_windows_that_shrink():
    with pytest.raises(ValueError, match=r"growth must be 1 or more, got 0\.5"):
        FittedWindowInferer(20, growth=0.5)


@pytest.mark.parametrize("with_layers", [False, True])
def test_a_mask_becomes_the_logits_of_two_classes(with_layers):
    layers = torch.randn(2, 3, 4, 5, 6)
    inferer = MaskInferer(lambda inputs, network, *args, **kwargs: network(inputs), with_layers)
    out = inferer(layers, lambda inputs: inputs)
    assert out.shape == (2, 4 if with_layers else 2, 4, 5, 6)
    torch.testing.assert_close(out[:, :2].softmax(1)[:, 1], layers[:, 2].sigmoid())
    assert torch.equal(out[:, :2].argmax(1) == 1, layers[:, 2] > 0)
    if with_layers:
        split = SplitLayersd("pred")({"pred": out[0], "other": 1})
        assert torch.equal(split["pred"], out[0, :2]) and split["other"] == 1
        assert torch.equal(split["restored"], layers[0, :1]) and torch.equal(split["tumor"], layers[0, 1:2])


def test_layers_of_several_channels_are_split_and_share_the_mask():
    layers = torch.randn(2, 7, 4, 5, 6)
    out = MaskInferer(lambda inputs, network: network(inputs), with_layers=True)(layers, lambda inputs: inputs)
    assert torch.equal(out[:, 1], layers[:, 6]) and not out[:, 0].any()
    split = SplitLayersd("pred", in_channels=3)({"pred": out[0]})
    for key, expected in (("pred", out[0, :2]), ("restored", layers[0, :3]), ("tumor", layers[0, 3:6])):
        assert torch.equal(split[key], expected)


@pytest.mark.parametrize(("in_channels", "count"), [(1, 4), (2, 6)])
def test_without_layers_there_is_nothing_to_split(in_channels, count):
    with pytest.raises(ValueError, match=f"must be those of a pretraining, {count} channels, got 2; add zero_shot"):
        SplitLayersd("pred", in_channels)({"pred": torch.zeros(2, 4, 5, 6)})
