"""A picture of a label map over its scan."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tools.overlay import overlay


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def test_a_label_map_in_another_order_of_axes_lies_where_it_belongs(tmp_path):
    volume = np.random.default_rng(0).integers(0, 100, (9, 8, 7)).astype(np.int16)
    label = np.zeros_like(volume, dtype=np.uint8)
    label[2:5, 3:6, 1:4] = 1
    scan = save(tmp_path / "scan.nii.gz", volume, np.eye(4))
    same = save(tmp_path / "seg.nii.gz", label, np.eye(4))
    (tmp_path / "turned").mkdir()
    turned = nib.Nifti1Image(label, np.eye(4)).as_reoriented(np.array([[0, -1], [2, 1], [1, 1]]))
    nib.save(turned, tmp_path / "turned" / "seg.nii.gz")
    pictures = [
        overlay(scan, path, output=str(tmp_path / f"{number}.png"))
        for number, path in enumerate((same, str(tmp_path / "turned" / "seg.nii.gz")))
    ]
    first, second = (np.asarray(Image.open(picture)) for picture in pictures)
    assert first.std() > 0
    np.testing.assert_array_equal(first, second)


def test_label_maps_of_one_name_have_the_names_of_their_folders(tmp_path, monkeypatch):
    """The second one took the row of the first."""
    drawn = []
    monkeypatch.setattr("common.training.save_overlay", lambda image, rows, *args, **options: drawn.extend(rows))
    scan = save(tmp_path / "scan.nii.gz", np.zeros((5, 5, 5), np.int16), np.eye(4))
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(save(tmp_path / name / "seg.nii.gz", np.zeros((5, 5, 5), np.uint8), np.eye(4)))
    overlay(scan, *paths, output="x.png")
    assert drawn == ["a/seg", "b/seg"]
    with pytest.raises(ValueError, match=r"segmentations must differ .*\['a/seg', 'a/seg'\]"):
        overlay(scan, paths[0], paths[0], output="x.png")


@pytest.mark.parametrize("window", [5, "ab", (1,), (1, "b"), (True, 2)])
def test_a_window_is_two_intensities(window):
    with pytest.raises(
        (TypeError, ValueError), match=r"window must be (a list, each entry a number|two intensities), got"
    ):
        overlay("scan.nii", "seg.nii", output="x.png", window=window)


def test_refuses_what_does_not_belong_to_the_scan(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", np.zeros((5, 5, 5), np.int16), np.eye(4))
    moved = save(tmp_path / "moved.nii.gz", np.zeros((5, 5, 5), np.uint8), np.diag([2.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="moved: segmentation must lie on the grid of its scan"):
        overlay(scan, moved, output=str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match="segmentations must be given after the scan, got none"):
        overlay(scan, output=str(tmp_path / "a.png"))
    with pytest.raises(FileNotFoundError, match="nothing: must exist"):
        overlay(str(tmp_path / "nothing"), moved, output=str(tmp_path / "a.png"))


def test_voxels_that_are_not_labeled_are_not_drawn(tmp_path):
    volume = np.random.default_rng(0).integers(0, 100, (9, 8, 7)).astype(np.int16)
    label = np.zeros_like(volume, dtype=np.uint8)
    label[2:5, 3:6, 1:4] = 1
    sparse = np.where(np.arange(7) < 4, label, 255).astype(np.uint8)
    scan = save(tmp_path / "scan.nii.gz", volume, np.eye(4))
    pictures = []
    for name, array, options in (("whole", label, {}), ("sparse", sparse, {"ignore": 255}), ("raw", sparse, {})):
        (tmp_path / name).mkdir()
        path = save(tmp_path / name / "seg.nii.gz", array, np.eye(4))
        pictures.append(np.asarray(Image.open(overlay(scan, path, output=str(tmp_path / f"{name}.png"), **options))))
    whole, without, raw = pictures
    np.testing.assert_array_equal(whole, without)
    assert raw.shape != whole.shape or (raw != whole).any()
