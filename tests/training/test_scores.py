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

from common.training import HausdorffDistanceInMm, SaveScores

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


def test_a_label_without_a_voxel_size_is_refused():
    with pytest.raises(TypeError, match="label must be a MetaTensor"):
        HausdorffDistanceInMm().update(([torch.zeros(2, 3, 3, 3)], [torch.zeros(2, 3, 3, 3)]))


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
