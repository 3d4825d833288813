"""Laws of intensities that are changed channel by channel."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import RandAdjustContrast, RandAdjustContrastd, RandHistogramShift

from common.layers import EachChannel, EachChanneld


@pytest.fixture
def image():
    """Return a scan of two channels, the second of another range."""
    first = torch.rand(1, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    return torch.cat((first, 100 * first.flip(1)))


@pytest.mark.parametrize(
    "make",
    [lambda: RandAdjustContrast(prob=0.7, gamma=(0.5, 2.0)), lambda: RandHistogramShift((4, 8), prob=0.7)],
    ids=["gamma", "histogram"],
)
def test_a_channel_is_changed_as_if_it_were_alone(image, make):
    changed = 0
    for seed in range(8):
        both = EachChannel(make()).set_random_state(seed)(image)
        for channel in range(2):
            alone = make().set_random_state(seed)(image[channel, None])
            assert torch.equal(both[channel, None], alone)
        torch.testing.assert_close(both[1], 100 * both[0].flip(0), rtol=1e-4, atol=1e-3)  # one draw for both
        changed += not torch.equal(both, image)
    assert 0 < changed < 8


def test_of_one_channel_it_is_what_monai_does(image):
    for seed in range(8):
        ours = EachChanneld("image", RandAdjustContrast(prob=0.5, gamma=(0.7, 1.5))).set_random_state(seed)
        theirs = RandAdjustContrastd("image", prob=0.5, gamma=(0.7, 1.5)).set_random_state(seed)
        item = {"image": image[:1], "label": "kept"}
        assert torch.equal(ours(item)["image"], theirs(item)["image"]) and ours(item)["label"] == "kept"


def test_keys_share_the_draw_and_the_input_stays(image):
    before = image.clone()
    item = {"first": image, "second": image}
    out = EachChanneld(("first", "second", "third"), RandAdjustContrast(prob=1.0), allow_missing_keys=True)(item)
    assert torch.equal(out["first"], out["second"]) and not torch.equal(out["first"], image)
    assert torch.equal(image, before) and {*out} == {"first", "second"}
