"""Laws of the phantoms."""

from __future__ import annotations

import json
import time

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.ndimage import label as find_components

from common.data import PHANTOM_LABELS, make_phantom, read_cases, write_phantoms

LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY = range(1, 5)


def centroid(mask, affine):
    """Return the center of a mask in RAS mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def test_same_seed_same_phantom():
    for first, second in zip(make_phantom(3, 32), make_phantom(3, 32), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(make_phantom(3)[2], make_phantom(4)[2])


@pytest.mark.parametrize("seed", range(6))
def test_organs_lie_where_they_do_in_a_patient_whatever_the_orientation(seed):
    image, label, affine = make_phantom(seed, 48)
    body = centroid(image > -300, affine)
    right, anterior, superior = np.array([centroid(label == value, affine) - body for value in range(1, 5)]).T
    assert right[LIVER - 1] > 15 and right[SPLEEN - 1] < -40
    assert right[RIGHT_KIDNEY - 1] > 20 and right[LEFT_KIDNEY - 1] < -20
    assert max(anterior[[RIGHT_KIDNEY - 1, LEFT_KIDNEY - 1]]) < anterior[LIVER - 1]
    assert max(superior[[RIGHT_KIDNEY - 1, LEFT_KIDNEY - 1]]) < min(superior[[LIVER - 1, SPLEEN - 1]])


@pytest.mark.parametrize("seed", range(6))
def test_every_organ_is_there_and_mostly_in_one_piece(seed):
    _, label, affine = make_phantom(seed)
    milliliters = np.bincount(label.ravel(), minlength=5) * abs(np.linalg.det(affine)) / 1000
    assert label.max() == len(PHANTOM_LABELS) - 1
    assert 300 < milliliters[LIVER] < 2000
    assert all(25 < volume < 500 for volume in milliliters[SPLEEN:])
    for value in range(1, 5):
        sizes = np.bincount(find_components(label == value)[0].ravel())[1:]
        assert sizes.max() > 0.9 * sizes.sum()


@pytest.mark.parametrize("size", [24, 64])
def test_image_and_label_share_a_grid_of_the_same_extent_at_every_size(size):
    image, label, affine = make_phantom(0, size)
    assert image.shape == label.shape
    assert sorted(image.shape, reverse=True) == [size, size * 7 // 8, size * 3 // 4]
    assert (image.dtype, label.dtype) == (np.int16, np.uint8)
    field = np.sort(np.array(image.shape) * np.linalg.norm(affine[:3, :3], axis=0))
    assert 165 < field[0] < 215 and 275 < field[2] < 320


def test_grids_differ_in_orientation_and_spacing():
    affines = [make_phantom(seed, 16)[2] for seed in range(12)]
    assert len({nib.aff2axcodes(affine) for affine in affines}) > 6
    assert len({round(abs(np.linalg.det(affine)), 6) for affine in affines}) == 12


def test_values_are_hounsfield_units():
    image, label, _ = make_phantom(0)
    assert image.min() < -950 and 300 < image.max() < 1500
    assert 60 < np.median(image[label == LIVER]) < 150
    assert np.count_nonzero(np.abs(image + 100) < 40) > 0.05 * image.size  # fat


def test_no_threshold_finds_the_organs():
    """The best window of intensities for each organ overlaps it poorly."""
    image, label, _ = make_phantom(0)
    for value in range(1, 5):
        organ = label == value
        low, high = np.percentile(image[organ], [5, 95])
        window = (image >= low) & (image <= high)
        assert 2 * np.count_nonzero(window & organ) / (window.sum() + organ.sum()) < 0.75


def test_one_case_takes_less_than_a_second():
    make_phantom(0)
    start = time.process_time()
    make_phantom(1)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("seed", range(4))
def test_one_organ_shows_in_the_second_channel_only(seed):
    (image, uptake), label, affine = make_phantom(seed, 48, num_channels=2)
    alone, labels_alone, same = make_phantom(seed, 48)
    np.testing.assert_array_equal(affine, same)
    elsewhere = (label != LEFT_KIDNEY) & (labels_alone != LEFT_KIDNEY)
    np.testing.assert_array_equal(label[elsewhere], labels_alone[elsewhere])
    far = binary_erosion(elsewhere, iterations=3, border_value=1)
    np.testing.assert_allclose(image[far], alone[far], atol=1)  # the blur reaches no further
    around = binary_dilation(label == LEFT_KIDNEY, iterations=2) & (label != LEFT_KIDNEY) & (image > -300)
    assert np.median(uptake[label == LEFT_KIDNEY]) > 3 * np.median(uptake[around])
    assert abs(np.median(uptake[(label > 0) & (label < LEFT_KIDNEY)]) - np.median(uptake[around])) < 10
    inside = image[(label == LEFT_KIDNEY) & (image > -300)]
    assert abs(np.median(inside) - np.median(image[around])) < 60
    assert uptake.dtype == image.dtype and uptake.min() >= 0


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="num_channels must be one of 1, 2, got 3"):
        make_phantom(0, 16, num_channels=3)


def test_refuses_a_size_too_small_for_an_anatomy():
    with pytest.raises(ValueError, match="size must be at least 16 voxels, got 8"):
        make_phantom(0, 8)


def test_written_phantoms_are_a_data_set(tmp_path):
    folder = write_phantoms(tmp_path / "new" / "phantoms", num_training=5, num_test=1, num_unlabeled=2, size=16)
    cases = read_cases(folder)
    assert tuple(cases.labels.values()) == PHANTOM_LABELS
    assert cases.modality == ["CT"]
    assert [len(part) for part in (cases.training, cases.validation, cases.test, cases.unlabeled)] == [4, 1, 1, 2]
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "imagesTr",
        "imagesTs",
        "imagesUn",
        "labelsTr",
        "labelsTs",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["phantoms"]


def test_written_voxels_are_those_that_were_made(tmp_path):
    folder = write_phantoms(tmp_path / "phantoms", num_training=1, num_test=0, num_unlabeled=0, size=16, seed=2)
    image, label, affine = make_phantom(200_000, 16)
    listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"][0]
    for key, volume in {"image": image, "label": label}.items():
        written = nib.load(folder / listed[key])
        np.testing.assert_array_equal(np.asarray(written.dataobj), volume)
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)


def test_written_channels_are_in_a_file_each(tmp_path):
    folder = write_phantoms(tmp_path / "new", num_training=1, num_test=0, num_unlabeled=1, size=16, num_channels=2)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert content["modality"] == {"0": "CT", "1": "PET"}
    for index, (split, case) in enumerate((("Tr", content["training"][0]), ("Un", content["unlabeled"][0]))):
        assert case["image"] == [f"images{split}/phantom_{index:03d}_{channel:04d}.nii.gz" for channel in (0, 1)]
        for file, channel in zip(case["image"], make_phantom(index, 16, num_channels=2)[0], strict=True):
            np.testing.assert_array_equal(np.asarray(nib.load(folder / file).dataobj), channel)


def test_refuses_a_folder_that_holds_something_and_leaves_it_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="output folder must be new or empty"):
        write_phantoms(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_refuses_negative_counts(tmp_path):
    with pytest.raises(ValueError, match=r"counts and seed must be 0 or more, got \[12, -1, 16, 0\]"):
        write_phantoms(tmp_path / "new", num_test=-1)
