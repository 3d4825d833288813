"""Laws of 2D images as volumes with one slice."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd
from PIL import Image

from common.transforms import CheckVolumed, EnsureVolume, EnsureVolumed

LOAD = [LoadImaged("image", image_only=True, ensure_channel_first=True), EnsureVolumed("image")]


@pytest.mark.parametrize("affine", [np.diag([2.0, 3, 4, 1]), np.diag([-2.0, -3, 4, 1])])
def test_a_2d_nifti_image_becomes_a_slice_with_its_affine(tmp_path, affine):
    pixels = np.arange(30, dtype=np.int16).reshape(6, 5)
    nib.save(nib.Nifti1Image(pixels, affine), tmp_path / "a.nii.gz")
    image = Compose(LOAD)({"image": tmp_path / "a.nii.gz"})["image"]
    np.testing.assert_array_equal(image[0, :, :, 0].numpy(), pixels)
    np.testing.assert_allclose(image.affine.numpy(), affine)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("I;16", 1), ("RGB", 3)])
def test_a_picture_in_ras_shows_the_right_and_the_front_as_a_radiologist_sees_them(tmp_path, mode, channels):
    pixels = np.arange(6 * 5 * channels, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(6, 5, channels)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "a.png")
    image = Compose([*LOAD, Orientationd("image", axcodes="RAS", labels=None)])({"image": tmp_path / "a.png"})["image"]
    shown = np.flip(image[..., 0].numpy(), (1, 2)).transpose(2, 1, 0)  # right on the left, front up
    np.testing.assert_array_equal(shown, pixels)


def test_a_2d_affine_grows_and_volumes_and_plain_tensors_keep_their_values():
    image = MetaTensor(torch.rand(1, 4, 3), torch.diag(torch.tensor([-1.0, -2, 1])))
    assert EnsureVolume()(image).affine.diag().tolist() == [-1, -2, 1, 1] and image.shape == (1, 4, 3)
    volume = torch.rand(2, 4, 3, 2)
    assert EnsureVolume()(volume) is volume
    assert torch.equal(EnsureVolume()(volume[..., 0]), volume[..., :1])


def test_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"img must have shape \(C, H, W\) or \(C, H, W, D\), got \(4, 3\)"):
        EnsureVolume()(torch.zeros(4, 3))


def test_without_it_a_2d_image_is_refused_and_with_it_only_one_with_a_palette(tmp_path):
    picture = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5))
    picture.save(tmp_path / "gray.png")
    picture.convert("P").save(tmp_path / "palette.png")
    gray = LOAD[0]({"image": tmp_path / "gray.png"})
    with pytest.raises(ValueError, match=r"gray.png: must hold one volume of 3 dimensions, got shape \(5, 6\)"):
        CheckVolumed()(gray)
    assert CheckVolumed()(LOAD[1](gray))["image"].shape == (1, 5, 6, 1)
    with pytest.raises(ValueError, match=r"palette.png: pixels must be gray or RGB, got indices into a palette"):
        CheckVolumed()(Compose(LOAD)({"image": tmp_path / "palette.png"}))
