"""Laws of the clinical metrics, and of their table."""

from __future__ import annotations

import csv
import logging
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.context import SaveClinicalMetrics, compare_classes, measure_class
from common.context import clinical as module

AFFINE = np.diag([-2.0, 3, 5, 1])


def box(low, high, size=(10, 9, 8)):
    mask = np.zeros(size, bool)
    mask[tuple(slice(*pair) for pair in zip(low, high, strict=True))] = True
    return mask


@pytest.mark.parametrize(("axis", "area"), [(0, 4 * 3 * 2 * 5), (1, 3 * 2 * 2 * 5), (2, 3 * 2 * 4 * 3)])
def test_a_box_has_the_area_and_volume_of_a_box(axis, area):
    measures = measure_class(box((1, 2, 3), (4, 6, 5)), AFFINE, axis)
    assert measures == {"area_mm2": pytest.approx(area), "volume_mm3": pytest.approx(3 * 4 * 2 * 30)}


def test_the_area_is_the_mean_over_the_slices_that_show_the_class():
    mask = box((0, 0, 0), (4, 4, 1)) | box((0, 0, 1), (4, 2, 2))
    assert measure_class(mask, AFFINE)["area_mm2"] == pytest.approx((16 + 8) / 2 * 6)


def test_areas_are_compared_on_the_slices_of_the_reference():
    """A single voxel on each of two further slices made an error of -33 % of a perfect segmentation."""
    reference = box((0, 0, 2), (4, 4, 4)).astype(int)
    prediction = reference.copy()
    prediction[0, 0, 5:7] = 1
    row = compare_classes(prediction, reference, [1], AFFINE)[1]
    assert row["area_mm2_percent_error"] == 0 and row["volume_mm3_percent_error"] == pytest.approx(100 * 2 / 32)
    prediction[:, :, 2] = 0
    assert compare_classes(prediction, reference, [1], AFFINE)[1]["area_mm2_percent_error"] == pytest.approx(-50)
    assert compare_classes(prediction, 0 * reference, [1], AFFINE)[1]["area_mm2_pred"] == pytest.approx(
        (16 + 1 + 1) * 2
    )


def test_the_axis_is_that_of_the_patient_whatever_the_order_of_the_voxels():
    mask = box((1, 2, 3), (4, 6, 5))
    turned = mask.transpose(2, 0, 1)
    affine = AFFINE[:, [2, 0, 1, 3]]
    for axis in range(3):
        assert measure_class(turned, affine, axis) == pytest.approx(measure_class(mask, AFFINE, axis))


