"""Laws of the augmentation of slices: the label moves with the image, and slices turn in their plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.context import SliceAugmentation
from common.transforms import padded_crop

NAMES = {0: "background", 1: "right kidney", 2: "left kidney", 3: "spine"}
SAME_GRAYS = {"log_contrast_range": 0, "brightness_range": 0}
AT_REST = {"shift_range": 0, "rotate_range": 0, "log_scale_range": 0, **SAME_GRAYS}
SIZE = (40, 36)


@pytest.fixture
def image():
    return torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label():
    return torch.randint(0, 4, (1, *SIZE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def read(augmentation, image, label, start=(8, 6), size=(24, 24), seed=0, can_mirror=True):
    fill = image.flatten(1).amin(1)
    return augmentation(image, label, start, size, fill, can_mirror, np.random.default_rng(seed))


@pytest.mark.parametrize("start", [(8, 6), (-5, 20)])
def test_the_grid_at_rest_reads_the_plain_crop(image, label, start):
    crop, own = read(SliceAugmentation(**AT_REST), image, label, start)
    plain = padded_crop(image, start, (24, 24), image.flatten(1).amin(1))
    torch.testing.assert_close(crop, plain, atol=1e-4, rtol=0)
    assert torch.equal(own, padded_crop(label, start, (24, 24)))


@pytest.mark.parametrize("seed", range(4))
def test_the_label_moves_with_the_image(seed):
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    label[:, 12:28, 10:26] = 1
    crop, own = read(SliceAugmentation(**SAME_GRAYS), label.float(), label, seed=seed)
    assert ((crop > 0.5) == (own > 0)).float().mean() > 0.95


def test_left_and_right_change_places_with_their_classes_where_the_slice_shows_both(image, label):
    augmentation = SliceAugmentation(**AT_REST, mirror=NAMES)
    other = torch.tensor([0, 2, 1, 3], dtype=torch.uint8)[label.flip(1).long()]
    start = (8, 6)  # in the middle, where a mirrored crop shows the place itself
    plain, mirrored = (
        read(SliceAugmentation(**AT_REST), *pair, start) for pair in ((image, label), (image.flip(1), other))
    )
    found = []
    for seed in range(20):
        crop, own = read(augmentation, image, label, start, seed=seed)
        found.append(torch.equal(own, mirrored[1]))
        expected = mirrored if found[-1] else plain
        torch.testing.assert_close(crop, expected[0], atol=1e-4, rtol=0)
        assert torch.equal(own, expected[1])
        assert torch.equal(read(augmentation, image, label, start, seed=seed, can_mirror=False)[1], plain[1])
    assert 4 < sum(found) < 16


def test_contrast_and_brightness_are_drawn_for_each_channel(image):
    crop, own = read(SliceAugmentation(0, 0, 0), image, None)
    plain, _ = read(SliceAugmentation(**AT_REST), image, None)
    assert own is None
    contrasts = crop.flatten(1).std(1) / plain.flatten(1).std(1)
    assert abs(contrasts[0] - contrasts[1]) > 1e-3
    brightness = crop.flatten(1).mean(1) - contrasts * plain.flatten(1).mean(1)
    torch.testing.assert_close(crop, contrasts.view(-1, 1, 1) * plain + brightness.view(-1, 1, 1), atol=1e-4, rtol=0)


def test_turned_slices_keep_lengths(image):
    ramps = torch.stack(torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij"))
    augmentation = SliceAugmentation(0, 25, 0.3, **SAME_GRAYS)
    for seed in range(5):
        crop, _ = read(augmentation, ramps, None, (30, 30), (20, 20), seed)
        along = torch.stack((crop.diff(dim=1)[:, :, :-1], crop.diff(dim=2)[:, :-1]))  # of rows and of columns
        lengths = along.square().sum(1).sqrt()
        torch.testing.assert_close(lengths[0], lengths[1], atol=1e-3, rtol=0)
        assert (along[0] * along[1]).sum(0).abs().max() < 1e-3
        assert abs(np.log(lengths.mean())) <= 0.3 + 1e-3
