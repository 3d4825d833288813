"""What only real scans show. Skipped unless the environment variable SCANS_DIR names their folder."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.data import read_cases
from common.layers import find_brain
from common.planar import fit_field_of_view

ROOT = Path(__file__).resolve().parents[2]
SCANS = Path(os.environ.get("SCANS_DIR", "/nonexistent"))
needs_scans = pytest.mark.skipif(not SCANS.is_dir(), reason="SCANS_DIR names no folder of scans")


@needs_scans
@pytest.mark.parametrize("name", ["head_neck_ct", "hippocampus_mr", "glioma_flair", "liver_tumor_ct"])
def test_every_data_set_is_read_and_divided(name):
    cases = read_cases(SCANS / name, fold=1)
    images = [case["image"] for case in cases.training + cases.validation + cases.unlabeled + cases.test]
    assert cases.training and cases.validation and cases.test
    assert len(images) == len(set(images)) and all(Path(image).is_file() for image in images)


@needs_scans
@pytest.mark.parametrize(
    ("method", "name", "air", "options"),
    [
        ("stl", "head_neck_ct", -500, {"pretrained": "null"}),
        ("stl", "hippocampus_mr", None, {"pretrained": "null"}),
        ("mtl", "head_neck_ct", -500, {"num_unlabeled": 4}),
        ("mtl", "hippocampus_mr", None, {"num_unlabeled": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ct_and_mr_are_learned_from(method, name, air, options, tmp_path, monkeypatch):
    """Three short epochs lower the loss, and every test case gets a score for every class."""
    monkeypatch.setattr("sys.excepthook", None)
    bundle = ROOT / "bundles" / f"fnet_wtacae_{method}"

    def run(*names: str, **options) -> ConfigWorkflow:
        files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
        made = ConfigWorkflow(
            files,
            workflow_type="train",
            logging_file=False,
            bundle_root=str(bundle),
            dataset_dir=str(SCANS / name),
            ckpt_dir=str(tmp_path),
            device="cpu",
            air="$None" if air is None else air,
            num_labeled=2,
            num_validation=1,
            **options,
        )
        made.initialize()
        made.run()
        made.finalize()
        return made

    run("train.yaml", **options, max_epochs=3, iterations_per_epoch=15)
    history = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert float(history[-1]["train_loss"]) < 0.9 * float(history[0]["train_loss"])
    run("train.yaml", "evaluate.yaml", evaluation_dir=str(tmp_path / "scores"), split="validation")
    (row,) = csv.DictReader((tmp_path / "scores" / "mean_dice_raw.csv").open())
    assert len(row) == 2 + len(read_cases(SCANS / name).labels) - 1
    assert 0 <= float(row["mean"]) <= 1


@needs_scans
def test_the_field_of_view_finds_the_same_anatomy_in_scans_that_begin_anywhere():
    """Along the body, the left parotid gland varies by 30 mm from the first slice, and by 11 mm from the box."""
    cases = read_cases(SCANS / "head_neck_ct")
    field = fit_field_of_view(cases.unlabeled[:12], [309.0] * 3, (-160.0, 300.0))
    from_scan, from_box = [], []
    for case in cases.test:
        image, label = (nib.as_closest_canonical(nib.load(case[key])) for key in ("image", "label"))
        spacing = image.header.get_zooms()
        center = np.argwhere(np.asarray(label.dataobj) == 4).mean(axis=0) * spacing
        place = field.locate(torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))[None], spacing)
        from_scan.append(center[2])
        from_box.append(center[2] - place.center[2])
    assert np.std(from_box) < 0.5 * np.std(from_scan)


@needs_scans
def test_the_brain_is_found_with_the_tumor_in_it():
    """Otsu's threshold, in its place, splits the brain of some scans."""
    for case in read_cases(SCANS / "glioma_flair").test[:5]:
        image, label = (np.asarray(nib.load(case[key]).dataobj) for key in ("image", "label"))
        brain = find_brain(image, (240 / 256, 240 / 256, 140 / image.shape[2]))
        assert brain[label > 0].mean() > 0.95
        assert 0.08 < brain.mean() < 0.45
        middle = tuple(length // 2 for length in image.shape)
        assert brain[middle]
