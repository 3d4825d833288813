"""Laws of segmentations as files."""

from __future__ import annotations

import errno
import resource
import signal
from importlib.util import find_spec
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import write_series
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, SaveImaged, SpatialCropd
from PIL import Image

from common.data import LoadVolume, check_header, label_color, list_images, read_volume
from common.transforms import (
    InvertLabelMapd,
    InvertProbabilitiesd,
    LoadVolumesd,
    SaveConfidenced,
    SaveProbabilitiesd,
    SaveSegmentationd,
)
from common.transforms import save as module

PIXELS = np.arange(30, dtype=np.uint8).reshape(6, 5)


def write(path, pixels=PIXELS):
    if path.suffix == ".png":
        Image.fromarray(pixels.T).save(path)
    else:
        nib.save(nib.Nifti1Image(pixels, np.diag([-2.0, 3, 4, 1])), path)
    return path


def segment(path, save):
    """Segment what is brighter than 10 and than 20, all the way from a file to a file."""
    preprocessing = Compose(
        [
            LoadVolumesd("image", allow_2d=True),
            Orientationd("image", axcodes="RAS", labels=None),
        ]
    )
    image = preprocessing({"image": path})["image"]
    data = {"image": image, "pred": torch.cat([(image > edge).float() * edge / 30 for edge in (10, 20)]).as_tensor()}
    data["prob"] = data["pred"]
    restore = [InvertLabelMapd("pred", preprocessing, threshold=0.3), InvertProbabilitiesd("prob", preprocessing)]
    for transform in (*restore, *save):  # not in a Compose, which wraps their errors
        data = transform(data)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (3, 5, 2)])
def test_a_nifti_segmentation_lies_on_the_grid_of_its_file(tmp_path, shape):
    path = write(tmp_path / "a.b.nii", PIXELS.reshape(shape))
    segment(path, [SaveSegmentationd("pred", tmp_path / "out"), SaveSegmentationd("prob", tmp_path / "out", "prob")])
    label = nib.load(tmp_path / "out" / "a.b_seg.nii.gz")
    assert label.shape == shape and label.get_data_dtype() == np.uint8
    np.testing.assert_allclose(label.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.digitize(PIXELS, (11, 21)).reshape(shape))
    probabilities = nib.load(tmp_path / "out" / "a.b_prob.nii.gz").get_fdata()
    assert probabilities.shape == ((*shape, 2) if len(shape) == 3 else (*shape, 1, 2))
    np.testing.assert_allclose(probabilities[..., 1].reshape(6, 5), (PIXELS > 20) * 2 / 3, atol=1e-6)


def test_what_a_scan_leaves_open_stays_open_in_its_mask(tmp_path):
    """nibabel wrote a code of its own for an affine that is not what it guesses of a header without codes."""
    scan = nib.load(write(tmp_path / "a.nii", PIXELS.reshape(3, 5, 2)))
    scan.header.set_qform(scan.affine, 0)
    scan.header.set_sform(scan.affine, 0)
    nib.save(nib.Nifti1Image(scan.dataobj, None, scan.header), tmp_path / "b.nii")
    segment(tmp_path / "b.nii", [SaveSegmentationd("pred", tmp_path / "out")])
    before, after = nib.load(tmp_path / "b.nii"), nib.load(tmp_path / "out" / "b_seg.nii.gz")
    assert (after.header["sform_code"], after.header["qform_code"]) == (0, 0)
    np.testing.assert_allclose(after.affine, before.affine)
    np.testing.assert_allclose(after.header.get_qform(), before.header.get_qform())


