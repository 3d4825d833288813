"""Laws of volumes that stay where they are computed with."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged

from common.data import DeviceCacheDataset

READ = Compose([LoadImaged("image", image_only=True, ensure_channel_first=True)])


@pytest.fixture
def volumes(unequal_cases):
    return DeviceCacheDataset(unequal_cases, READ)


def test_volumes_of_several_sizes_stay_as_they_were_read(volumes, unequal_cases):
    assert [item["image"].shape for item in volumes] == [(1, *nib.load(case["image"]).shape) for case in unequal_cases]
    assert [item["case"] for item in volumes] == [case["image"] for case in unequal_cases]
    assert all(type(item["image"]) is torch.Tensor for item in volumes)
    assert volumes[1]["image"] is volumes[1]["image"]


def test_a_mask_that_is_not_read_changes_nothing(unequal_cases, volumes):
    """A data set that lists organs made `torch.as_tensor` of their paths."""
    listed = DeviceCacheDataset([{**unequal_cases[0], "organ": "/nowhere/organ.nii.gz"}, *unequal_cases[1:]], READ)
    assert [list(item) for item in listed] == [list(item) for item in volumes]
    assert all(torch.equal(item["image"], same["image"]) for item, same in zip(listed, volumes, strict=True))


@pytest.mark.parametrize(
    ("scan", "half", "message"),
    [
        (np.zeros((4, 4, 1), "float32"), False, r"image must be \(C, H, W, D\) with 2 voxels .* got \(1, 4, 4, 1\)"),
        (np.full((4, 4, 4), np.nan, "float32"), False, "image must be finite in torch.float32, got 64 voxels"),
        (np.full((4, 4, 4), 1e5, "float32"), True, "image must be finite in torch.float16, got 64 voxels"),
    ],
)
def test_a_scan_that_cannot_be_sampled_is_refused_by_name(write_scan, scan, half, message):
    path = write_scan("bad.nii.gz", scan)
    with pytest.raises(Exception) as caught:
        DeviceCacheDataset([{"image": path}], READ, half=half)
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ValueError)
    with pytest.raises(ValueError, match=f"bad.nii.gz: {message}"):
        raise cause


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="data must hold at least one case, got none"):
        DeviceCacheDataset([], READ)


def test_all_channels_stay_beside_one_mask(write_scan):
    scan = np.random.default_rng(0).normal(size=(5, 4, 3, 2)).astype("float32")  # the channels come last in the file
    case = {
        "image": write_scan("scan.nii.gz", scan),
        "label": write_scan("label.nii.gz", (scan[..., 0] > 0).astype("uint8")),
    }
    read = LoadImaged(["image", "label"], image_only=True, ensure_channel_first=True)
    (item,) = DeviceCacheDataset([case], read)
    assert torch.equal(item["image"], torch.from_numpy(scan).movedim(-1, 0))
    assert item["label"].shape == (1, 5, 4, 3)


def test_a_class_that_no_label_has_is_warned_of_and_labels_without_any_are_refused(unequal_cases, write_scan, caplog):
    size = nib.load(unequal_cases[0]["image"]).shape
    label, empty = np.zeros(size, "uint8"), np.zeros(size, "uint8")
    label[2:4, 2:4, 2:4] = 1
    read = Compose([LoadImaged(["image", "label"], image_only=True, ensure_channel_first=True)])
    case = {**unequal_cases[0], "label": write_scan("label.nii.gz", label)}
    names = {0: "background", 1: "liver", 2: "spleen"}
    DeviceCacheDataset([case], read, labels=names)
    assert "no label of 1 case(s) has spleen (2)" in caplog.text
    with pytest.raises(ValueError, match="labels must hold foreground in at least one of 1 cases, got none"):
        DeviceCacheDataset([{**case, "label": write_scan("empty.nii.gz", empty)}], read, labels=names)
