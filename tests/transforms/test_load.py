"""Laws of loading: what comes out is a checked volume, or an error that names the file."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import write_series
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd
from PIL import Image

from common.data import Record, make_record
from common.transforms import LoadVolumesd

SHAPE = (6, 5, 4)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
RECORD = Record(labels={0: "background", 1: "liver", 2: "spleen"}, modality=["MRI"])


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(0, 500, SHAPE).astype(np.float32)


@pytest.fixture
def label():
    return np.random.RandomState(0).randint(0, 3, SHAPE).astype(np.float32)


@pytest.fixture
def load(tmp_path):
    """Write arrays as files, and load them as a bundle does."""

    def run(image, label=None, organ=None, affine=AFFINE, damage=lambda path: None, record=RECORD, **options):
        data = {}
        for key, array in (("image", image), ("label", label), ("organ", organ)):
            if array is not None:
                data[key] = str(tmp_path / f"{key}.nii.gz")
                nib.save(nib.Nifti1Image(array, AFFINE if key == "image" else affine), data[key])
                damage(tmp_path / f"{key}.nii.gz")
        return LoadVolumesd([*data], record, **options)(data)

    return run


def test_a_sound_case_has_the_voxels_and_the_affine_of_monai(load, image, label, tmp_path):
    after = load(image, label)
    before = LoadImaged([*after], image_only=True, ensure_channel_first=True)(
        {key: tmp_path / f"{key}.nii.gz" for key in after}
    )
    for key in ("image", "label"):
        assert isinstance(after[key], MetaTensor)
        torch.testing.assert_close(after[key].as_tensor().float(), before[key].as_tensor())
        torch.testing.assert_close(after[key].affine, before[key].affine)
        assert after[key].meta["filename_or_obj"] == before[key].meta["filename_or_obj"]
    assert after["label"].dtype == torch.uint8


def test_monai_label_finds_the_loader_that_it_looks_for_and_asks_for_metadata(image, load, tmp_path):
    load(image)
    transform = LoadVolumesd("image", RECORD)
    assert isinstance(transform, LoadImaged)
    transform._loader.image_only = False  # as MONAI Label does
    out = transform({"image": str(tmp_path / "image.nii.gz")})
    assert out["image_meta_dict"]["filename_or_obj"].endswith("image.nii.gz") and out["image"].shape == (1, *SHAPE)


def test_refuses_nan_by_file_and_count_and_says_what_helps(load, image):
    image[0, 0, :2] = np.nan
    with pytest.raises(ValueError, match=r"image.nii.gz: every voxel must be finite, got 2 NaN and .*--nan replace"):
        load(image)


def test_replaces_nan_by_the_minimum_with_a_warning_when_asked_to(load, image, caplog):
    minimum = image.min()
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    after = load(image, nan="replace")["image"]
    assert torch.isfinite(after).all()
    assert after[0, 0, 0, :3].tolist() == [minimum] * 3
    assert "3 voxels that are NaN or infinite are replaced" in caplog.text
    assert after.meta["filename_or_obj"].endswith("image.nii.gz")


def test_refuses_an_image_without_any_finite_voxel(load):
    with pytest.raises(ValueError, match="every voxel must be finite, got 120 NaN"):
        load(np.full(SHAPE, np.nan, np.float32), nan="replace")


@pytest.mark.parametrize(("found", "names"), [(3, ["MRI"]), (1, ["FLAIR", "T1w"]), (3, ["FLAIR", "T1w"])])
def test_refuses_a_wrong_number_of_channels_by_their_names(load, image, found, names):
    volume = image if found == 1 else np.stack([image] * found, -1)
    match = rf"image\.nii\.gz: number of channels must be {len(names)} \({', '.join(names)}\), got {found}"
    with pytest.raises(ValueError, match=match):
        load(volume, record=Record(modality=names))


def test_channels_come_from_one_file_or_from_several_in_the_order_of_the_list(tmp_path, image):
    record, paths = Record(modality=["FLAIR", "T1w"]), [tmp_path / f"a_000{channel}.nii.gz" for channel in (0, 1)]
    for path, volume in zip(paths, (image, image + 1), strict=True):
        nib.save(nib.Nifti1Image(volume, AFFINE), path)
    nib.save(nib.Nifti1Image(np.stack([image, image + 1], -1), AFFINE), tmp_path / "both.nii.gz")
    several = LoadVolumesd("image", record)({"image": list(map(str, paths))})["image"]
    one = LoadVolumesd("image", record)({"image": str(tmp_path / "both.nii.gz")})["image"]
    assert torch.equal(several.as_tensor(), one.as_tensor()) and several.shape == (2, *SHAPE)
    assert several.meta["case_id"] == "a" and several.meta["fingerprint"] == one.meta["fingerprint"]
    nib.save(nib.Nifti1Image(image, np.diag([2, 2, 3.3, 1])), paths[1])
    with pytest.raises(ValueError, match=r"a_0001\.nii\.gz: channel must have the affine of its image"):
        LoadVolumesd("image", record)({"image": list(map(str, paths))})


@pytest.mark.parametrize(
    ("value", "match"), [(5, "got 5"), (-1, "got -1"), (255, "got 255"), (0.5, "got 0.5"), (np.nan, "got nan")]
)
def test_refuses_a_label_outside_the_set_by_name(load, image, label, value, match):
    label[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"label\.nii\.gz: labels must be .*{match}"):
        load(image, label)


def test_rounds_a_label_that_is_nearly_whole(load, image, label, caplog):
    np.testing.assert_array_equal(load(image, label * 0.998)["label"].numpy()[0], label)
    assert "label.nii.gz: labels up to 0.004 off a whole number are rounded" in caplog.text


def test_refuses_a_label_off_the_grid_of_its_image_or_with_channels(load, image, label):
    shape = r"label\.nii\.gz: label must have the shape of its image \(6, 5, 4\), got \(5, 6, 4\)"
    for options, match in (
        ({"label": label.transpose(1, 0, 2)}, shape),
        (
            {"label": label, "affine": np.diag([2, 2, 3.5, 1])},
            r"label\.nii\.gz: label must have the affine of its image",
        ),
        ({"label": np.stack([label] * 2, -1)}, r"label\.nii\.gz: label must have 1 channel, got 2"),
    ):
        with pytest.raises(ValueError, match=match):
            load(image, **options)


@pytest.mark.parametrize(
    ("scale", "modality", "warns"), [(0, "MRI", True), (1e-4, "CT", True), (1e-4, "MRI", False), (1, "US", False)]
)
def test_odd_images_run_with_a_warning_that_stays_with_them(load, image, scale, modality, warns, caplog):
    after = load(image * scale, record=Record(modality=[modality]))["image"]
    assert bool(caplog.text) is bool(after.meta["warnings"]) is warns


def test_each_warning_is_a_line_of_its_own(load, image):
    """Two in one line could not be told apart, since a warning may have a semicolon itself."""
    said = load(np.stack([0 * image] * 2, -1), record=Record(modality=["FLAIR", "T1w"]))["image"].meta["warnings"]
    assert len(said.splitlines()) == 2 and all("image is constant" in line for line in said.splitlines())


@pytest.mark.parametrize(
    ("edge", "spacing", "warns"), [(3, None, False), (5, None, True), (5, [2, 2, 0], True), (5, 2, False)]
)
def test_voxels_unlike_those_of_the_training_are_warned_of_where_nothing_resamples_them(
    load, image, edge, spacing, warns, tmp_path, caplog
):
    load(image)
    record = make_record(modality=["US"], spacing=spacing, data=[{"image": str(tmp_path / "image.nii.gz")}])
    nib.save(nib.Nifti1Image(image, np.diag([2, 2, edge, 1.0])), tmp_path / "new.nii.gz")
    LoadVolumesd("image", record)({"image": str(tmp_path / "new.nii.gz")})
    assert ("2 x 2 x 5 mm are unlike those of the training, 2 x 2 x 3 to 2 x 2 x 3 mm" in caplog.text) is warns


@pytest.mark.parametrize("key", ["image", "label", "organ"])
def test_refuses_a_flipped_bit_of_any_file(load, image, key):
    def flip(path):
        if path.name.startswith(key):
            content = bytearray(path.read_bytes())
            content[-6] ^= 1  # in the checksum
            path.write_bytes(content)

    with pytest.raises(ValueError, match=rf"{key}\.nii\.gz: .*CRC"):
        load(image, np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), damage=flip)


def test_an_organ_is_checked_as_a_label_of_any_values_and_may_be_missing(load, image, tmp_path):
    organ = np.full(SHAPE, 7.0)
    assert (load(image, organ=organ)["organ"] == 7).all()
    path = str(tmp_path / "image.nii.gz")
    assert set(LoadVolumesd(["image", "organ"], RECORD, allow_missing_keys=True)({"image": path})) == {"image"}
    with pytest.raises(KeyError, match="organ"):
        LoadVolumesd(["image", "organ"], RECORD)({"image": path})
    for bad, message in (
        ({"organ": organ * 0.043}, r"organ\.nii\.gz: labels must be whole numbers"),
        ({"organ": organ[:, :, 1:]}, r"organ\.nii\.gz: organ must have the shape of its image"),
        (
            {"organ": organ, "affine": np.diag([2.0, 2, 4, 1])},
            r"organ\.nii\.gz: organ must have the affine",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load(image, **bad)


def test_refuses_an_unknown_way_with_nan():
    with pytest.raises(ValueError, match="nan must be one of refuse, replace, got 'ignore'"):
        LoadVolumesd("image", nan="ignore")


# ---- 2D images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [np.diag([2.0, 3, 4, 1]), np.diag([-2.0, -3, 4, 1])])
def test_a_2d_nifti_image_becomes_a_slice_with_its_affine(tmp_path, affine):
    pixels = np.arange(30, dtype=np.int16).reshape(6, 5)
    nib.save(nib.Nifti1Image(pixels, affine), tmp_path / "a.nii.gz")
    image = LoadVolumesd("image", allow_2d=True)({"image": tmp_path / "a.nii.gz"})["image"]
    np.testing.assert_array_equal(image[0, :, :, 0].numpy(), pixels)
    np.testing.assert_allclose(image.affine.numpy(), affine)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("I;16", 1), ("RGB", 3)])
def test_a_picture_in_ras_shows_the_right_and_the_front_as_a_radiologist_sees_them(tmp_path, mode, channels):
    pixels = np.arange(6 * 5 * channels, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(6, 5, channels)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "a.png")
    load = Compose([LoadVolumesd("image", allow_2d=True), Orientationd("image", axcodes="RAS", labels=None)])
    image = load({"image": tmp_path / "a.png"})["image"]
    shown = np.flip(image[..., 0].numpy(), (1, 2)).transpose(2, 1, 0)  # right on the left, front up
    np.testing.assert_array_equal(shown, pixels)


def test_a_2d_image_is_refused_where_it_is_not_allowed_and_one_with_a_palette_everywhere(tmp_path):
    picture = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5))
    picture.save(tmp_path / "gray.png")
    picture.convert("P").save(tmp_path / "palette.png")
    with pytest.raises(ValueError, match=r"gray.png: name must end in .*got a PNG picture"):
        LoadVolumesd("image")({"image": tmp_path / "gray.png"})
    assert LoadVolumesd("image", allow_2d=True)({"image": tmp_path / "gray.png"})["image"].shape == (1, 5, 6, 1)
    with pytest.raises(ValueError, match=r"palette.png: pixels must be gray or RGB, got indices into a palette"):
        LoadVolumesd("image", allow_2d=True)({"image": tmp_path / "palette.png"})


def test_what_is_wrong_with_a_channel_is_said_of_its_own_file_and_mended_by_its_own_values(tmp_path, caplog):
    """The first file was named, and NaN of a PET became the air of the CT beside it."""
    files = [str(tmp_path / f"case_000{channel}.nii.gz") for channel in range(2)]
    voxels = np.random.RandomState(0).normal(-500, 100, (8, 8, 8)).astype("float32")
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), files[0])
    second = np.where(np.arange(512).reshape(8, 8, 8) == 7, np.nan, voxels + 2000).astype("float32")
    nib.save(nib.Nifti1Image(second, np.eye(4)), files[1])
    with pytest.raises(ValueError, match=r"case_0001.nii.gz: every voxel must be finite, got 1 NaN"):
        LoadVolumesd("image")({"image": files})
    loaded = LoadVolumesd("image", nan="replace")({"image": files})["image"]
    assert loaded[1].min() == np.nanmin(second) and "case_0001.nii.gz: 1 voxels" in caplog.text
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), "float32"), np.eye(4)), files[1])
    assert "case_0001.nii.gz: image is constant" in LoadVolumesd("image")({"image": files})["image"].meta["warnings"]


@pytest.mark.parametrize(
    ("stated", "modality"), [("MR", "CT"), ("CT", "FLAIR"), ("CT", "CT"), ("MR", "T1w"), ("US", "CT")]
)
def test_what_dicom_says_of_itself_is_compared_with_the_weights(tmp_path, stated, modality):
    def state(_: int, dataset: Any) -> None:
        dataset.Modality = stated

    write_series(tmp_path / "series", edit=state)
    image = LoadVolumesd("image", Record(modality=[modality]))({"image": str(tmp_path / "series")})["image"]
    contradicts = {stated, modality} in ({"MR", "CT"}, {"CT", "FLAIR"})
    assert (f"modality is {modality}, but DICOM says {stated}" in image.meta["warnings"]) == contradicts
