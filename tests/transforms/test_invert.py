"""Laws of the way back to the scan's own grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.utils import one_hot
from monai.transforms import Compose, LoadImaged, Orientationd, Rotated
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from common.transforms import ClipAndNormalized, CropBodyd, InvertLabelMapd, InvertProbabilitiesd, IsotropicSpacingd

SIZE = (40, 36, 30)


def make_preprocessing(keys, spacing=2.0):
    return Compose(
        [
            LoadImaged(keys, image_only=True, ensure_channel_first=True),
            Orientationd(keys, axcodes="RAS", labels=None),
            CropBodyd(keys, air=-500),
            IsotropicSpacingd(keys, spacing, ["bilinear", "nearest"][: len(keys)]),
            ClipAndNormalized("image", [-100, 200]),
        ]
    )


@pytest.fixture
def make_case(write_scan):
    """Return a function that writes a patient with two organs, in any orientation."""

    def _make(axcodes="RAS", spacing=(1.5, 1.5, 2.5), dtype=np.int16):
        x, y, z = np.meshgrid(*(np.arange(edge) for edge in SIZE), indexing="ij")

        def ellipsoid(center, axes):
            return sum(((v - c) / a) ** 2 for v, c, a in zip((x, y, z), center, axes, strict=True)) < 1

        image = np.where(ellipsoid((20, 18, 15), (17, 14, 14)), 40, -1000)
        label = np.zeros(SIZE, np.uint8)
        label[ellipsoid((14, 18, 15), (8, 9, 9))] = 1
        label[ellipsoid((28, 20, 14), (6, 7, 8))] = 2
        image[label > 0] += 60
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = (-30, 20, 100)
        orientation = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
        affine = affine @ inv_ornt_aff(orientation, SIZE)
        image, label = (nib.orientations.apply_orientation(volume, orientation) for volume in (image, label))
        return {
            "image": write_scan("image.nii.gz", image.astype(dtype), affine=affine),
            "label": write_scan("label.nii.gz", label, affine=affine),
        }

    return _make


def preprocess(case):
    """Return the preprocessed image and the preprocessing, which the way back must share."""
    preprocessing = make_preprocessing(["image"])
    return preprocessing({"image": case["image"]})["image"], preprocessing


def there_and_back(case):
    """Preprocess a case and bring its one-hot label map back as if it were the network's output."""
    label = make_preprocessing(["image", "label"])(case)["label"]
    image, preprocessing = preprocess(case)
    pred = one_hot(label.as_tensor()[None], 3)[0]
    return InvertLabelMapd("pred", preprocessing)({"image": image, "pred": pred})["pred"]


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAR", "ILP", "PRI"])
def test_a_label_map_comes_back_onto_the_grid_of_the_scan(make_case, axcodes):
    case = make_case(axcodes)
    original = nib.load(case["label"])
    restored = there_and_back(case)
    assert restored.shape == (1, *original.shape)
    assert restored.dtype == torch.uint8
    np.testing.assert_allclose(restored.affine.numpy(), original.affine, atol=1e-4)
    assert restored.meta["filename_or_obj"] == case["image"]
    label = original.get_fdata()
    for value in (1, 2):
        found, expected = restored[0].numpy() == value, label == value
        assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9


def test_voxels_outside_the_crop_are_background_whatever_the_network_says(make_case):
    case = make_case()
    image, preprocessing = preprocess(case)
    pred = torch.zeros(3, *image.shape[1:])
    pred[2] = 1
    restored = InvertLabelMapd("pred", preprocessing)({"image": image, "pred": pred})["pred"][0]
    body = nib.load(case["image"]).get_fdata() > -500
    low, high = np.argwhere(body).min(0), np.argwhere(body).max(0) + 1
    inside = np.zeros(SIZE, bool)
    inside[tuple(slice(*pair) for pair in zip(low, high, strict=True))] = True
    assert (restored.numpy()[~inside] == 0).all()
    assert (restored.numpy()[body] == 2).mean() > 0.99


def test_the_most_probable_class_wins_also_from_half_precision(make_case):
    case = make_case(spacing=(2.0, 2.0, 2.0))  # the network's own spacing: nothing is interpolated
    image, preprocessing = preprocess(case)
    pred = torch.rand(4, *image.shape[1:], generator=torch.Generator().manual_seed(0)).softmax(0)
    data = {"image": image, "pred": pred}
    restore = InvertLabelMapd("pred", preprocessing)
    restored = restore(data)["pred"][0].numpy()
    body = np.argwhere(nib.load(case["image"]).get_fdata() > -500)
    inside = tuple(slice(*pair) for pair in zip(body.min(0), body.max(0) + 1, strict=True))
    assert (restored[inside] == pred.argmax(0).numpy()).mean() > 0.999
    half = restore({**data, "pred": pred.half()})["pred"][0].numpy()
    assert (half != restored).mean() < 1e-3
    assert data["pred"] is pred


