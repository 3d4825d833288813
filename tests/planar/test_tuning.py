"""Laws of the tuning of votes."""

from __future__ import annotations

import pytest
import torch

from common.planar import VOTE_OPTIONS, GrayValueDifference, PlanarAtlas, VoteTuner


@pytest.fixture
def atlas(volume, label):
    descriptor = GrayValueDifference(16, padding_mode="border")
    atlas = PlanarAtlas(descriptor, 3, step=1, num_neighbors=5, smoothing=0.7, fusion_weight=0.5)
    atlas.add(volume, label, "case")
    return atlas


def test_a_score_is_that_of_an_atlas_with_these_options(atlas, volume, label):
    image = volume.roll(1, dims=2)
    tuner = VoteTuner(atlas)
    tuner.add(image, label)
    for options in (
        {"num_neighbors": 3, "smoothing": 1.0},
        {"background_weight": 3.0, "fusion_weight": 0.0},
        {"num_neighbors": 21, "fusion_weight": 1.0},
    ):
        score = tuner.score(options)
        assert (atlas.num_neighbors, atlas.smoothing, atlas.fusion_weight) == (5, 0.7, 0.5)
        for name, value in options.items():
            setattr(atlas, name, value)
        found = atlas(image[None]).argmax(dim=1)
        dice = [
            2 * ((found == value) & (label == value)).sum() / ((found == value).sum() + (label == value).sum())
            for value in (1, 2)
        ]
        assert score == pytest.approx(float(sum(dice) / 2), abs=1e-6)
        atlas.num_neighbors, atlas.smoothing, atlas.background_weight, atlas.fusion_weight = 5, 0.7, 1.0, 0.5


def test_the_last_options_are_the_best_of_all_that_were_tried(atlas, volume, label):
    tuner = VoteTuner(atlas)
    tuner.add(volume.roll(2, dims=1), label)
    (first, _), *others, (best, highest) = tried = list(tuner.tune())
    assert first == {"fusion_weight": 0.5, "smoothing": 0.7, "num_neighbors": 5, "background_weight": 1.0}
    assert highest == max(score for _, score in tried) == tuner.score(best)
    assert len(others) >= sum(len(values) - 1 for values in VOTE_OPTIONS.values())


def test_open_voxels_and_organs_that_a_case_lacks_do_not_count(atlas, volume, label):
    tuner = VoteTuner(atlas)
    tuner.add(volume, torch.where(label == 2, -1, label))
    found = atlas(volume[None]).argmax(dim=1)[0]
    one, two = (found == 1) & (label[0] != 2), label[0] == 1
    assert tuner.score({}) == pytest.approx(float(2 * (one & two).sum() / (one.sum() + two.sum())))
    empty = VoteTuner(atlas)
    empty.add(volume, torch.zeros_like(label))
    with pytest.raises(ValueError, match="label must hold an organ in one case at least, got none"):
        empty.score({})
