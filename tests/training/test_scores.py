"""Laws of the table of scores: a case without a score is told, and does not count."""

from __future__ import annotations

import csv
import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from common.training import SaveScores

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
