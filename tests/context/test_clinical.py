"""Laws of the clinical metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.context import compare_classes, measure_class

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
