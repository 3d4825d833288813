"""Laws of the checks on voxels and labels."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import check_image, check_label, check_modality


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0, np.nan, np.nan], "finite, got 2 NaN and 0 infinite"),
        ([np.inf, -np.inf, np.nan], "finite, got 1 NaN and 2 infinite"),
        ([0, 1e39, 1], "32-bit float, got 0 to 1e\\+39"),
        ([], r"hold voxels, got shape \(0,\)"),
    ],
)
def test_image_refuses_values_that_poison_a_network(values, match):
    with pytest.raises(ValueError, match=f"a: .*{match}"):
        check_image(np.array(values), "a")


def test_image_warns_only_when_it_is_constant():
    assert check_image(np.array([1.0, 2.0]), "a") is None
    assert check_image(np.full(5, 3, np.int16), "a") == "a: image is constant, every voxel is 3"


@pytest.mark.parametrize(
    ("values", "labels", "match"),
    [
        ([0, 1, 5, 5, 255], 3, r"among \[0, 1, 2\], got 5, 255"),
        ([0, -1], 3, "got -1"),
        ([0, 1, 2], [0, 2], r"among \[0, 2\], got 1"),
        ([0, 0.5, 1], 2, "whole numbers, got 0.5"),
        ([0, np.nan], None, "whole numbers, got nan"),
        ([0, np.inf], None, "whole numbers of 32 bits, got 0, inf"),
        ([0, 2**40], 2, "whole numbers of 32 bits, got 0, 1.09951e\\+12"),
        ([], 2, r"hold voxels, got shape \(0,\)"),
        (list(range(20)), 2, "got 2, 3, 4, 5, 6, 7, 8, 9, \\.\\.\\."),
    ],
)
def test_label_refuses_values_outside_the_set(values, labels, match):
    with pytest.raises(ValueError, match=f"a: label.*{match}"):
        check_label(np.array(values), "a", labels)


def test_label_within_a_hundredth_is_rounded_with_a_warning(caplog):
    rounded = check_label(np.array([0.0, 0.996, 2.004]), "a", 3)
    assert rounded.dtype == np.uint8
    np.testing.assert_array_equal(rounded, [0, 1, 2])
    assert "rounded" in caplog.text


@pytest.mark.parametrize(
    ("value", "labels", "dtype"),
    [(255, 256, "uint8"), (256, 300, "int16"), (-1, None, "int16"), (40000, None, "int32")],
)
def test_label_keeps_every_value_whatever_the_number_of_classes(value, labels, dtype):
    out = check_label(np.array([0, value]), "a", labels)
    assert out.dtype == dtype
    assert out[1] == value


@pytest.mark.parametrize(("value", "said"), [(0, "a: label is empty"), (1, "a: label has no background")])
def test_a_label_of_one_value_is_warned_of(value, said, caplog):
    check_label(np.full(5, value, np.uint8), "a", 2)
    assert said in caplog.text


AIR, FAT, MUSCLE, BONE = -1000, -100, 50, 700


def draw(*parts, spread=20.0):
    """Draw intensities around means, each for a share of the voxels."""
    random = np.random.RandomState(0)
    return np.concatenate([random.normal(mean, spread, int(10_000 * share)) for mean, share in parts])


WHOLE = draw((AIR, 0.6), (FAT, 0.1), (MUSCLE, 0.25), (BONE, 0.05))
INSIDE = draw((FAT, 0.3), (MUSCLE, 0.6), (BONE, 0.1))
MR = np.random.RandomState(0).gamma(2.0, 80.0, 10_000) - 60


@pytest.mark.parametrize("values", [WHOLE, INSIDE, np.append(WHOLE, np.full(3000, -2000.0)), np.append(WHOLE, 3071.0)])
def test_hounsfield_units_pass_with_and_without_air_padding_and_metal(values):
    assert check_modality(values, "a", "CT") is None


@pytest.mark.parametrize(
    "values",
    [
        *(WHOLE + 1024, INSIDE + 1024, np.append(WHOLE + 1024, np.full(3000, -2000.0))),  # raw values, padded ones
        *(WHOLE / 1000, (WHOLE.clip(-160, 240) + 160) / 400 * 255, WHOLE.clip(-40, 160)),  # scaled, windowed
        *(MR, MR - 1024, np.zeros(100), np.full(100, -1000.0)),
    ],
)
def test_what_cannot_be_hounsfield_units_is_warned_of_by_the_body(values):
    assert "a: a CT must be in Hounsfield units" in check_modality(values, "a", "CT angiography")


def test_a_ct_that_is_said_to_be_mr_is_warned_of_and_other_modalities_are_not_judged():
    assert "a: modality is FLAIR, but intensities" in check_modality(WHOLE, "a", "FLAIR")
    assert check_modality(MR, "a", "T1w") is None
    assert check_modality(WHOLE, "a", "") is check_modality(WHOLE, "a", "US") is None