def test_a_sheared_voxel_keeps_the_area_and_volume_that_it_has():
    affine = np.array([[2.0, 1, 1, 0], [0, 3, 0.5, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    measures = measure_class(box((0, 0, 0), (1, 1, 1)), affine)
    assert measures == {"area_mm2": pytest.approx(6), "volume_mm3": pytest.approx(30)}


@pytest.mark.parametrize("size", [(6, 5, 1), (6, 1, 5)])
def test_a_2d_image_has_an_area_and_no_volume(size):
    measures = measure_class(np.ones(size, bool), AFFINE)
    assert measures["area_mm2"] == pytest.approx(30 * (6 if size[2] == 1 else 10))
    assert math.isnan(measures["volume_mm3"])


def test_means_are_taken_inside_the_class_and_of_finite_values():
    mask = box((0, 0, 0), (2, 1, 1))
    image, t2_map = np.full(mask.shape, -1000.0, np.float32), np.full(mask.shape, np.nan)
    image[:2, 0, 0], t2_map[0, 0, 0] = (40, 60), 35
    measures = measure_class(mask, AFFINE, image=image, t2_map=t2_map)
    assert (measures["mean_hu"], measures["mean_t2_ms"]) == (50, 35)


def test_errors_are_percentages_of_the_reference_with_a_sign():
    reference, prediction = (2 * box((0, 0, 0), (4, width, 4)).astype(np.uint8) for width in (4, 5))
    image = np.full(reference.shape, -100.0)
    image[:, 4] = -50
    row = compare_classes(prediction, reference, [2], AFFINE, image=image)[2]
    assert (row["volume_mm3_percent_error"], row["area_mm2_percent_error"]) == pytest.approx((25, 25))
    assert (row["volume_mm3_pred"], row["volume_mm3_label"]) == pytest.approx((80 * 30, 64 * 30))
    assert row["mean_hu_pred"] == pytest.approx(-90) and row["mean_hu_percent_error"] == pytest.approx(10)


def test_a_missed_class_has_an_error_of_minus_hundred_and_one_without_reference_none():
    here, nothing = box((0, 0, 0), (2, 2, 2)).astype(int), np.zeros((10, 9, 8), int)
    image = np.full(here.shape, 30.0)
    missed = compare_classes(nothing, here, [1], AFFINE, image=image, t2_map=image)[1]
    assert missed["volume_mm3_percent_error"] == missed["area_mm2_percent_error"] == -100
    assert missed["volume_mm3_pred"] == 0
    assert math.isnan(missed["mean_hu_percent_error"]) and math.isnan(missed["mean_t2_ms_pred"])
    for prediction in (here, nothing):
        row = compare_classes(prediction, nothing, [1], AFFINE, image=image, t2_map=image)[1]
        assert all(math.isnan(value) for name, value in row.items() if name.endswith("percent_error"))


def test_other_shapes_are_refused():
    mask = box((0, 0, 0), (2, 2, 2))
    with pytest.raises(ValueError, match=r"mean_hu must be taken of an image .* \(10, 9, 8\), got \(10, 9, 7\)"):
        measure_class(mask, AFFINE, image=np.zeros((10, 9, 7)))
    with pytest.raises(
        ValueError, match=r"prediction must have the shape of the reference \(10, 9, 8\), got \(10, 9\)"
    ):
        compare_classes(mask[..., 0], mask, [1], AFFINE)


# ---- the table -----------------------------------------------------------------------------------

LABELS = {0: "background", 1: "fat", 2: "muscle"}


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
        rows = run([make_case("a.nii.gz"), make_case("b.nii.gz", 5)], tmp_path / "new", modality=["CT"])
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
    rows = run([make_case("a.nii"), make_case("b.nii", t2_map=path)], tmp_path, modality=["MRI"])
    assert [row["mean_t2_ms_pred"] for row in rows] == ["nan", "nan", "36.000000", "nan"]
    assert float(rows[2]["mean_t2_ms_percent_error"]) == 20
    assert not any(name.startswith("mean_hu") for name in rows[0])


def test_one_hot_maps_give_the_same_as_label_maps(make_case, tmp_path):
    case, output = make_case("a.nii")
    one_hot = {key: torch.cat([value == label for label in LABELS]).float() for key, value in output.items()}
    expected = run([(case, output)], tmp_path, modality=["CT"])
    assert run([(case, one_hot)], tmp_path, modality=["CT"]) == expected


def test_a_2d_image_has_no_volume_and_of_a_picture_it_is_said_that_areas_are_pixels(tmp_path, caplog):
    cases = []
    nib.save(nib.Nifti1Image(np.full((6, 5), 7, np.int16), AFFINE), tmp_path / "a.nii")
    Image.fromarray(np.full((5, 6), 7, np.uint8)).save(tmp_path / "b.png")
    for name, affine in (("a.nii", AFFINE), ("b.png", np.diag([-1.0, -1, 1, 1]))):
        meta = {"filename_or_obj": str(tmp_path / name)}
        label = MetaTensor(torch.ones(1, 6, 5, 1), torch.as_tensor(affine), meta=meta)
        cases.append(({}, {"pred": label, "label": label}))
    rows = run(cases, tmp_path, modality=["CT"])
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


@pytest.mark.parametrize(("modality", "is_measured"), [(["CT", "PET"], True), (["PET", "CT"], False)])
def test_of_several_channels_the_first_gives_hounsfield_units_when_it_is_a_ct(
    make_case, write_scan, tmp_path, modality, is_measured
):
    case, output = make_case("a_0000.nii")
    case["image"] = [case["image"], write_scan("a_0001.nii", np.zeros((6, 5, 4), np.int16), affine=AFFINE)]
    (row, _) = run([(case, output)], tmp_path, modality=modality)
    assert row.get("mean_hu_pred") == ("100.000000" if is_measured else None)
