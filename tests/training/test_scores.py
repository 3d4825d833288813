"""Laws of distances in mm and of the table of scores: a case without a score is told, and does not count."""

from __future__ import annotations

import csv
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import AsDiscreted

from common.data import IGNORED
from common.training import HausdorffDistanceInMm, SaveScores, SurfaceDice
from common.transforms import IgnoreUnlabeledd

# ---- distances -----------------------------------------------------------------------------------


def test_the_distance_of_two_bodies_is_in_mm_along_every_axis():
    metric = HausdorffDistanceInMm(include_background=False, percentile=95)
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "distance")
    for axis, edge in enumerate((1.0, 2.0, 5.0)):
        bodies = torch.zeros(2, 1, 12, 12, 12)
        bodies[0, 0, 4:6, 4:6, 4:6] = 1
        bodies[1] = bodies[0].roll(3, dims=axis + 1)
        affine = torch.diag(torch.tensor([1.0, 2.0, 5.0, 1.0]))
        prediction, label = (MetaTensor(torch.cat((1 - body, body)), affine=affine) for body in bodies)
        state = engine.run([([prediction], [label])])
        assert state.metrics["distance"] == pytest.approx(3 * edge)
        assert state.metric_details["distance"].tolist() == [[pytest.approx(3 * edge)]]


@pytest.mark.parametrize("lacking", [(0,), (1,), (0, 1)])
def test_where_a_body_is_missing_there_is_no_distance_and_none_of_0(lacking):
    """The mean over segmentations that were all empty was 0 mm, that of perfect ones."""
    body = torch.zeros(1, 8, 8, 8)
    body[0, 2:4, 2:4, 2:4] = 1
    pair = (body, body.roll(1, 1))
    whole, part = (
        [[MetaTensor(torch.cat((1 - each, each)), affine=torch.eye(4))] for each in bodies]
        for bodies in (pair, [0 * each if index in lacking else each for index, each in enumerate(pair)])
    )
    metric = HausdorffDistanceInMm(include_background=False, percentile=95)
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "distance")
    assert math.isnan(engine.run([part]).metrics["distance"])
    state = engine.run([part, whole])
    assert state.metrics["distance"] == pytest.approx(1.0)
    assert state.metric_details["distance"].isnan().tolist() == [[True], [False]]


@pytest.mark.parametrize("make", [HausdorffDistanceInMm, lambda: SurfaceDice(1.0)])
def test_a_label_without_a_voxel_size_is_refused(make):
    with pytest.raises(TypeError, match="label must be a MetaTensor"):
        make().update(([torch.zeros(2, 3, 3, 3)], [torch.zeros(2, 3, 3, 3)]))


def one_hot(label_map, spacing=(1.0, 1.0, 1.0), num_classes=3):
    classes = torch.nn.functional.one_hot(label_map.long(), num_classes).movedim(-1, 0).float()
    return MetaTensor(classes, affine=torch.diag(torch.tensor([*spacing, 1.0])))


def score(prediction, label, spacing=(1.0, 1.0, 1.0), tolerance=1.0):
    """Return the surface Dice and the Hausdorff distance of each class of two label maps."""
    found = []
    for metric in (SurfaceDice(tolerance), HausdorffDistanceInMm(percentile=100)):
        engine = Engine(lambda engine, batch: batch)
        metric.attach(engine, "score")
        state = engine.run([([one_hot(prediction, spacing)], [one_hot(label, spacing)])])
        found.append(state.metric_details["score"][0].tolist())
    return found


def box(start, size=6, value=1, shape=(20, 20, 20)):
    label = torch.zeros(shape, dtype=torch.uint8)
    label[tuple(slice(first, first + size) for first in start[: len(shape)])] = value
    return label


@pytest.mark.parametrize(
    ("spacing", "tolerance", "dice"),
    [
        ((1.0, 1.0, 1.0), 1.0, 1.0),
        ((1.0, 1.0, 1.0), 0.9, 200 / 304),  # of 152 voxels of each box, a face and the inside of another are apart
        ((1.1, 1.0, 1.0), 1.0, 224 / 304),  # but for those of the inside that are 1 mm from the rim
        ((5.0, 1.0, 1.0), 5.0, 1.0),
    ],
)
def test_the_surface_dice_is_the_share_of_both_surfaces_within_a_tolerance_in_mm(spacing, tolerance, dice):
    (share, _), (distance, _) = score(box((5, 5, 5)), box((6, 5, 5)), spacing, tolerance)
    assert share == pytest.approx(dice)
    assert distance == pytest.approx(spacing[0])


