"""Laws of the scans that a user points at."""

from __future__ import annotations

import json

import itk
import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from PIL import Image

from common.data import list_images


def touch(folder, *names):
    """Make files: small scans where the name is that of one."""
    volume = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith((".nii", ".nii.gz")):
            nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1, 1, 1])), path)
        elif name.lower().endswith((".nrrd", ".mha", ".mhd")):
            itk.imwrite(itk.image_from_array(volume), str(path))
        else:
            path.touch()


def names(folder, found):
    return [item["image"].removeprefix(f"{folder}/") for item in found]


def test_every_scan_below_a_folder_is_listed_once_and_sorted(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.nii", "sub/c.NRRD", "sub/deep/d.mha", "e.mhd", "notes.txt", "f.gz")
    assert names(tmp_path, list_images(tmp_path)) == ["a.nii", "b.nii.gz", "e.mhd", "sub/c.NRRD", "sub/deep/d.mha"]


def test_a_file_is_itself_and_a_dicom_series_its_folder(tmp_path):
    touch(tmp_path, "scan.nii.gz")
    write_series(tmp_path / "series")
    assert names(tmp_path, list_images(str(tmp_path / "scan.nii.gz"))) == ["scan.nii.gz"]
    assert names(tmp_path, list_images(tmp_path / "series")) == ["series"]


@pytest.mark.parametrize("name", ["$(touch x).nii", "@label.nii.gz", "a b.nii"])
def test_odd_names_are_plain_text(tmp_path, name):
    touch(tmp_path, name)
    assert names(tmp_path, list_images(tmp_path)) == [name]


def test_what_holds_no_scan_is_refused_by_name(tmp_path):
    touch(tmp_path, "empty/readme.md", "page.html", "set/dataset.json", "twins/a.nii", "twins/A.nii.gz")
    (tmp_path / "empty.nii").touch()
    for name, error, message in (
        ("nowhere", FileNotFoundError, "nowhere: dataset_dir must exist"),
        ("empty", FileNotFoundError, r"empty: dataset_dir must hold scans .* got readme.md; look"),
        ("page.html", ValueError, r"page.html: scan must be one of .nii.gz, .*, got .html"),
        ("set", ValueError, r"set: is a data set with labels; name the folder of its scans, such as .*imagesTs"),
        ("empty.nii", ValueError, r"empty.nii: .*empty"),
        ("twins", ValueError, r"scans must have different names, .* got \[.*twins/A.nii.gz.*twins/a.nii"),
    ):
        with pytest.raises(error, match=message):
            list_images(tmp_path / name)


def test_2d_images_are_listed_where_they_are_allowed_and_else_refused_or_passed_over(tmp_path):
    touch(tmp_path, "volume.nii")
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(tmp_path / "picture.png")
    assert names(tmp_path, list_images(tmp_path)) == ["volume.nii"]
    nib.save(nib.Nifti1Image(np.zeros((6, 5), np.int16), np.eye(4)), tmp_path / "flat.nii")
    listed = ["flat.nii", "picture.png", "volume.nii"]
    assert names(tmp_path, list_images(tmp_path, allow_2d=True)) == listed
    assert [names(tmp_path, list_images(tmp_path / name, allow_2d=True)) for name in listed] == [[n] for n in listed]
    with pytest.raises(ValueError, match=r"picture.png: scan must be one of .nii.gz, .*, got .png"):
        list_images(tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"flat.nii: must hold one volume of 3 dimensions, got shape \(6, 5\)"):
        list_images(tmp_path)


def test_an_organ_is_the_mask_of_the_same_name_whatever_its_suffix(tmp_path):
    touch(tmp_path, "scans/b.nii.gz", "scans/sub/A.nii", "organs/a.nii.gz", "organs/b.nii.gz", "organs/spare.nii")
    found = list_images(tmp_path / "scans", organ_dir=tmp_path / "organs")
    assert names(tmp_path, found) == ["scans/b.nii.gz", "scans/sub/A.nii"]
    assert [item["organ"] for item in found] == [str(tmp_path / "organs" / name) for name in ("b.nii.gz", "a.nii.gz")]
    assert all(list(item) == ["image", "case_id"] for item in list_images(tmp_path / "scans"))


def test_the_organ_of_a_dicom_series_has_the_name_of_its_folder_dots_included(tmp_path):
    touch(tmp_path, "organs/1.2.840.113.nii.gz")
    write_series(tmp_path / "1.2.840.113", shape=(10, 10, 10), spacing=(1, 1, 1), origin=(0, 0, 0))
    (item,) = list_images(tmp_path / "1.2.840.113", organ_dir=tmp_path / "organs")
    assert item["organ"] == str(tmp_path / "organs/1.2.840.113.nii.gz")


def test_refuses_a_scan_without_its_organ(tmp_path):
    touch(tmp_path, "scans/a.nii", "scans/b.nii", "organs/a.nii", "organs/._b.nii", "twins/a.nii", "twins/A.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"organs: must hold a mask for each scan, got none for .*scans/b\.nii"):
        list_images(tmp_path / "scans", organ_dir=tmp_path / "organs")
    with pytest.raises(FileNotFoundError, match=r"nowhere: must hold a mask for each scan, got none for .*a\.nii"):
        list_images(tmp_path / "scans", organ_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"twins: masks must have different names, got .*a\.nii"):
        list_images(tmp_path / "scans/a.nii", organ_dir=tmp_path / "twins")


def test_refuses_an_organ_off_the_grid_of_its_scan(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "organs").mkdir()
    nib.save(nib.Nifti1Image(np.ones((10, 10, 9), np.uint8), np.diag([-1.0, -1, 1, 1])), tmp_path / "organs/a.nii")
    with pytest.raises(ValueError, match=r"organs/a\.nii: organ must have the shape of its image \(10, 10, 10\), got"):
        list_images(tmp_path / "a.nii", organ_dir=tmp_path / "organs")


def test_results_are_never_taken_for_scans_and_a_link_that_leads_back_ends(tmp_path):
    touch(tmp_path, "a.nii", "results/a_seg.nii.gz", "sub/b.nii")
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    listed = names(tmp_path, list_images(tmp_path, output_dir=tmp_path / "results"))
    assert listed == ["a.nii", "sub/b.nii"]
    with pytest.raises(ValueError, match="output_dir must be another folder than that of the scans"):
        list_images(tmp_path, output_dir=tmp_path)


# ---- scans that are refused ----------------------------------------------------------------------


def _make_bad(folder, kind):
    """Add a scan that is refused to a folder, and return its path and what is said of it."""
    if kind == "header":
        (folder / "bad.nii.gz").touch()
        return "bad.nii.gz", "bad.nii.gz: a .nii.gz file must be gzip data, got an empty file"
    if kind == "link":
        (folder / "bad.nii").symlink_to("/nowhere")
        return "bad.nii", "bad.nii: must lead to a scan, got a link to /nowhere"
    if kind == "mixed folder":
        touch(folder, "bad/a.nii")
        write_series(folder / "bad")
        return "bad", "bad: must hold one DICOM series or other scans, got both"
    touch(folder, "x_0000.nii", "x_0002.nii")
    return "x_0000.nii", "x: channels must be numbered _0000, _0001 and so on"


@pytest.mark.parametrize("kind", ["header", "link", "mixed folder", "numbers of channels"])
def test_a_scan_that_is_refused_is_kept_with_its_reason_where_that_is_asked_for(tmp_path, kind):
    channels = 2 if kind == "numbers of channels" else 1
    touch(tmp_path, *(f"good_000{channel}.nii" for channel in range(channels)))
    name, sentence = _make_bad(tmp_path, kind)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        list_images(tmp_path, channels=channels)
    cases = list_images(tmp_path, channels=channels, keep_refused=True)
    bad = [case for case in cases if "outcome" in case]
    assert len(cases) == 2 and len(bad) == 1
    assert bad[0]["outcome"] == "refused" and sentence in bad[0]["reason"]
    assert name in str(bad[0]["image"])


def test_scans_of_one_name_are_refused_together_and_the_others_are_not(tmp_path):
    touch(tmp_path, "a.nii", "A.nii.gz", "b.nii")
    bad = {case["image"][-5:]: "outcome" in case for case in list_images(tmp_path, keep_refused=True)}
    assert bad == {"ii.gz": True, "a.nii": True, "b.nii": False}


def test_a_scan_without_its_organ_is_refused_and_the_others_have_theirs(tmp_path):
    touch(tmp_path, "scans/a.nii", "scans/b.nii", "organs/a.nii")
    first, second = list_images(tmp_path / "scans", organ_dir=tmp_path / "organs", keep_refused=True)
    assert "outcome" not in first and first["organ"].endswith("organs/a.nii")
    assert second["outcome"] == "refused" and "must hold a mask for each scan, got none for" in second["reason"]


def test_a_list_may_name_a_scan_that_is_missing_where_refused_ones_are_kept(tmp_path):
    touch(tmp_path, "a.nii")
    path = tmp_path / "scans.json"
    path.write_text(json.dumps(["a.nii", "b.nii"]), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"must list scans that exist, got .*b\.nii"):
        list_images(path)
    first, second = list_images(path, keep_refused=True)
    assert "outcome" not in first and second["outcome"] == "refused"