def test_more_than_256_classes_do_not_wrap(make_case):
    case = make_case(spacing=(2.0, 2.0, 2.0))
    image, preprocessing = preprocess(case)
    pred = torch.zeros(258, *image.shape[1:])
    pred[257] = 1
    restored = InvertLabelMapd("pred", preprocessing)({"image": image, "pred": pred})["pred"]
    assert restored.max() == 257


def test_probabilities_are_interpolated_so_that_borders_fall_between_coarse_voxels(make_case):
    """Nearest voxels would move a border by up to half a coarse voxel."""
    case = make_case(spacing=(1.0, 1.0, 1.0))
    preprocessing = make_preprocessing(["image"], spacing=4.0)
    image = preprocessing({"image": case["image"]})["image"]
    place = image.affine[0, 3] + 4.0 * torch.arange(image.shape[1])  # mm
    slope = ((place + 11.0) / 40).clamp(-0.5, 0.5).float().view(-1, 1, 1).expand(image.shape[1:])
    pred = torch.stack((0.5 - slope, 0.5 + slope))
    restored = InvertLabelMapd("pred", preprocessing)({"image": image, "pred": pred})["pred"][0, :, 18, 15]
    found = -30 + int(restored.argmax())  # mm; the border is at -11
    assert found in (-11, -10)


def test_of_overlapping_classes_the_most_probable_above_the_threshold_wins(make_case):
    case = make_case(spacing=(2.0, 2.0, 2.0))  # the network's own spacing: nothing is interpolated
    image, preprocessing = preprocess(case)
    pred = torch.zeros(3, *image.shape[1:])
    voxels = [(0.2, 0.4, 0.5), (0.6, 0.0, 0.0), (0.6, 0.7, 0.9), (0.9, 0.7, 0.6), (0.51, 0.99, 0.1)]
    for place, probabilities in enumerate(voxels):
        pred[:, 5, 5, 5 + place] = torch.tensor(probabilities)
    data = {"image": image, "pred": pred}
    restored = InvertLabelMapd("pred", preprocessing, threshold=0.5)(data)["pred"]
    probabilities = InvertProbabilitiesd("pred", preprocessing)(data)["pred"]
    offset = np.argwhere(nib.load(case["image"]).get_fdata() > -500).min(0) + 5
    line = (offset[0], offset[1], slice(offset[2], offset[2] + 5))
    assert restored[(0, *line)].tolist() == [0, 1, 3, 1, 2]
    assert (restored > 0).sum() == 4 and restored.dtype == torch.uint8
    assert probabilities.shape == (3, *SIZE)
    torch.testing.assert_close(
        probabilities[(slice(None), *line)].as_tensor(), torch.tensor(voxels).T, atol=1e-4, rtol=0
    )
    np.testing.assert_allclose(probabilities.affine.numpy(), nib.load(case["image"]).affine, atol=1e-4)


STEPS = {
    "orient": Orientationd("image", axcodes="RAS", labels=None),
    "crop": CropBodyd("image", air=-500),
    "resample": IsotropicSpacingd("image", 2.0),
    "normalize": ClipAndNormalized("image", [-100, 200]),
    "rotate": Rotated("image", (0.2, 0.0, 0.1), keep_size=False),
    "orient and crop": Compose([Orientationd("image", axcodes="RAS", labels=None), CropBodyd("image", air=-500)]),
}


@pytest.mark.parametrize(
    "names",
    [
        ("orient", "crop", "resample", "normalize"),
        ("orient", "resample", "crop", "normalize"),
        ("orient and crop", "resample"),
        ("orient", "rotate", "crop"),
        ("orient", "crop"),
        ("resample",),
        ("normalize",),
    ],
    ids=", ".join,
)
def test_the_label_map_is_the_most_probable_class_of_the_probabilities_that_come_back(make_case, names):
    preprocessing = Compose([LoadImaged("image", ensure_channel_first=True), *(STEPS[name] for name in names)])
    image = preprocessing({"image": make_case("PRI")["image"]})["image"]
    pred = torch.rand(3, *image.shape[1:], generator=torch.Generator().manual_seed(0)).softmax(0)
    data = {"image": image, "pred": pred}
    probabilities = InvertProbabilitiesd("pred", preprocessing)(data)["pred"]
    found = InvertLabelMapd("pred", preprocessing)(data)["pred"]
    assert torch.equal(found[0].as_tensor().long(), probabilities.as_tensor().argmax(0))
    assert torch.equal(found.affine, probabilities.affine)
    classes = InvertProbabilitiesd("pred", preprocessing)({**data, "pred": pred[1:]})["pred"].as_tensor()
    found = InvertLabelMapd("pred", preprocessing, threshold=0.4)({**data, "pred": pred[1:]})["pred"]
    expected = torch.where(classes.amax(0) > 0.4, classes.argmax(0) + 1, 0)
    assert torch.equal(found[0].as_tensor().long(), expected)
