"""Laws of clipping and normalizing."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.transforms import ClipAndNormalize, ClipAndNormalized


def test_zscore_gives_every_channel_mean_zero_and_deviation_one_after_clipping():
    image = torch.randn(2, 9, 8, 7) * torch.tensor([10.0, 300.0]).view(2, 1, 1, 1) + 40
    normalized = ClipAndNormalize([-100, 200])(image)
    torch.testing.assert_close(normalized.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.std((1, 2, 3), correction=0), torch.ones(2))
    clipped = image[1].clamp(-100, 200)
    torch.testing.assert_close(normalized[1], (clipped - clipped.mean()) / clipped.std(correction=0))


def test_range_maps_the_clip_values_to_minus_three_and_three():
    image = torch.tensor([-1000.0, -155.0, 70.0, 295.0, 3000.0]).view(1, 5, 1, 1)
    torch.testing.assert_close(
        ClipAndNormalize([-155, 295], "range")(image).flatten(), torch.tensor([-3.0, -3.0, 0.0, 3.0, 3.0])
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 40.123, -1000.0, 1e6])
def test_a_constant_image_becomes_zero(value):
    """Rounding of the mean left a tiny deviation, and the image became -1 or 1 everywhere."""
    assert not ClipAndNormalize([-2000, 2e6])(torch.full((1, 31, 33, 35), value)).any()


def test_integers_are_normalized_as_numbers_and_the_input_stays():
    image = torch.arange(24, dtype=torch.int16).view(1, 2, 3, 4)
    copy = image.clone()
    assert ClipAndNormalize([0, 23])(image).dtype == torch.float32
    assert torch.equal(image, copy)


def test_the_dictionary_version_keeps_metadata_and_other_keys():
    image = MetaTensor(torch.randn(1, 4, 4, 4), torch.diag(torch.tensor([1.0, 2, 3, 1])), meta={"filename_or_obj": "a"})
    scan = {"image": image, "label": torch.ones(1)}
    out = ClipAndNormalized("image", [-1, 1])(scan)
    assert torch.equal(out["image"].affine, image.affine) and out["image"].meta["filename_or_obj"] == "a"
    assert out["label"] is scan["label"]
    torch.testing.assert_close(out["image"].as_tensor(), ClipAndNormalize([-1, 1])(image.as_tensor()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], "minmax"), "method must be one of zscore, range, got 'minmax'"),
        (([1, 1],), r"clip must be two increasing intensities, got \[1, 1\]"),
        (([1, 0],), r"clip must be two increasing intensities, got \[1, 0\]"),
        (([0, 1, 2],), r"clip must be two increasing intensities, got \[0, 1, 2\]"),
        (([float("nan"), 1],), "clip must be two increasing intensities, got "),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipAndNormalize(*arguments)


@pytest.mark.parametrize("method", ["zscore", "range"])
def test_each_channel_is_normalized_as_it_would_be_alone(method):
    image = torch.randn(3, 9, 8, 7) * torch.tensor([10.0, 300.0, 1.0]).view(3, 1, 1, 1)
    pairs = [[-5, 8], [-200, 300], [-1, 2]]
    together = ClipAndNormalize(pairs, method)(image)
    for channel, pair in enumerate(pairs):
        alone = ClipAndNormalize(pair, method)(image[channel : channel + 1])
        assert torch.equal(together[channel : channel + 1], alone)
    order = [2, 0, 1]
    assert torch.equal(ClipAndNormalize([pairs[channel] for channel in order], method)(image[order]), together[order])
    assert torch.equal(ClipAndNormalize(3 * [[-5, 8]], method)(image), ClipAndNormalize([-5, 8], method)(image))


def test_a_pair_for_each_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="clip must be one pair for each of 3 channels, got 2"):
        ClipAndNormalize([[0, 1], [0, 1]])(torch.zeros(3, 4, 4, 4))
