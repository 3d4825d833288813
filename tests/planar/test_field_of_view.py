"""Laws of the field of view that scans have in common, and of the crop to it."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.ndimage import gaussian_filter

from common.planar import CropFieldOfViewd, FieldOfView, field_of_view, fit_field_of_view, load_field_of_view
from common.transforms import InvertLabelMapd

STEP = 4.0  # mm of the template
SPACING = (2.0, 2.0, 2.0)
CLIP = (0.0, 1.0)


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    """Return blobs of shape `(30, 26, 34)`, by which a place can be told from any other."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(30, 26, 34)), 2.5)
    return (noise > 0.03).astype(np.float32)


def scan_of(anatomy: np.ndarray, before: tuple, after: tuple, seed: int = 0) -> np.ndarray:
    """Return the anatomy with empty space around it, and a little noise."""
    scan = np.pad(anatomy, list(zip(before, after, strict=True)))
    return scan + np.random.default_rng(seed).normal(0, 0.01, scan.shape).astype(np.float32)


BORDERS = [((0, 4, 8), (12, 8, 4)), ((12, 0, 4), (0, 12, 8)), ((4, 8, 0), (8, 4, 12)), ((8, 4, 12), (4, 8, 0))]


@pytest.fixture
def cases(anatomy, write_scan):
    return [
        {"image": write_scan(f"scan_{index}.nii.gz", scan_of(anatomy, *border, seed=index), SPACING)}
        for index, border in enumerate(BORDERS)
    ]


def test_the_box_stays_at_the_same_anatomy_wherever_the_scan_begins(anatomy, cases):
    field = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    centers = []
    for before, after in BORDERS:
        place = field.locate(torch.from_numpy(scan_of(anatomy, before, after, 9))[None], SPACING)
        centers.append(np.array(place.center) - 2.0 * np.array(before))
        assert place.similarity > 0.9
    assert np.ptp(centers, axis=0).max() <= STEP


def test_scans_that_show_more_on_one_side_have_the_box_at_the_same_anatomy(write_scan):
    """Their average before any alignment showed two bodies, and the scans gathered around either."""
    rng = np.random.default_rng(1)
    body = (gaussian_filter(rng.normal(size=(16, 16, 60)), 2.5) > 0.02).astype(np.float32)
    short, long = body[..., 24:], np.pad(body, ((0, 0), (0, 0), (0, 2)))
    cases, starts = [], []
    for index in range(8):
        image = short if index % 2 else long
        starts.append(24 if index % 2 else 0)
        scan = np.pad(image, 4) + rng.normal(0, 0.01, np.add(image.shape, 8)).astype(np.float32)
        cases.append({"image": write_scan(f"body_{index}.nii.gz", scan, (4.0, 4.0, 4.0))})
    field = fit_field_of_view(cases, [64.0, 64.0, 120.0], CLIP, step=STEP)
    centers = []
    for case, start in zip(cases, starts, strict=True):
        scan = torch.from_numpy(np.asarray(nib.load(case["image"]).dataobj, dtype=np.float32))[None]
        centers.append(field.locate(scan, (4.0, 4.0, 4.0)).center[2] + 4 * start)
    assert np.ptp(centers) <= STEP


def test_a_scan_of_other_voxels_has_its_box_at_the_same_place_in_mm(anatomy, cases):
    field = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    scan = scan_of(anatomy, *BORDERS[0], 9)
    fine = torch.from_numpy(scan.repeat(2, 0).repeat(2, 2))[None]
    coarse = field.locate(torch.from_numpy(scan)[None], SPACING)
    np.testing.assert_allclose(field.locate(fine, (1.0, 2.0, 1.0)).center, coarse.center, atol=STEP / 2)


