"""Laws of the reader: the values of every format, the names of cases, and images that are known again."""

from __future__ import annotations

import gzip
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import LoadVolume, case_id, fingerprint, read_volume

SHAPE = (12, 10, 8)
VOXELS = np.random.RandomState(0).randint(-1000, 1000, SHAPE).astype(np.int16)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 4, 6], [0, 3, 0, 7], [0, 0, 0, 1]])


def save(path, array, affine=AFFINE, dtype=None, endianness="<"):
    header = nib.Nifti1Header(endianness=endianness)
    nib.save(nib.Nifti1Image(array, affine, header, dtype=dtype), path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "i8"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_nifti_has_the_values_of_nibabel_whatever_their_type(tmp_path, dtype, endianness):
    path = save(tmp_path / "a.nii.gz", np.abs(VOXELS % 200).astype(dtype), dtype=dtype, endianness=endianness)
    voxels, header, _ = read_volume(path)
    np.testing.assert_array_equal(voxels[0], np.asarray(nib.load(path).dataobj))
    assert header.shape == SHAPE and voxels.dtype.isnative


def test_values_are_scaled_as_the_header_says(tmp_path):
    image = nib.Nifti1Image(VOXELS * 0.37 + 5, AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii")[0][0], nib.load(tmp_path / "a.nii").get_fdata())


@pytest.mark.parametrize("shape", [(*SHAPE, 3), (*SHAPE, 1, 3)])
def test_channels_come_first(tmp_path, shape):
    volume = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], -1)
    voxels, header, _ = read_volume(save(tmp_path / "a.nii", volume.reshape(shape)))
    np.testing.assert_array_equal(voxels, np.moveaxis(volume, -1, 0))
    assert header.channels == 3


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_formats_have_the_same_values_and_are_known_as_the_same(tmp_path, suffix, channels):
    volume = np.stack([VOXELS + channel for channel in range(channels)], -1)
    nifti = save(tmp_path / "a.nii.gz", volume[..., 0] if channels == 1 else volume)
    array = np.ascontiguousarray(np.moveaxis(volume, (0, 1, 2), (2, 1, 0)))
    array = array[..., 0] if channels == 1 else array.astype(np.float32)  # ITK knows no vectors of 16 bits
    image = itk.image_from_array(array, is_vector=channels > 1)
    itk.imwrite(image, str(tmp_path / f"a{suffix}"), compression=True)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}")[0], read_volume(nifti)[0])
    assert fingerprint(tmp_path / f"a{suffix}") == fingerprint(nifti)


def test_a_copy_is_known_however_compressed_and_a_scan_of_its_own_is_not(tmp_path):
    path = save(tmp_path / "a.nii", VOXELS)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    assert fingerprint(path) == fingerprint(tmp_path / "b.nii.gz")
    assert fingerprint(path) != fingerprint(save(tmp_path / "c.nii", VOXELS + 1))
    assert fingerprint(path) != fingerprint(save(tmp_path / "d.nii", VOXELS[:, :, :7]))


def test_a_flipped_bit_is_found_while_reading(tmp_path):
    path = save(tmp_path / "a.nii.gz", VOXELS)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: compressed data must be intact, got .*; copy the file again"):
        read_volume(path)


def test_numbers_that_32_bits_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.nii: intensities must fit a 32-bit float, got up to 1e\+39; scale them"):
        read_volume(save(tmp_path / "a.nii", np.where(VOXELS > 990, 1e39, VOXELS), dtype="f8"))


def test_monai_gets_a_volume_with_the_grid_of_the_file(tmp_path):
    volume = LoadVolume()(save(tmp_path / "a.nii.gz", VOXELS))
    assert volume.shape == (1, *SHAPE) and volume.dtype.is_floating_point
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE)
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5)).save(tmp_path / "a.png")
    assert LoadVolume(allow_2d=True)(tmp_path / "a.png").shape == (1, 5, 6, 1)


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        ("imagesTr/case_1.nii.gz", "case_1"),
        ("a.b.NII.GZ", "a.b"),
        ("case_0000.nii.gz", "case_0000"),
        (["case_0000.nii.gz", "case_0001.nii.gz"], "case"),
        (Path("scans/1.2.840.113"), "1.2.840.113"),
        ("pair.img", "pair"),
    ],
)
def test_a_case_has_the_name_of_its_file_without_suffix_and_channel(paths, name):
    assert case_id(paths) == name
