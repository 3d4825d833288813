"""Laws of the CT windows."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from common.context import CTWindowsd
from common.transforms import CropBodyd, InvertLabelMapd

WINDOWS = [(400, 50), (1800, 40), (500, 50)]


@pytest.fixture
def scan():
    return 1500 * torch.randn(1, 12, 10, 8, generator=torch.Generator().manual_seed(0))


def test_each_channel_is_the_scan_clipped_to_a_window_and_normalized(scan):
    out = CTWindowsd("image", WINDOWS)({"image": scan})["image"]
    assert out.shape == (3, 12, 10, 8)
    for channel, (low, high) in zip(out, ((-150, 250), (-860, 940), (-200, 300)), strict=True):
        clipped = scan[0].clamp(low, high)
        torch.testing.assert_close(channel, (clipped - clipped.mean()) / clipped.std(correction=0))


@pytest.mark.parametrize("value", [-1000.0, 40.1, 3000.0])
def test_a_constant_scan_becomes_zero(value):
    windows = CTWindowsd("image", [*WINDOWS, (100, 0)])
    assert not windows({"image": torch.full((1, 9, 8, 7), value)})["image"].any()


def test_metadata_input_and_other_keys_stay(scan):
    affine = torch.diag(torch.tensor([1.0, 2, 3, 1]))
    data = {"image": MetaTensor(scan, affine, meta={"filename_or_obj": "a"}), "label": torch.ones(1)}
    out = CTWindowsd("image", WINDOWS)(data)
    assert torch.equal(out["image"].affine, affine.double()) and out["image"].meta["filename_or_obj"] == "a"
    assert out["label"] is data["label"] and torch.equal(data["image"].as_tensor(), scan)


def test_the_way_back_to_the_grid_of_the_scan_leads_through_the_windows():
    scan = torch.full((1, 9, 8, 7), -1000.0)
    scan[0, 2:6, 3:5, 1:4] = torch.arange(24.0).view(4, 2, 3)
    affine = torch.diag(torch.tensor([-1.0, 2, -3, 1]))
    transforms = [Orientationd("image", axcodes="RAS", labels=None), CropBodyd("image", air=-500)]
    preprocessing = Compose([*transforms, CTWindowsd("image", WINDOWS)])
    image = preprocessing({"image": MetaTensor(scan, affine)})["image"]
    assert image.shape == (3, 4, 2, 3)
    pred = (image[:1] > image[0].mean()).float().as_tensor()
    restored = InvertLabelMapd("pred", preprocessing, threshold=0.5)({"image": image, "pred": pred})["pred"]
    assert torch.equal(restored.as_tensor(), (scan > 11.5).byte())
    torch.testing.assert_close(restored.affine, affine.double())


def test_several_channels_are_refused(scan):
    with pytest.raises(ValueError, match=r"image must have 1 channel, as modality in dataset\.json names them, got 3"):
        CTWindowsd("image", WINDOWS)({"image": scan.repeat(3, 1, 1, 1)})


@pytest.mark.parametrize("windows", [[], [(0, 50)], [(400, 50), (-1, 0)], [(1, 2, 3)]])
def test_windows_that_are_none_are_refused(windows):
    with pytest.raises(ValueError, match="windows must be pairs of a positive width and a level in HU"):
        CTWindowsd("image", windows)


@pytest.mark.parametrize("modality", [["CT", "PET"], ["PET", "CT"], ["T1w", "CT low dose", "T2w"], ["", ""]])
def test_each_ct_is_shown_as_it_would_be_alone_and_others_are_normalized_as_they_are(scan, modality):
    image = torch.cat([scan * (index + 1) + index for index in range(len(modality))])
    copy = image.clone()
    windows = CTWindowsd("image", WINDOWS, modality)
    out = windows({"image": image})["image"]
    assert windows.num_channels == len(out) and torch.equal(image, copy)
    for name, channel in zip(modality, image.split(1), strict=True):
        if name in ("PET", "T1w", "T2w"):
            shown, out = out[:1], out[1:]
            torch.testing.assert_close(shown, (channel - channel.mean()) / channel.std(correction=0))
        else:
            shown, out = out[:3], out[3:]
            assert torch.equal(shown, CTWindowsd("image", WINDOWS)({"image": channel})["image"])
    assert not len(out)


@pytest.mark.parametrize("name", ["", "CT", "MRI"])
def test_a_single_channel_is_shown_through_the_windows_whatever_its_name(scan, name):
    """For MR there is a config of its own, `mr.yaml`."""
    out = CTWindowsd("image", WINDOWS, [name])({"image": scan})["image"]
    assert torch.equal(out, CTWindowsd("image", WINDOWS)({"image": scan})["image"])