def test_a_box_may_reach_beyond_the_scan_and_its_center_may_not(anatomy, cases):
    field = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    whole = scan_of(anatomy, *BORDERS[0], 9)
    expected = np.array(field.locate(torch.from_numpy(whole)[None], SPACING).center)
    cut = torch.from_numpy(whole[:, :, 12:].copy())[None]  # its lower end is missing
    np.testing.assert_allclose(field.locate(cut, SPACING).center, expected - (0, 0, 24.0), atol=STEP)
    other = torch.rand(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    place = field.locate(other, SPACING)
    assert all(0 <= center <= 40 for center in place.center) and place.similarity < 0.5


def test_what_is_stored_is_read_again_and_any_viewer_shows_it(cases, tmp_path):
    fitted = fit_field_of_view(cases, [48, 40, 56], (-200.5, 800.25), step=STEP)
    assert not [*tmp_path.glob("**/field_of_view.nii.gz")]  # which a fit does not write
    fitted.save_beside(tmp_path / "weights.pt")
    read = load_field_of_view(tmp_path / "others.pt")
    assert read.size == fitted.size == (48.0, 40.0, 56.0)
    assert (read.clip, read.step) == ((-200.5, 800.25), STEP)
    assert read.similarity == pytest.approx(fitted.similarity, abs=1e-6)
    np.testing.assert_array_equal(read.template, fitted.template)
    image = nib.load(tmp_path / "field_of_view.nii.gz")
    assert image.shape == (12, 10, 14) and image.header.get_zooms() == (4, 4, 4)


def test_without_a_box_scans_are_whole(cases, tmp_path):
    field = fit_field_of_view(cases, None, CLIP)
    assert field == FieldOfView(None)
    field.save_beside(tmp_path / "weights.pt")
    assert load_field_of_view(tmp_path / "weights.pt") == field
    with pytest.raises(ValueError, match="must have a template to be located"):
        field.locate(torch.zeros(1, 4, 4, 4), SPACING)


def test_a_training_takes_over_the_box_of_the_pretraining(cases, tmp_path):
    weights = tmp_path / "pretrained" / "weights.pt"
    first = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    first.save_beside(weights)
    second = fit_field_of_view(cases[:1], 48.0, CLIP, step=STEP, from_weights=weights)
    np.testing.assert_array_equal(second.template, first.template)
    for size in (40.0, None):
        with pytest.raises(ValueError, match="field_of_view must be that of the pretraining"):
            fit_field_of_view(cases, size, CLIP, step=STEP, from_weights=weights)
    with pytest.raises(FileNotFoundError, match="must lie beside the weights"):
        fit_field_of_view(cases, 48.0, CLIP, from_weights=tmp_path / "nothing" / "weights.pt")
    assert fit_field_of_view(cases, 48.0, CLIP, step=STEP, from_weights="random").size == (48.0, 48.0, 48.0)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.37, -1000.0])
def test_a_constant_scan_is_refused_by_name(cases, write_scan, value):
    """What rounding leaves of the averages of one value counted as edges."""
    scan = write_scan("constant.nii.gz", np.full((23, 21, 29), value, np.float32), SPACING)
    with pytest.raises(ValueError, match=r"constant\.nii\.gz: image must have edges between 0 and 1, got none"):
        fit_field_of_view([*cases, {"image": scan}], 48.0, CLIP, step=5.0)


def test_boxes_that_do_not_settle_are_warned_of(cases, write_scan, caplog, monkeypatch):
    """The last ones were taken in silence."""
    with caplog.at_level(logging.WARNING):
        fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    assert caplog.text == ""
    monkeypatch.setattr(field_of_view, "_MAX_ROUNDS", 1)
    noise = np.random.default_rng(0).random((5, 40, 40, 40)).astype(np.float32)
    unlike = [{"image": write_scan(f"noise_{index}.nii.gz", scan, SPACING)} for index, scan in enumerate(noise)]
    with caplog.at_level(logging.WARNING):
        fit_field_of_view(unlike, 32.0, CLIP, step=STEP)
    assert "field of view: boxes still move after 1 round(s); look at field_of_view.nii.gz" in caplog.text


def test_what_cannot_be_fitted_or_read_is_refused(cases, write_scan, tmp_path):
    with pytest.raises(ValueError, match="at least one case"):
        fit_field_of_view([], 48.0, CLIP)
    with pytest.raises(ValueError, match="field_of_view must be at least 32 mm along each axis, got 20"):
        fit_field_of_view(cases, 20.0, CLIP)
    empty = write_scan("empty.nii.gz", np.zeros((20, 20, 20), np.float32), SPACING)
    with pytest.raises(ValueError, match=r"empty\.nii\.gz: image must have edges between 0 and 1, got none"):
        fit_field_of_view([{"image": empty}], 32.0, CLIP)
    with pytest.raises(FileNotFoundError, match="train first"):
        load_field_of_view(tmp_path / "weights.pt")
    (tmp_path / "field_of_view.nii.gz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must hold the field of view"):
        load_field_of_view(tmp_path / "weights.pt")
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.float32), np.eye(4)), tmp_path / "field_of_view.nii.gz")
    with pytest.raises(ValueError, match="must hold the field of view"):
        load_field_of_view(tmp_path / "weights.pt")


def make_anatomy(seed: int = 0) -> torch.Tensor:
    """Return a scan of 2 mm with a landmark in its middle, of shape `(1, 40, 36, 44)`."""
    scan = 0.02 * torch.rand(1, 40, 36, 44, generator=torch.Generator().manual_seed(seed))
    scan[:, 12:28, 10:22, 14:34] = 1
    scan[:, 16:20, 10:22, 20:24] = 0
    return scan


@pytest.fixture
def field(write_scan) -> FieldOfView:
    path = write_scan("scan.nii.gz", make_anatomy()[0].numpy(), (2.0, 2.0, 2.0))
    return fit_field_of_view([{"image": path}], [56.0, 48.0, 64.0], (0.0, 1.0), step=STEP)


def as_item(scan: torch.Tensor, spacing: float = 2.0) -> dict:
    affine = torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64))
    return {name: MetaTensor(scan.clone(), affine=affine) for name in ("image", "label")}


def test_the_same_anatomy_is_cropped_from_wherever_it_lies(field):
    crop = CropFieldOfViewd(["image", "label"], field)
    expected = crop(as_item(make_anatomy()))["image"]
    assert expected.shape == (1, 28, 24, 32)
    shifted = torch.nn.functional.pad(make_anatomy(1), (6, 0, 0, 8, 10, 2))
    found = crop(as_item(shifted))
    assert torch.equal(found["image"] > 0.5, expected > 0.5)
    assert torch.equal(found["image"].as_tensor(), found["label"].as_tensor())


