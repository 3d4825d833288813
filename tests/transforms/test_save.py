"""Laws of segmentations as files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, SaveImaged
from PIL import Image

from common.transforms import InvertLabelMapd, InvertProbabilitiesd, LoadVolumesd, SaveSegmentationd

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
    Compose([*restore, *save])(data)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (3, 5, 2)])
def test_a_nifti_segmentation_lies_on_the_grid_of_its_file(tmp_path, shape):
    path = write(tmp_path / "a.b.nii", PIXELS.reshape(shape))
    segment(path, [SaveSegmentationd("pred", tmp_path / "out"), SaveSegmentationd("prob", tmp_path / "out", "prob")])
    label = nib.load(tmp_path / "out" / "a.b_seg.nii.gz")
    assert label.shape == shape and label.get_data_dtype() == np.uint8 and label.header.get_xyzt_units()[0] == "mm"
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
