"""Laws of context prediction and restoration: where the patches lie, and what happens to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.context import (
    RandContextPrediction,
    RandContextRestoration,
    draw_poisson_places,
    draw_uniform_places,
)
from common.context import corruption as context_corruption

CORRUPTIONS = [RandContextPrediction, RandContextRestoration]
SAMPLINGS = ["poisson", "uniform"]

every_corruption = pytest.mark.parametrize("corruption", CORRUPTIONS)
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


def unique_image(*shape):
    """Return an image in which every value is unique and none is 0."""
    return torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)


def coverage(places, size, patch_size):
    """Return how many patches lie on each pixel, having checked that none lies outside."""
    assert places.min() >= 0 and (places + patch_size <= size).all()
    counts = np.zeros(size, dtype=int)
    for row, column in places:
        counts[row : row + patch_size, column : column + patch_size] += 1
    return counts


def are_apart(places, patch_size):
    """Tell whether all distances are at least the patch size times the root of 2, compared as whole numbers."""
    squares = ((places[:, None] - places) ** 2).sum(-1)
    return squares[~np.eye(len(places), dtype=bool)].min(initial=10**9) >= 2 * patch_size**2


# ---- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize(
    ("size", "patch_size", "num_patches"),
    [
        *[((512, 512), 64, 16), ((512, 512), 32, 64), ((512, 512), 16, 256), ((128, 128), 32, 4)],
        *[((128, 128), 16, 16), ((128, 128), 8, 64), ((96, 64), 8, 24), ((32, 256), 32, 2), ((64, 16), 4, 16)],
    ],
)
def test_poisson_patches_are_disjoint_apart_and_cover_exactly_a_quarter(size, patch_size, num_patches, is_paired):
    for seed in range(4):
        places = draw_poisson_places(np.random.RandomState(seed), size, patch_size, is_paired)
        assert len(places) == num_patches
        counts = coverage(places, size, patch_size)
        assert counts.max() == 1
        assert counts.sum() == size[0] * size[1] / 4
        assert are_apart(places, patch_size)


@pytest.mark.parametrize(
    ("size", "patch_size", "single", "paired"),
    [((96, 96), 16, 9, 8), ((100, 90), 16, 8, 8), ((64, 48), 16, 3, 2), ((50, 50), 8, 9, 8)],
)
def test_where_whole_patches_or_pairs_make_no_quarter_there_are_fewer(size, patch_size, single, paired):
    R = np.random.RandomState(0)
    assert len(draw_poisson_places(R, size, patch_size, is_paired=False)) == single
    assert len(draw_poisson_places(R, size, patch_size, is_paired=True)) == paired


def test_poisson_patches_are_found_in_every_image_that_has_room():
    """Small and narrow images are where darts could run out of open places."""
    R = np.random.RandomState(0)
    for patch_size in (1, 2, 3):
        for height in range(patch_size, 5 * patch_size):
            for width in range(max(patch_size, -(-4 * patch_size**2 // height)), 8 * patch_size):
                places = draw_poisson_places(R, (height, width), patch_size, is_paired=False)
                assert len(places) == height * width // (4 * patch_size**2)
                assert coverage(places, (height, width), patch_size).max() == 1


@pytest.mark.parametrize("patch_size", [1, 3, 4])
def test_the_checkerboard_has_room_for_every_quarter(monkeypatch, patch_size):
    """It stands in when darts run out; this is its proof by trial."""
    monkeypatch.setattr(context_corruption, "_throw_darts", lambda *arguments: None)
    R = np.random.RandomState(0)
    for height in range(patch_size, 6 * patch_size):
        for width in range(max(patch_size, -(-4 * patch_size**2 // height)), 6 * patch_size):
            places = draw_poisson_places(R, (height, width), patch_size, is_paired=False)
            assert len(places) == height * width // (4 * patch_size**2)
            coverage(places, (height, width), patch_size)
            assert are_apart(places, patch_size)


def test_poisson_patches_lie_everywhere():
    counts = sum(
        coverage(draw_poisson_places(np.random.RandomState(seed), (32, 40), 4, False), (32, 40), 4)
        for seed in range(400)
    )
    assert counts.min() > 0
    assert 0.2 < counts[8:-8, 8:-8].mean() / 400 < 0.3


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize(("size", "patch_size"), [((64, 64), 8), ((60, 91), 16), ((32, 16), 16), ((40, 40), 20)])
def test_uniform_patches_cover_at_least_a_quarter_and_no_pair_overlaps(size, patch_size, is_paired):
    group_size = 2 if is_paired else 1
    for seed in range(4):
        places = draw_uniform_places(np.random.RandomState(seed), size, patch_size, is_paired)
        assert len(places) % group_size == 0
        quarter = size[0] * size[1] / 4
        assert (coverage(places, size, patch_size) > 0).sum() >= quarter
        if len(places) > group_size:  # and not a patch or a pair more than that takes
            assert (coverage(places[:-group_size], size, patch_size) > 0).sum() < quarter
        for pair in places.reshape(-1, group_size, 2):
            assert coverage(pair, size, patch_size).max() == 1


# ---- what happens to an image --------------------------------------------------------------------


@every_sampling
def test_prediction_zeroes_exactly_the_patches_in_every_channel(sampling):
    image = unique_image(3, 48, 64)
    transform = RandContextPrediction(8, sampling).set_random_state(0)
    out = transform(image)
    is_empty = torch.from_numpy(coverage(transform.places, (48, 64), 8) > 0).expand(3, -1, -1)
    assert torch.equal(out == 0, is_empty)
    assert torch.equal(out[~is_empty], image[~is_empty])


@every_sampling
def test_restoration_keeps_every_intensity_and_moves_all_channels_alike(sampling):
    image = unique_image(3, 48, 64)
    out = RandContextRestoration(8, sampling).set_random_state(0)(image)
    assert torch.equal(out.flatten(1).sort().values, image.flatten(1))
    assert torch.equal(out - out[:1], image - image[:1])
    assert (out != image)[0].sum() >= (48 * 64 / 4 if sampling == "poisson" else 1)


def test_poisson_restoration_moves_exactly_a_quarter_and_is_its_own_inverse():
    image = unique_image(2, 48, 64)
    transform = RandContextRestoration(8).set_random_state(0)
    out = transform(image)
    assert (out != image).sum() == image.numel() / 4
    assert torch.equal(transform(out, randomize=False), image)


def test_the_inverse_of_uniform_restoration_is_its_swaps_in_reverse_order():
    image = unique_image(2, 48, 64)
    transform = RandContextRestoration(16, "uniform").set_random_state(2)
    out = transform(image)
    assert not torch.equal(transform(out, randomize=False), image)  # some pairs overlap
    transform.places = transform.places[::-1]
    assert torch.equal(transform(out, randomize=False), image)


@every_sampling
def test_restoration_swaps_its_pairs_one_after_the_other(sampling):
    image = unique_image(2, 48, 64)
    transform = RandContextRestoration(8, sampling).set_random_state(1)
    out, expected = transform(image), image.clone()
    for first, second in transform.places.reshape(-1, 2, 2):
        one, other = (np.s_[:, row : row + 8, column : column + 8] for row, column in (first, second))
        expected[one], expected[other] = expected[other].clone(), expected[one].clone()
    assert torch.equal(out, expected)


# ---- what holds for both -------------------------------------------------------------------------


@every_corruption
@every_sampling
def test_same_seed_same_places_and_each_image_gets_its_own(corruption, sampling):
    image = unique_image(1, 32, 32)
    first, second = (corruption(4, sampling).set_random_state(3) for _ in range(2))
    outs = [first(image) for _ in range(3)]
    assert all(torch.equal(out, second(image)) for out in outs)
    assert not torch.equal(outs[0], outs[1]) and not torch.equal(outs[1], outs[2])


@every_corruption
def test_the_input_stays_and_without_probability_so_does_the_output(corruption):
    image = unique_image(2, 32, 32)
    copy = image.clone()
    corruption(4)(image)
    assert torch.equal(image, copy)
    out = corruption(4, prob=0.0)(image)
    assert torch.equal(out, image)
    assert out.data_ptr() != image.data_ptr()


@every_corruption
@every_sampling
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_a_batch_is_corrupted_as_its_images_are_alone(corruption, sampling, prob):
    images, seeds = unique_image(4, 3, 32, 40), [7, 2**63 - 1, 7, 0]
    copy = images.clone()
    out = corruption(4, sampling, prob).corrupt_batch(images, torch.tensor(seeds))
    assert torch.equal(images, copy)
    for index, seed in enumerate(seeds):
        alone = corruption(4, sampling, prob).set_random_state(seed)(images[index])
        assert torch.equal(out[index], alone)
    assert torch.equal(out, corruption(4, sampling, prob).corrupt_batch(images, seeds))


@every_corruption
def test_a_batch_of_any_layout_is_corrupted_alike(corruption):
    images = unique_image(2, 3, 32, 40)
    out = corruption(4).corrupt_batch(images, [0, 1])
    assert torch.equal(corruption(4).corrupt_batch(images.to(memory_format=torch.channels_last), [0, 1]), out)
    assert torch.equal(corruption(4).corrupt_batch(images.double(), [0, 1]), out.double())


@pytest.mark.gpu
@every_corruption
def test_a_batch_is_corrupted_where_it_is(corruption):
    images = unique_image(2, 3, 32, 40)
    out = corruption(4).corrupt_batch(images.cuda(), [0, 1])
    assert out.is_cuda
    assert torch.equal(out.cpu(), corruption(4).corrupt_batch(images, [0, 1]))


@pytest.mark.parametrize(
    ("corruption", "sampling", "size", "patch_size", "message"),
    [
        (
            RandContextPrediction,
            "poisson",
            (31, 32),
            16,
            r"let a patch fit into a quarter of the image, got 16 for \(31, 32\)",
        ),
        (
            RandContextPrediction,
            "poisson",
            (15, 99),
            16,
            r"let a patch fit into a quarter of the image, got 16 for \(15, 99\)",
        ),
        (
            RandContextRestoration,
            "poisson",
            (32, 32),
            16,
            r"let two patches fit into a quarter of the image, got 16 for \(32, 32\)",
        ),
        (
            RandContextRestoration,
            "poisson",
            (32, 63),
            16,
            r"let two patches fit into a quarter of the image, got 16 for \(32, 63\)",
        ),
        (RandContextPrediction, "uniform", (15, 99), 16, r"leave room for a patch, got 16 for \(15, 99\)"),
        (
            RandContextRestoration,
            "uniform",
            (31, 31),
            16,
            r"leave room for two disjoint patches, got 16 for \(31, 31\)",
        ),
    ],
)
def test_an_image_without_room_is_refused(corruption, sampling, size, patch_size, message):
    with pytest.raises(ValueError, match="patch_size must " + message):
        corruption(patch_size, sampling)(torch.zeros(1, *size))


def test_options_and_images_out_of_range_are_refused():
    with pytest.raises(ValueError, match="sampling must be one of poisson, uniform, got 'grid'"):
        RandContextPrediction(8, "grid")
    with pytest.raises(ValueError, match="patch_size must be a whole number from 1, got 0"):
        RandContextPrediction(0)
    with pytest.raises(ValueError, match=r"image must have 2 spatial axes, got \(32, 32, 32\)"):
        RandContextPrediction(8)(torch.zeros(1, 32, 32, 32))
    with pytest.raises(ValueError, match="seeds must be one for each of 2 images, got 1"):
        RandContextPrediction(8).corrupt_batch(torch.zeros(2, 1, 32, 32), [0])
    transform = RandContextPrediction(8)
    transform(torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match=r"image must have the drawn size \(32, 32\), got \(32, 16\)"):
        transform(torch.zeros(1, 32, 16), randomize=False)


@pytest.mark.parametrize("corruption", [RandContextPrediction, RandContextRestoration])
def test_channels_of_a_place_are_corrupted_alike(corruption):
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    alone = corruption(4).corrupt_batch(images, [3, 4])
    together = corruption(4).corrupt_batch(torch.cat([images, -images, 2 * images], dim=1), [3, 4])
    assert torch.equal(together, torch.cat([alone, -alone, 2 * alone], dim=1)) and not torch.equal(alone, images)
