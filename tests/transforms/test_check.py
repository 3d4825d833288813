"""Laws of `CheckVolumed`."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from common.transforms import CheckVolumed

SHAPE = (6, 5, 4)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(-1000, 500, SHAPE).astype(np.float32)


@pytest.fixture
def label():
    return np.random.RandomState(0).randint(0, 3, SHAPE).astype(np.float32)


@pytest.fixture
def load(tmp_path):
    """Write arrays as files, load them as a bundle does, and check them."""

    def run(image, label=None, label_affine=AFFINE, damage=lambda path: None, **options):
        data = {"image": tmp_path / "a.nii.gz", "label": tmp_path / "b.nii.gz"}
        nib.save(nib.Nifti1Image(image, AFFINE), data["image"])
        if label is None:
            del data["label"]
        else:
            nib.save(nib.Nifti1Image(label, label_affine), data["label"])
            options.setdefault("label_key", "label")
        damage(data["image"])
        reader = LoadImaged(keys=list(data), image_only=True, ensure_channel_first=True)
        return reader(data), Compose([reader, CheckVolumed(**options)])(data)

    return run


def test_a_sound_case_passes_unchanged_with_its_metadata(load, image, label):
    before, after = load(image, label, labels=3, modality=["CT"])
    for key in ("image", "label"):
        assert isinstance(after[key], MetaTensor)
        torch.testing.assert_close(after[key].as_tensor().float(), before[key].as_tensor())
        torch.testing.assert_close(after[key].affine, before[key].affine)
        assert after[key].meta["filename_or_obj"] == before[key].meta["filename_or_obj"]
    assert after["label"].dtype == torch.uint8


def test_input_is_untouched(image):
    image[0, 0, 0] = np.nan
    data = {"image": MetaTensor(torch.from_numpy(image)[None])}
    CheckVolumed(nan="replace")(data)
    assert torch.isnan(data["image"]).sum() == 1


def test_refuses_nan_by_file_and_count(load, image):
    image[0, 0, :2] = np.nan
    with pytest.raises(RuntimeError) as error:
        load(image)
    assert "a.nii.gz: every voxel must be finite, got 2 NaN and 0 infinite" in str(error.value.__cause__)


def test_replaces_nan_by_the_minimum_with_a_warning_when_asked_to(load, image, caplog):
    minimum = image.min()
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    _, after = load(image, nan="replace")
    assert torch.isfinite(after["image"]).all()
    assert after["image"][0, 0, 0, :3].tolist() == [minimum] * 3
    assert "3 voxels that are NaN or infinite are replaced" in caplog.text
    assert after["image"].meta["filename_or_obj"].endswith("a.nii.gz")


def test_refuses_an_image_without_any_finite_voxel():
    data = {"image": MetaTensor(torch.full((1, *SHAPE), torch.nan))}
    with pytest.raises(ValueError, match="image: every voxel must be finite, got 120 NaN"):
        CheckVolumed(nan="replace")(data)


def check(image, label=None, **options):
    """Check volumes that have a name and no file."""
    data = {"image": MetaTensor(torch.from_numpy(image), meta={"filename_or_obj": "a.nii"})}
    if label is not None:
        data["label"] = MetaTensor(torch.from_numpy(label), meta={"filename_or_obj": "b.nii"})
        options["label_key"] = "label"
    return CheckVolumed(**options)(data)


@pytest.mark.parametrize(("found", "expected"), [(3, 1), (1, 4)])
def test_refuses_a_wrong_number_of_channels(image, found, expected):
    with pytest.raises(ValueError, match=rf"a\.nii: number of channels must be {expected}, got {found}"):
        check(np.stack([image] * found), in_channels=expected)


@pytest.mark.parametrize(
    ("value", "labels", "match"),
    [(5, 3, "got 5"), (-1, 3, "got -1"), (255, [0, 1, 2], "got 255"), (0.5, 3, "got 0.5"), (np.nan, 3, "got nan")],
)
def test_refuses_a_label_outside_the_set_by_name(image, label, value, labels, match):
    label[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"b\.nii: labels must be .*{match}"):
        check(image[None], label[None], labels=labels)


def test_rounds_a_label_that_is_nearly_whole(image, label, caplog):
    out = check(image[None], label[None] * 0.998, labels=3)
    np.testing.assert_array_equal(out["label"].numpy()[0], label)
    assert "b.nii: labels up to 0.004 off a whole number are rounded" in caplog.text


def test_refuses_a_label_off_the_grid_of_its_image(load, image, label):
    with pytest.raises(
        ValueError, match=r"b\.nii: label must have the shape of its image \(6, 5, 4\), got \(5, 6, 4\)"
    ):
        check(image[None], label.transpose(1, 0, 2)[None])
    with pytest.raises(RuntimeError) as error:
        load(image, label, label_affine=np.diag([2, 2, 3.5, 1]))
    assert "b.nii.gz: label must have the affine of its image" in str(error.value.__cause__)


@pytest.mark.parametrize(
    ("scale", "modality", "warns"), [(0, "MRI", True), (1e-4, "CT", True), (1e-4, "MRI", False), (1, "CT", False)]
)
def test_odd_images_run_with_a_warning(image, scale, modality, warns, caplog):
    check(image[None] * scale, modality=[modality])
    assert bool(caplog.text) is warns


def test_an_empty_label_runs_with_a_warning(image, label, caplog):
    check(image[None], label[None] * 0, labels=3)
    assert "b.nii: label is empty" in caplog.text


def test_refuses_a_flipped_bit_that_the_reader_overlooks(load):
    image = np.random.RandomState(0).randint(-1000, 500, (60, 60, 60)).astype(np.int16)

    def flip(path):
        content = bytearray(path.read_bytes())
        content[-6] ^= 1  # in the checksum
        path.write_bytes(content)

    with pytest.raises(RuntimeError) as error:
        load(image, damage=flip)
    assert "a.nii.gz: compressed data must be intact" in str(error.value.__cause__)


def scan(array, affine=AFFINE):
    return MetaTensor(torch.as_tensor(array)[None], affine=affine, meta={"filename_or_obj": "organs/a.nii"})


def test_an_organ_is_checked_as_a_label_of_any_values_and_may_be_missing(image):
    check = CheckVolumed(organ_key="organ", label_key=None, labels=2)
    organ = np.full(SHAPE, 7.0)
    assert (check({"image": scan(image), "organ": scan(organ)})["organ"] == 7).all()
    assert set(check({"image": scan(image)})) == {"image"}
    moved = np.diag([2.0, 2.0, 4.0, 1.0])
    for bad, message in (
        (scan(organ * 0.043), r"organs/a\.nii: labels must be whole numbers"),
        (scan(organ[:, :, 1:]), r"organs/a\.nii: organ must have the shape of its image"),
        (scan(organ, moved), r"organs/a\.nii: organ must have the affine of its image"),
        (scan(organ).repeat(2, 1, 1, 1), r"organs/a\.nii: number of channels must be 1, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            check({"image": scan(image), "organ": bad})


def test_refuses_a_flipped_bit_in_an_organ(tmp_path):
    organ = np.random.RandomState(0).randint(0, 2, (60, 60, 60)).astype(np.uint8)
    nib.save(nib.Nifti1Image(organ, AFFINE), tmp_path / "organ.nii.gz")
    content = bytearray((tmp_path / "organ.nii.gz").read_bytes())
    content[-6] ^= 1
    (tmp_path / "organ.nii.gz").write_bytes(content)
    loaded = LoadImaged("organ", image_only=True, ensure_channel_first=True)({"organ": tmp_path / "organ.nii.gz"})
    with pytest.raises(ValueError, match=r"organ\.nii\.gz: compressed data must be intact"):
        CheckVolumed(organ_key="organ")({"image": scan(organ.astype(np.float32)), **loaded})


def test_missing_keys_are_skipped_only_when_allowed(image):
    data = {"image": MetaTensor(torch.from_numpy(image)[None])}
    assert set(CheckVolumed(label_key="label", allow_missing_keys=True)(data)) == {"image"}
    with pytest.raises(KeyError, match="label"):
        CheckVolumed(label_key="label")(data)


def test_plain_tensors_are_checked_too(image):
    torch.testing.assert_close(CheckVolumed()({"image": torch.from_numpy(image)[None]})["image"].numpy()[0], image)


def test_refuses_an_unknown_way_with_nan():
    with pytest.raises(ValueError, match="nan must be one of refuse, replace, got 'ignore'"):
        CheckVolumed(nan="ignore")
