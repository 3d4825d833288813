"""Laws of the crop to the common field of view."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from common.planar import CropFieldOfViewd, FieldOfView, fit_field_of_view
from common.transforms import InvertLabelMapd

STEP = 4.0


def make_anatomy(seed: int = 0) -> torch.Tensor:
    """Return a scan of 2 mm with a landmark in its middle, of shape `(1, 40, 36, 44)`."""
    scan = 0.02 * torch.rand(1, 40, 36, 44, generator=torch.Generator().manual_seed(seed))
    scan[:, 12:28, 10:22, 14:34] = 1
    scan[:, 16:20, 10:22, 20:24] = 0
    return scan


@pytest.fixture
def field(write_scan, tmp_path) -> FieldOfView:
    path = write_scan("scan.nii.gz", make_anatomy()[0].numpy(), (2.0, 2.0, 2.0))
    return fit_field_of_view([{"image": path}], tmp_path, [56.0, 48.0, 64.0], (0.0, 1.0), step=STEP)


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