def test_the_label_map_of_a_picture_is_a_picture_with_the_same_pixels(tmp_path):
    segment(write(tmp_path / "a.png"), [SaveSegmentationd("pred", tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_seg.png"]
    with Image.open(tmp_path / "out" / "a_seg.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture).T, np.digitize(PIXELS, (11, 21)))


def test_a_label_that_a_picture_cannot_hold_is_refused(tmp_path):
    label = MetaTensor(torch.full((1, 4, 3, 1), 256, dtype=torch.int16))
    label.meta.update(filename_or_obj="a.png", spatial_shape=np.array([4, 3]))
    with pytest.raises(ValueError, match=r"a_seg.png: labels of a PNG must be at most 255, got 256"):
        SaveSegmentationd("pred", tmp_path)({"pred": label})
    assert not list(tmp_path.iterdir())


def test_monai_label_leaves_it_out_as_it_does_with_the_class_that_it_knows():
    assert isinstance(SaveSegmentationd("pred", "out"), SaveImaged)


@pytest.mark.parametrize("has_shear", [True, False])
def test_a_qform_that_cannot_hold_the_grid_of_the_scan_is_not_claimed(tmp_path, has_shear):
    affine = np.diag([-2.0, 3, 4, 1])
    affine[1, 2] = 1.4 if has_shear else 0
    image = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1, strip_shears=True)
    nib.save(image, tmp_path / "a.nii")
    segment(tmp_path / "a.nii", [SaveSegmentationd("pred", tmp_path / "out")])
    mask = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    np.testing.assert_allclose(mask.affine, affine)
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (1, 0 if has_shear else 1)


# ---- formats -------------------------------------------------------------------------------------

LABELS = {0: "background", 1: "liver", 2: "Größe"}
FILES = {"nifti": "a_seg.nii.gz", "seg.nrrd": "a.seg.nrrd", "dicom_seg": "a_seg.dcm", "rtstruct": "a_rtstruct.dcm"}
TABLES = ["labels.ctbl", "labels.txt"]


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_names_and_colors_of_the_labels_are_in_the_nifti_file_and_beside_it(tmp_path):
    segment(
        write(tmp_path / "a.nii", PIXELS.reshape(3, 5, 2)), [SaveSegmentationd("pred", tmp_path / "out", labels=LABELS)]
    )
    assert names(tmp_path / "out") == ["a_seg.nii.gz", *TABLES]
    image = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert image.header.get_intent()[0] == "label"
    nib.save(image, tmp_path / "again.nii")  # as a user's program does
    for path in (tmp_path / "out" / "a_seg.nii.gz", tmp_path / "again.nii"):
        (extension,) = nib.load(path).header.extensions
        assert extension.get_code() == 30
        labels = ElementTree.fromstring(extension.content).iter("Label")
        assert {int(label.attrib["Key"]): label.text for label in labels} == LABELS
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), read_volume(path)[0][0])
        np.testing.assert_array_equal(read_volume(path)[0][0], np.digitize(PIXELS, (11, 21)).reshape(3, 5, 2))
    red, green, blue = label_color(2)
    assert f'2 {red} {green} {blue} 1 1 1 "Größe"' in (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (3, 5, 2)])
def test_a_scan_that_is_no_dicom_is_written_in_two_formats_on_one_grid(tmp_path, shape):
    path = write(tmp_path / "a.nii", PIXELS.reshape(shape))
    segment(path, [SaveSegmentationd("pred", tmp_path / "out", labels=LABELS, formats=["nifti", "seg.nrrd"])])
    assert names(tmp_path / "out") == ["a.seg.nrrd", "a_seg.nii.gz", *TABLES]
    (voxels, header, _), (others, other, _) = (
        read_volume(tmp_path / "out" / FILES[name], allow_2d=True) for name in ("nifti", "seg.nrrd")
    )
    np.testing.assert_array_equal(voxels, others)
    np.testing.assert_allclose(header.affine, other.affine, atol=1e-6)


@pytest.mark.skipif(find_spec("highdicom") is None, reason="needs the extra dicom")
def test_a_dicom_series_is_written_in_four_formats(tmp_path):
    write_series(tmp_path / "scans" / "a", voxels=(np.arange(210).reshape(7, 6, 5) % 30).astype(np.int16))
    segment(tmp_path / "scans" / "a", [SaveSegmentationd("pred", tmp_path / "out", labels=LABELS, formats=[*FILES])])
    assert names(tmp_path / "out") == sorted([*FILES.values(), *TABLES])


@pytest.mark.parametrize("count", [256, 257, 1000])
def test_as_many_classes_as_there_are_have_values_of_their_own(tmp_path, count):
    label_map = MetaTensor(torch.arange(count, dtype=torch.int64).reshape(1, count, 1, 1).expand(-1, -1, 3, 2))
    label_map.meta.update(filename_or_obj="a.nii.gz", spatial_shape=np.array([count, 3, 2]))
    labels = {value: f"organ {value}" for value in range(count)}
    SaveSegmentationd("pred", tmp_path, labels=labels, formats=["nifti", "seg.nrrd"])({"pred": label_map})
    for file in ("a_seg.nii.gz", "a.seg.nrrd"):
        voxels = read_volume(tmp_path / file)[0]
        assert voxels.dtype == (np.uint8 if count == 256 else np.int16)
        np.testing.assert_array_equal(voxels, label_map.numpy())


def test_where_one_format_fails_none_is_written_and_the_older_ones_stay(tmp_path, monkeypatch):
    path, out = write(tmp_path / "a.nii", PIXELS.reshape(3, 5, 2)), tmp_path / "out"
    save = SaveSegmentationd("pred", out, labels=LABELS, formats=["nifti", "seg.nrrd"])
    out.mkdir()
    (out / "a.seg.nrrd").write_text("older")

    def fail(path, segmentation):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_seg_nrrd", fail)
    with pytest.raises(ValueError, match=r"out/a.seg.nrrd: must have room on its disk to be written, got none left"):
        segment(path, [save])
    assert names(out) == ["a.seg.nrrd", *TABLES] and (out / "a.seg.nrrd").read_text() == "older"


