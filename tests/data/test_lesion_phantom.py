"""Laws of the phantoms with lesions."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as find_components

from common.data import make_lesion_phantom, make_phantom, read_cases, write_lesion_phantoms

LIVER = 1


def dice_of_best_window(image, mask):
    """Return how well the best window of intensities finds a mask."""
    edges = np.arange(image[mask].min(), image[mask].max() + 10, 10)
    windows = [(image >= low) & (image < high) for low in edges for high in edges if low < high]
    return max(2 * np.count_nonzero(window & mask) / (window.sum() + mask.sum()) for window in windows)


@pytest.fixture(scope="module", params=range(6))
def drawn(request):
    return request.param, make_lesion_phantom(request.param), make_phantom(request.param)


def test_same_seed_same_lesions():
    for first, second in zip(make_lesion_phantom(3, 32), make_lesion_phantom(3, 32), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_organ_is_the_liver_and_the_patient_is_the_one_without_lesions(drawn):
    _, (image, _, organ, affine), (healthy, anatomy, same) = drawn
    np.testing.assert_array_equal(organ, anatomy == LIVER)
    np.testing.assert_array_equal(affine, same)
    assert image.dtype == healthy.dtype
    np.testing.assert_array_equal(image[organ == 0], healthy[organ == 0])


def test_lesions_lie_inside_the_liver_and_have_more_than_a_few_voxels(drawn):
    _, (_, label, organ, _), _ = drawn
    assert label.dtype == np.uint8 and set(np.unique(label)) == {0, 1}
    assert not (label > organ).any()
    sizes = np.bincount(find_components(label)[0].ravel())[1:]
    assert sizes.max() > 20 and label.sum() < 0.4 * organ.sum()


def test_a_lesion_is_seen_and_the_liver_around_it_stays_as_it_was(drawn):
    _, (image, label, organ, _), (healthy, _, _) = drawn
    change = np.abs(image.astype(float) - healthy)
    assert change[label > 0].mean() > 15
    assert change[(organ > 0) & (label == 0)].mean() < 2


def test_no_threshold_finds_the_lesions(drawn):
    """Nor one inside the liver."""
    _, (image, label, organ, _), _ = drawn
    assert dice_of_best_window(image, label > 0) < 0.3
    assert dice_of_best_window(image[organ > 0], label[organ > 0] > 0) < 0.75


@pytest.mark.parametrize("seed", range(3))
def test_lesions_show_in_the_second_channel_only(seed):
    (image, uptake), label, organ, _ = make_lesion_phantom(seed, 32, num_channels=2)
    np.testing.assert_array_equal(image, make_phantom(seed, 32)[0])
    np.testing.assert_array_equal(label, make_lesion_phantom(seed, 32)[1])
    assert np.median(uptake[label > 0]) > 2 * np.median(uptake[(organ > 0) & (label == 0)])


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("seed", range(4))
def test_every_case_has_a_lesion_at_every_size(seed, size):
    assert make_lesion_phantom(seed, size)[1].any()


def test_written_phantoms_are_a_data_set_with_organs_and_normal_scans(tmp_path):
    folder = write_lesion_phantoms(tmp_path / "new", 5, 1, 2, 3, size=16, seed=2)
    cases = read_cases(folder)
    assert cases.labels == {0: "background", 1: "tumor"}
    assert [len(part) for part in (cases.training, cases.validation, cases.test, cases.unlabeled)] == [4, 1, 1, 2]
    assert len(cases.normal) == 3
    for case in [*cases.training, *cases.validation, *cases.test]:
        assert list(case) == ["image", "label", "organ"]
        assert nib.load(case["label"]).get_fdata().any()
    for case in [*cases.unlabeled, *cases.normal]:
        assert list(case) == ["image", "organ"]
    listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for name, index, draw in (("training", 0, make_lesion_phantom), ("normal", 8, make_phantom)):
        written = nib.load(folder / listed[name][0]["image"])
        np.testing.assert_array_equal(np.asarray(written.dataobj), draw(200_000 + index, 16)[0])


def test_refuses_negative_counts_and_a_folder_that_holds_something(tmp_path):
    with pytest.raises(ValueError, match=r"counts and seed must be 0 or more, got \[12, 4, 16, -1, 0\]"):
        write_lesion_phantoms(tmp_path / "new", num_normal=-1)
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="output folder must be new or empty"):
        write_lesion_phantoms(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