def test_a_class_that_the_label_lacks_has_no_score_and_one_that_is_missed_has_0():
    missed, invented = box((5, 5, 5)), box((5, 5, 5), value=2)
    dice, distance = score(invented, missed)
    assert dice[0] == 0 and math.isnan(dice[1])
    assert all(map(math.isnan, distance))


def test_the_surface_of_a_2d_image_is_its_outline():
    """Every pixel of an image without depth was a surface, so that none was far from the other one."""
    (dice, _), (distance, _) = score(
        box((5, 5), 6, 1, (20, 20))[..., None], box((5, 5), 10, 1, (20, 20))[..., None], (1.0, 1.0, 3.0)
    )
    assert distance == pytest.approx(32**0.5)  # from corner to corner
    assert dice == pytest.approx((13 + 13) / (20 + 36))  # two of the edges are shared, and 1 mm beyond


def test_surfaces_that_end_where_nobody_labeled_have_no_score_and_others_have_theirs():
    label = (box((2, 2, 2), 6) + box((12, 12, 12), 6, 2)).int()
    prediction = (box((2, 2, 3), 6) + box((12, 12, 12), 6, 2)).int()
    label[:, :, 14:] = IGNORED  # cuts the second body
    given = {"pred": MetaTensor(prediction[None]), "label": MetaTensor(label[None])}
    left = IgnoreUnlabeledd("pred", "label", 3)(given)
    pair = [one_hot(left[key][0]) for key in ("pred", "label")]
    pair[1].meta["ignored"] = left["label"].meta["ignored"]
    metric = SurfaceDice(0.5)
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "score")
    first, second = engine.run([([pair[0]], [pair[1]])]).metric_details["score"][0].tolist()
    assert 0 < first < 1 and math.isnan(second)


def test_the_mask_of_what_nobody_labeled_outlives_the_one_hot_form():
    label = torch.tensor([[[[1, IGNORED, 0]]]])
    out = IgnoreUnlabeledd("pred", "label", 3)({"pred": MetaTensor(label.clamp(min=0)), "label": MetaTensor(label)})
    out = AsDiscreted(["pred", "label"], to_onehot=3)(out)
    assert out["label"].meta["ignored"].flatten().tolist() == [False, True, False]


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="surface_tolerance must be a number from 0, got -1"):
        SurfaceDice(-1)


# ---- the table -----------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[1, 3], [2, 6], [3, 9]], "distance 4.0000 over 3 cases (liver 2.000, tumor 6.000)"),
        ([[1, 3], [2, NAN], [NAN, NAN]], "distance 2.0000 over 2 of 3 cases (liver 1.500 over 2, tumor 3.000 over 1)"),
        ([[NAN, NAN]] * 3, "distance nan over 0 of 3 cases (liver nan over 0, tumor nan over 0)"),
    ],
)
def test_a_mean_says_over_how_many_cases_it_is(scores, said, tmp_path, caplog):
    """The mean over cases with a distance was logged as that of all, also of those in which nothing was found."""
    engine = Engine(lambda engine, batch: [{"image": SimpleNamespace(meta={"filename_or_obj": batch})}])
    SaveScores(tmp_path, "distance", {0: "background", 1: "liver", 2: "tumor"}).attach(engine)

    @engine.on(Events.STARTED)
    def _score(engine):
        engine.state.metric_details = {"distance": torch.tensor(scores, dtype=torch.float)}

    with caplog.at_level(logging.INFO):
        engine.run(["a.nii", "b.nii", "c.nii"])
    (line,) = [record.getMessage() for record in caplog.records if record.name == "common.training.scores"]
    assert line == f"{said}: {tmp_path / 'distance_raw.csv'}"
    rows = list(csv.reader((tmp_path / "distance_raw.csv").open()))
    assert rows[0] == ["filename", "liver", "tumor", "mean"]
    for row, values, name in zip(rows[1:], scores, "abc", strict=True):
        assert row[:3] == [f"{name}.nii", *(f"{value:.6f}" for value in values)]