@pytest.mark.parametrize("format", ["nifti", "seg.nrrd", "rtstruct"])
@pytest.mark.parametrize("size", [0, 100, 1000])
def test_what_the_system_does_not_take_is_refused_by_its_path_and_leaves_nothing(tmp_path, format, size):
    """As where a disk is full; ITK alone would leave half a file."""
    blocks = np.random.RandomState(0).randint(0, 30, (15, 15, 3)).astype(np.int16)
    write_series(tmp_path / "a", shape=(150, 150, 3), voxels=np.kron(blocks, np.ones((10, 10, 1), np.int16)))
    save = SaveSegmentationd("pred", tmp_path / "out", formats=[format])  # without labels, whose tables are files, too
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(ValueError, match=rf"out/{FILES[format]}: must have room on its disk to be written, got"):
            segment(tmp_path / "a", [save])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path / "out") == []


def test_a_folder_of_segmentations_holds_no_scans_also_where_no_report_was_written(tmp_path, caplog):
    """An inference that was killed has no report, and its segmentations were segmented by the next one."""
    (tmp_path / "scans").mkdir()
    path = write(tmp_path / "scans" / "a.nii", PIXELS.reshape(3, 5, 2))
    formats = ["nifti", "seg.nrrd"]
    segment(path, [SaveSegmentationd("pred", tmp_path / "scans" / "out", labels=LABELS, formats=formats)])
    assert [case["image"] for case in list_images(tmp_path / "scans", output_dir=tmp_path / "other")] == [str(path)]
    assert "out: holds the results of an inference and is left out" in caplog.text
    with pytest.raises(ValueError, match=r"out: dataset_dir must hold scans, got the results of an inference; name"):
        list_images(tmp_path / "scans" / "out")


@pytest.mark.parametrize("codes", [(1, 1), (0, 0)])
@pytest.mark.parametrize("unit", ["mm", "unknown"])
def test_a_unit_that_a_scan_leaves_open_stays_open(tmp_path, unit, codes):
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4))
    image.header.set_xyzt_units(unit)
    image.header["sform_code"], image.header["qform_code"] = codes
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = LoadVolume()(tmp_path / "scan.nii.gz")
    SaveSegmentationd("pred", tmp_path)({"pred": MetaTensor(torch.zeros(1, 5, 6, 7), meta=volume.meta)})
    assert nib.load(tmp_path / "scan_seg.nii.gz").header.get_xyzt_units()[0] == unit


def test_the_grid_of_a_scan_without_orientation_is_not_claimed_by_any_format(tmp_path):
    scan = nib.load(write(tmp_path / "b.nii", PIXELS.reshape(3, 5, 2)))
    scan.header.set_qform(scan.affine, 0)
    scan.header.set_sform(scan.affine, 0)
    nib.save(nib.Nifti1Image(scan.dataobj, None, scan.header), tmp_path / "a.nii")
    segment(tmp_path / "a.nii", [SaveSegmentationd("pred", tmp_path / "out", formats=["nifti", "seg.nrrd"])])
    assert not any(check_header(tmp_path / "out" / FILES[name]).is_oriented for name in ("nifti", "seg.nrrd"))


# ---- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("has_background", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
def test_the_confidence_is_the_largest_of_the_probabilities_in_the_file_beside_it(tmp_path, has_background, softmax):
    preprocessing = Compose([LoadVolumesd("image"), Orientationd("image", axcodes="RAS", labels=None)])
    image = preprocessing({"image": write(tmp_path / "a.nii", PIXELS.reshape(3, 5, 2))})["image"]
    values = torch.rand(4, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    values = values / values.sum(dim=0) if has_background and not softmax else values
    for save in (SaveProbabilitiesd, SaveConfidenced):
        save("pred", preprocessing, tmp_path, softmax, has_background)({"image": image, "pred": values})
    probabilities = nib.load(tmp_path / "a_probabilities.nii.gz")
    confidence = nib.load(tmp_path / "a_confidence.nii.gz")
    assert probabilities.shape == (3, 5, 2, 4 if has_background else 5) and confidence.shape == (3, 5, 2)
    np.testing.assert_allclose(confidence.get_fdata(), probabilities.get_fdata().max(axis=-1), atol=1e-4)
    np.testing.assert_allclose(confidence.affine, nib.load(tmp_path / "a.nii").affine, atol=1e-6)


def test_what_the_preprocessing_cropped_away_is_background_beyond_doubt(tmp_path):
    preprocessing = Compose(
        [
            LoadVolumesd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            SpatialCropd("image", roi_start=(0, 0, 0), roi_end=(2, 5, 2)),
        ]
    )
    image = preprocessing({"image": write(tmp_path / "a.nii", PIXELS.reshape(3, 5, 2))})["image"]
    SaveConfidenced("pred", preprocessing, tmp_path)({"image": image, "pred": torch.full((2, 2, 5, 2), 0.5)})
    confidence = nib.as_closest_canonical(nib.load(tmp_path / "a_confidence.nii.gz")).get_fdata()
    np.testing.assert_allclose(confidence[:2], 0.5, atol=1e-4)
    np.testing.assert_allclose(confidence[2], 1)
