"""Laws of the error of restored images."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from common.context import SaveRestorationErrors, restoration_error


def test_the_error_is_the_norm_over_the_pixels_and_the_mean_over_the_channels():
    torch.manual_seed(0)
    restored, original = torch.randn(2, 3, 8, 5, 4)
    expected = [
        [np.linalg.norm(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(restored, original, strict=True)
    ]
    np.testing.assert_allclose(restoration_error(restored, original), np.mean(expected, axis=1), rtol=1e-5)
    assert restoration_error(original, original).tolist() == [0, 0, 0]


def test_each_image_has_a_row_with_the_error_of_doing_nothing_beside_its_own(tmp_path, caplog):
    caplog.set_level("INFO")
    batches = [
        {"case": ["b.nii", "a.nii"], "slice": torch.tensor([3, 11])},
        {"case": ["a.nii"], "slice": torch.tensor([2])},
    ]

    def step(engine, batch):
        shape = (len(batch["case"]), 1, 2, 2)
        return {"label": torch.zeros(shape), "pred": torch.ones(shape), "image": torch.full(shape, 3.0)}

    engine = Engine(step)
    SaveRestorationErrors(tmp_path).attach(engine)
    for _ in range(2):  # a second run begins anew
        engine.run(batches)
        rows = list(csv.reader((tmp_path / "restoration_raw.csv").open(encoding="utf-8")))
        assert rows[0] == ["filename", "slice", "l2", "l2_corrupted"]
        assert [row[:2] for row in rows[1:]] == [["a.nii", "2"], ["a.nii", "11"], ["b.nii", "3"]]
        assert all([float(number) for number in row[2:]] == pytest.approx([2, 6]) for row in rows[1:])
    assert "L2 2.00 ± 0.00 over 3 images, left as they are 6.00 ± 0.00" in caplog.text
