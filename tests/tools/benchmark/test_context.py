"""Laws of the rows of context restoration: what they hold and that their two sides agree; never a time."""

import numpy as np
import pytest
import torch

from common.context import RandContextRestoration
from tools.benchmark import context
from tools.benchmark.context import (
    ContextSize,
    bridson_places,
    corruption_rows,
    mask_rows,
    slice_inference_rows,
    slice_loader_rows,
    training_step,
)
from tools.benchmark.measure import Timer

TINY = ContextSize(image_size=16, batch_size=2, features=(2, 4), num_groups=2, in_channels=1, patch_size=4)


@pytest.mark.parametrize(("image_size", "patch_size"), [(128, 64), (128, 8), (50, 7)])
def test_bridson_draws_as_many_disjoint_patches_at_a_distance(image_size, patch_size):
    R = np.random.RandomState(0)
    for _ in range(5):
        places = bridson_places(R, image_size, patch_size)
        assert places.shape == (image_size**2 // (4 * patch_size**2), 2)
        assert places.min() >= 0 and places.max() <= image_size - patch_size
        apart = np.abs(places[:, None] - places)[~np.eye(len(places), dtype=bool)]
        assert (apart.max(-1) >= patch_size).all()
        assert (np.hypot(*apart.T) > (patch_size - 1) * np.sqrt(2)).all()


def test_masks_of_both_samplers_cover_a_quarter():
    rows = mask_rows(32, (8, 4), Timer("cpu", 2))
    assert [row.name for row in rows] == ["Poisson-disc masks of 32^2, K=8", "Poisson-disc masks of 32^2, K=4"]
    for row in rows:
        assert (row.unit, row.repeats) == ("masks/s", 2)
        assert row.notes["covered share of the image"] == "0.2500 against 0.2500"


@pytest.mark.parametrize("is_corrupted", [True, False])
def test_only_the_corrupted_step_draws_and_it_draws_anew_each_time(is_corrupted, monkeypatch):
    drawn = []
    corrupt = RandContextRestoration.corrupt_batch
    monkeypatch.setattr(
        RandContextRestoration, "corrupt_batch", lambda self, *batch: drawn.extend(batch[1]) or corrupt(self, *batch)
    )
    step = training_step(TINY, is_corrupted, "cpu")
    step()
    step()
    assert len(drawn) == len(set(drawn)) == (4 if is_corrupted else 0)


def test_corruption_rows_tell_the_share_of_the_step():
    training, *corruptions = corruption_rows(TINY, (4, 2), Timer("cpu", 1), aim=0.1)
    assert (training.side_a, training.side_b) == ("swapped patches, K=4", "uncorrupted images")
    assert [row.side_a for row in corruptions] == ["draw and swap, K=4", "draw and swap, K=2"]
    for row in corruptions:
        assert row.median_b == training.median_b
        assert row.notes["share of the step in %"] == pytest.approx(100 / row.ratio)
        assert row.notes["aim: less than, in %"] == 10


def test_loader_row_is_in_slices_per_second():
    (row,) = slice_loader_rows(TINY, Timer("cpu", 2))
    assert (row.unit, row.repeats) == ("slices/s", 2)


def test_inference_of_whole_slices_and_that_of_monai_agree():
    (row,) = slice_inference_rows(TINY, 3, Timer("cpu", 1))
    assert row.unit == "s"
    assert row.notes["largest difference of the logits"] < 1e-5 < row.notes["largest logit"]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("device", "batch_size", "aim"), [("cpu", 2, 0.1), ("cuda", 9, 0.03)])
def test_sizes_are_the_papers_unless_quick(quick, device, batch_size, aim, monkeypatch):
    asked = {}
    for name in ("mask_rows", "corruption_rows", "slice_loader_rows", "slice_inference_rows"):
        monkeypatch.setattr(
            context, name, lambda *values, name=name, **named: asked.update({name: (values, named)}) or []
        )
    assert context.all_rows(Timer(device, 3), quick) == []
    (size, patch_sizes, *_), named = asked["corruption_rows"]
    assert len(asked) == 4
    assert (size.batch_size, size.in_channels, named["aim"]) == (batch_size, 3, aim)
    assert size.image_size == (128 if quick else 512)
    assert quick or (size.features, patch_sizes) == ((32, 64, 128, 256, 512), (64, 32, 16, 8))
    assert all(size.image_size**2 // (4 * patch_size**2) >= 2 for patch_size in patch_sizes)
    assert torch.Size([batch_size, 3, size.image_size, size.image_size]) == size.images().shape
