"""Laws of the table of clinical metrics."""

from __future__ import annotations

import csv
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.context import SaveClinicalMetrics
from common.context import clinical as module

LABELS = {0: "background", 1: "fat", 2: "muscle"}
AFFINE = np.diag([-2.0, 3, 5, 1])


@pytest.fixture
def make_case(write_scan):
    """Return a function that writes a CT of 100 HU and gives what an evaluator holds of it."""

    def _make(name, width=4, **extra):
        source = write_scan(name, np.full((6, 5, 4), 100, np.int16), affine=AFFINE)
        label = MetaTensor(torch.zeros(1, 6, 5, 4), torch.as_tensor(AFFINE), meta={"filename_or_obj": source})
        label[:, :4, :2] = 1
        pred = label.clone()
        pred[:, 4 : width + 1, :2] = 1
        return {"image": source, **extra}, {"pred": pred, "label": label}

    return _make


def run(cases, save_dir, **options):
    def step(engine, batch):
        engine.state.batch = [case for case, _ in batch]
        return [output for _, output in batch]

    engine = Engine(step)
    handler = SaveClinicalMetrics(save_dir, LABELS, **options)
    handler.attach(engine)
    perfect = [(case, {**output, "pred": output["label"]}) for case, output in cases]
    for part in (perfect, cases):  # the second run starts anew
        engine.run([part[:1], part[1:]])
    with (save_dir / "clinical_raw.csv").open() as file:
        return list(csv.DictReader(file))


def test_there_is_a_row_for_each_case_and_class_with_hounsfield_units_from_the_file(make_case, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        rows = run([make_case("a.nii.gz"), make_case("b.nii.gz", 5)], tmp_path / "new", modality="CT")
    assert [row["class"] for row in rows] == ["fat", "muscle"] * 2
    assert [row["filename"].rsplit("/")[-1] for row in rows[::2]] == ["a.nii.gz", "b.nii.gz"]
    assert [float(row["volume_mm3_percent_error"]) for row in rows[::2]] == [25, 50]
    assert float(rows[0]["area_mm2_label"]) == 8 * 6 and float(rows[0]["mean_hu_pred"]) == 100
    assert float(rows[1]["volume_mm3_pred"]) == 0 and rows[1]["mean_hu_percent_error"] == "nan"
    assert not any(name.startswith("mean_t2") for name in rows[0])
    assert "fat area_mm2 37.5 %, volume_mm3 37.5 %, mean_hu 0.0 %; muscle area_mm2 none" in caplog.text


def test_t2_is_measured_where_there_is_a_map_and_no_hounsfield_units_in_mr(make_case, write_scan, tmp_path):
    t2_map = np.full((6, 5, 4), 30, np.float32)
    t2_map[4:] = 60
    path = write_scan("t2.nii.gz", t2_map, affine=AFFINE)
    rows = run([make_case("a.nii"), make_case("b.nii", t2_map=path)], tmp_path, modality="MRI")
    assert [row["mean_t2_ms_pred"] for row in rows] == ["nan", "nan", "36.000000", "nan"]
    assert float(rows[2]["mean_t2_ms_percent_error"]) == 20
    assert not any(name.startswith("mean_hu") for name in rows[0])


def test_one_hot_maps_give_the_same_as_label_maps(make_case, tmp_path):
    case, output = make_case("a.nii")
    one_hot = {key: torch.cat([value == label for label in LABELS]).float() for key, value in output.items()}
    expected = run([(case, output)], tmp_path, modality="CT")
    assert run([(case, one_hot)], tmp_path, modality="CT") == expected


def test_a_2d_image_has_no_volume_and_of_a_picture_it_is_said_that_areas_are_pixels(tmp_path, caplog):
    cases = []
    nib.save(nib.Nifti1Image(np.full((6, 5), 7, np.int16), AFFINE), tmp_path / "a.nii")
    Image.fromarray(np.full((5, 6), 7, np.uint8)).save(tmp_path / "b.png")
    for name, affine in (("a.nii", AFFINE), ("b.png", np.diag([-1.0, -1, 1, 1]))):
        meta = {"filename_or_obj": str(tmp_path / name)}
        label = MetaTensor(torch.ones(1, 6, 5, 1), torch.as_tensor(affine), meta=meta)
        cases.append(({}, {"pred": label, "label": label}))
    rows = run(cases, tmp_path, modality="CT")
    assert [row["area_mm2_pred"] for row in rows[::2]] == ["180.000000", "30.000000"]
    assert not any(name.startswith("volume") for name in rows[0])
    assert [row["mean_hu_pred"] for row in rows[::2]] == ["7.000000"] * 2
    assert "b.png: a PNG has no pixel size" in caplog.text and "a.nii: a PNG" not in caplog.text


def test_the_rows_of_all_processes_come_together_once_and_only_the_first_writes(make_case, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "string_list_all_gather", lambda rows: [*rows, rows[0].replace("a.nii", "z.nii"), *rows]
    )
    rows = run([make_case("a.nii")], tmp_path)
    assert [row["filename"].rsplit("/")[-1] for row in rows] == ["a.nii", "a.nii", "z.nii"]
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    (tmp_path / "clinical_raw.csv").unlink()
    with pytest.raises(FileNotFoundError):
        run([make_case("a.nii")], tmp_path)