def test_where_the_scan_ends_the_image_goes_on_and_the_label_does_not(field):
    scan = make_anatomy()[..., 16:]  # cut through the landmark
    cropped = CropFieldOfViewd(["image", "label"], field)(as_item(scan))
    image, label = cropped["image"], cropped["label"]
    assert image.shape == (1, 28, 24, 32)
    beyond = [index for index in range(32) if not label[..., index].any()]
    assert beyond == list(range(len(beyond))) and beyond
    for index in beyond:
        assert torch.equal(image[..., index], image[..., len(beyond)])
    assert torch.equal(image[..., len(beyond) :], label[..., len(beyond) :])


@pytest.mark.parametrize("cut", [0, 16])
def test_a_segmentation_of_the_crop_comes_back_to_its_place(field, cut):
    scan = make_anatomy()[..., cut:]
    preprocessing = Compose([CropFieldOfViewd("image", field)])
    item = preprocessing({"image": as_item(scan)["image"]})
    votes = torch.stack([item["image"][0] <= 0.5, item["image"][0] > 0.5]).float()
    restored = InvertLabelMapd("pred", preprocessing)({**item, "pred": MetaTensor(votes)})["pred"]
    assert torch.equal(restored.as_tensor().bool(), scan > 0.5)


def test_without_a_box_nothing_happens(field):
    preprocessing = Compose([CropFieldOfViewd("image", FieldOfView(None))])
    item = preprocessing({"image": as_item(make_anatomy())["image"]})
    assert torch.equal(item["image"].as_tensor(), make_anatomy())
    assert torch.equal(preprocessing.inverse(item)["image"].as_tensor(), make_anatomy())


def test_a_scan_of_something_else_is_warned_of(field, caplog):
    crop = CropFieldOfViewd("image", field)
    with caplog.at_level(logging.WARNING):
        crop({"image": as_item(make_anatomy(3))["image"]})
        assert not caplog.records
        noise = torch.from_numpy(np.random.default_rng(0).random((1, 30, 30, 30), np.float32))
        crop({"image": as_item(noise)["image"]})
    assert "looks unlike the scans of the training" in caplog.text


def test_the_first_channel_tells_where_the_field_of_view_lies(cases, anatomy, write_scan):
    field = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    other = write_scan("other.nii.gz", np.zeros((2, 2, 2), np.float32))  # is not read
    listed = [{"image": [case["image"], other]} for case in cases]
    same = fit_field_of_view(listed, 48.0, [[*CLIP], [-5.0, 5.0]], step=STEP)
    np.testing.assert_array_equal(same.template, field.template)
    assert same.clip == field.clip
    scan = torch.from_numpy(scan_of(anatomy, *BORDERS[0]))[None]
    both = torch.cat((scan, torch.rand_like(scan)))
    assert field.locate(both, SPACING) == field.locate(scan, SPACING)
    item = {"image": MetaTensor(both, affine=np.diag([*SPACING, 1]))}
    cropped = CropFieldOfViewd("image", field)(item)["image"]
    alone = CropFieldOfViewd("image", field)({"image": MetaTensor(scan, affine=np.diag([*SPACING, 1]))})["image"]
    assert cropped.shape[0] == 2 and torch.equal(cropped[:1], alone)


def test_all_channels_of_a_file_share_the_field_of_view(cases, write_scan):
    field = fit_field_of_view(cases, 48.0, CLIP, step=STEP)
    stacked = []
    for index, case in enumerate(cases):
        scan = np.asarray(nib.load(case["image"]).dataobj)
        stacked.append({"image": write_scan(f"both_{index}.nii.gz", np.stack((scan, 1 - scan), -1), SPACING)})
    np.testing.assert_array_equal(fit_field_of_view(stacked, 48.0, CLIP, step=STEP).template, field.template)


def test_scans_in_units_of_their_own_have_one_field_of_view(cases, anatomy, write_scan, tmp_path):
    """What an MR scanner calls 100 is 10,000 to another, and no one range shows the edges of both."""
    scans = [nib.load(case["image"]) for case in cases]
    scaled = [
        {"image": write_scan(f"scaled_{index}.nii.gz", scan.get_fdata() * 10.0**index, affine=scan.affine)}
        for index, scan in enumerate(scans)
    ]
    fields = [fit_field_of_view(listed, 48.0, None, step=STEP) for listed in (cases, scaled)]
    np.testing.assert_allclose(fields[0].template, fields[1].template, atol=1e-4)
    fields[1].save_beside(tmp_path / "weights.pt")
    read = load_field_of_view(tmp_path / "weights.pt")
    assert read.clip is None
    scan = torch.from_numpy(scan_of(anatomy, *BORDERS[0]))[None]
    np.testing.assert_allclose(
        read.locate(300 * scan, SPACING).center, fields[0].locate(scan, SPACING).center, atol=1e-3
    )
