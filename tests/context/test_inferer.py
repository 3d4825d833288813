"""Laws of inference slice by slice."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import Compose
from torch import nn

from common.context import ContextUNet, SliceDataset, SliceRequest, WholeSliceInferer


class Recorder(nn.Conv2d):
    """A 2D network that remembers the shapes of its inputs."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(2, 3, 3, padding=1)
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x)
        return super().forward(x)


@pytest.fixture
def volumes():
    return torch.randn(2, 2, 12, 8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("axis", "roi_size"), [(0, (8, 4)), (1, (12, 4)), (2, (12, 8))])
def test_the_result_is_that_of_monai_where_the_window_is_the_slice(volumes, axis, roi_size):
    network = Recorder()
    with torch.no_grad():
        expected = SliceInferer(spatial_dim=axis, roi_size=roi_size, overlap=0)(volumes, network)
        network.inputs.clear()
        logits = WholeSliceInferer(axis, 3, sigmoid=False)(volumes, network)
        probabilities = WholeSliceInferer(axis, 3, output_dtype=torch.float16)(MetaTensor(volumes), network)
    torch.testing.assert_close(logits, expected)
    assert probabilities.dtype == torch.float16
    torch.testing.assert_close(probabilities.float(), expected.sigmoid(), atol=1e-3, rtol=0)
    assert max(len(inputs) for inputs in network.inputs) == 3


def test_smaller_slices_are_padded_to_the_crop_with_the_minimum_of_their_volume_and_channel(volumes):
    network = Recorder()
    network.weight.data.zero_()
    network.weight.data[0, 1, 1, 1] = 1
    network.bias.data.zero_()
    with torch.no_grad():
        out = WholeSliceInferer(2, 4, slice_size=[15, 10], sigmoid=False)(volumes, network)
    torch.testing.assert_close(out[:, 0], volumes[:, 1])
    inputs = torch.cat(network.inputs).unflatten(0, (2, 4))
    assert inputs.shape == (2, 4, 2, 15, 10)
    minimum = volumes.amin((2, 3, 4)).view(2, 1, 2, 1, 1)
    torch.testing.assert_close(inputs[..., 12:, :], minimum.expand(2, 4, 2, 3, 10))
    torch.testing.assert_close(inputs[..., 8:], minimum.expand(2, 4, 2, 15, 2))


@pytest.mark.parametrize("size", [(6, 5, 1), (6, 1, 5), (1, 6, 5)])
def test_a_2d_image_is_one_slice_whatever_the_axis(size):
    image, network = torch.randn(1, 2, *size), Recorder()
    with torch.no_grad():
        out = WholeSliceInferer(2, sigmoid=False)(image, network)
        torch.testing.assert_close(out.squeeze(), network(image.view(1, 2, 6, 5))[0])
    assert out.shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 3}, "axis must be one of 0, 1, 2, got 3"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"slice_size": [0, 8]}, "slice_size must be"),
        ({"slice_size": 8}, "slice_size must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WholeSliceInferer(**options)


@pytest.mark.parametrize("slice_size", [None, [20, 16], [32, 48]])
def test_a_slice_is_padded_as_in_the_training(slice_size):
    """In inference the minimum of the volume lay beside a slice, where in training its own border was repeated."""
    volume = torch.randn(2, 19, 13, 4, generator=torch.Generator().manual_seed(0))
    dataset = SliceDataset([{"image": volume}], Compose([]), slice_size=slice_size)
    network = ContextUNet(2, 2, (4, 8, 8, 8, 8), num_groups=2).double().eval()
    size = slice_size or (19, 13)
    seed = next(seed for seed in range(10_000) if dataset._start((19, 13), size, seed) == [0, 0])
    with torch.no_grad():
        found = WholeSliceInferer(slice_size=slice_size, sigmoid=False)(volume[None].double(), network)[0]
        seen = torch.stack([dataset[SliceRequest(0, index, seed)]["image"] for index in range(4)])
        assert seen.shape[2:] == tuple(size)
        expected = network(seen.double())[..., :19, :13]
    torch.testing.assert_close(found, expected.movedim(0, -1))


def test_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, C, H, W, D\), got \(1, 2, 6, 5\)"):
        WholeSliceInferer()(torch.zeros(1, 2, 6, 5), Recorder())


@pytest.mark.parametrize(("size", "expected"), [(64, [5]), (500, [2, 2, 1]), (900, [1] * 5)])
def test_slices_are_seen_the_fewer_at_a_time_on_a_cpu_the_larger_they_are(size, expected):
    volume = torch.arange(5.0).expand(1, 1, size, size, 5)
    seen = []

    def network(part):
        seen.append(len(part))
        return part

    assert torch.equal(WholeSliceInferer(sigmoid=False)(volume, network), volume)
    assert seen == expected
