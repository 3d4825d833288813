"""Laws of cropping to the patient."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.transforms import CropBodyd


@pytest.fixture
def scan():
    """A patient of water (0 HU) in air, with a bone; the smallest box around him is known."""
    image = torch.full((1, 12, 10, 9), -1000.0)
    image[0, 3:9, 2:7, 1:8] = 0.0
    image[0, 5, 4, 4] = 900.0
    label = (image > 500).to(torch.uint8)
    return {"image": MetaTensor(image, meta={"filename_or_obj": "case_007.nii.gz"}), "label": MetaTensor(label)}


def test_the_body_stays_whole_though_water_is_zero(scan):
    cropped = CropBodyd(["image", "label"])(scan)
    assert torch.equal(cropped["image"].as_tensor(), scan["image"].as_tensor()[:, 3:9, 2:7, 1:8])
    assert torch.equal(cropped["label"].as_tensor(), scan["label"].as_tensor()[:, 3:9, 2:7, 1:8])
    assert cropped["image"].affine[:3, 3].tolist() == [3, 2, 1]


def test_without_air_nothing_is_cropped(scan):
    assert CropBodyd("image", air=None)(scan)["image"].shape == (1, 12, 10, 9)


def test_the_crop_can_be_undone(scan):
    crop = CropBodyd("image")
    assert crop.inverse(crop(scan))["image"].shape == (1, 12, 10, 9)


@pytest.mark.parametrize("value", [-1000.0, -500.0])
def test_a_scan_of_nothing_but_air_is_refused_by_name(scan, value):
    scan["image"][:] = value
    message = rf"case_007.nii.gz: image must have voxels above air \(-500.0\), got at most {value:g}; .*set air to null"
    with pytest.raises(ValueError, match=message):
        CropBodyd("image")(scan)


@pytest.mark.parametrize(("modality", "channel"), [(["CT", "PET"], 0), (["PET", "CT"], 1), (["T1w", "T2w"], 0)])
def test_of_several_channels_one_tells_the_body_and_all_are_cropped(scan, modality, channel):
    others = torch.full_like(scan["image"], 5.0)  # bright everywhere: no channel that tells where a body ends
    channels = [others, others]
    channels[channel] = scan["image"]
    cropped = CropBodyd(["image", "label"], modality=modality)({**scan, "image": torch.cat(channels)})
    assert cropped["image"].shape == (2, 6, 5, 7) and cropped["label"].shape == (1, 6, 5, 7)
    alone = CropBodyd(["image", "label"])(scan)
    assert torch.equal(cropped["image"][channel].as_tensor(), alone["image"][0].as_tensor())
