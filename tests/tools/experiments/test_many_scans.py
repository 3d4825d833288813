"""Laws of the measurement of trainings on many scans."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from tools._command import find_bundle
from tools.experiments.many_scans import Costs, measure_training, write_scans


def test_volumes_are_made_once_and_each_is_another(tmp_path):
    first = {path: path.read_bytes() for path in write_scans(tmp_path, 3, 16).iterdir()}
    assert len(set(first.values())) == len(first) == 6
    next(iter(first)).unlink()
    assert {path: path.read_bytes() for path in write_scans(tmp_path, 3, 16).iterdir()} == first
    image, label = (nib.load(tmp_path / f"{kind}_00001.nii").get_fdata() for kind in ("image", "label"))
    assert image.shape == label.shape == (16, 16, 16)
    assert 0 < label.mean() < 0.5 and image[label > 0].mean() > image[(label == 0) & (image > -500)].mean() + 30
    assert np.unique(label).tolist() == [0, 1]


def test_memory_that_grows_is_told_from_memory_that_stays():
    costs = Costs(int(3e9), [100, 90, 120], 7.0, [0.2, 0.4, 0.3], [0.1, 0.1, 0.2], int(1e9))
    assert costs.growth == pytest.approx(0.2)
    assert costs.summarize() == (
        "peak 3.00 GB, growth over 3 epochs 20.0%; 7 s before the first step, step 0.300 s, delivery 0.100 s "
        "(3.0 times as fast); 1.00 GB on disk"
    )


@pytest.mark.slow
def test_a_training_is_measured_with_its_scans_on_disk(tmp_path):
    bundle = find_bundle("context_restoration_unet", "configs")
    options = {"max_epochs": 2, "iterations_per_epoch": 1, "cache_memory": 0.0}
    scans = write_scans(tmp_path / "scans", 4, 24)
    costs = measure_training(bundle, "training", scans, tmp_path / "output", **options)
    assert len(json.loads((scans / "dataset.json").read_text())["training"]) == 4
    assert len(costs.epochs) == len(costs.steps) == 2 and costs.deliveries
    assert costs.peak >= min(costs.epochs) > 1e7 and costs.stored > 4 * 24**3
