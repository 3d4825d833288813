"""Laws of the checks on files and headers."""

from __future__ import annotations

import gzip
import time

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import check_grids, check_gzip, check_header

SHAPE, SPACING = (12, 10, 8), (2.0, 3.0, 4.0)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 4, 6], [0, 3, 0, 7], [0, 0, 0, 1]])


def save(path, array=None, affine=AFFINE, edit=lambda header: None):
    """Write noise, which does not compress, with a header of one's own."""
    if array is None:
        array = np.random.RandomState(0).randint(-1000, 1000, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    edit(image.header)
    nib.save(image, path)
    return path


def patch(path, offset, values, dtype):
    """Overwrite bytes of a file without compression."""
    content = bytearray(path.read_bytes())
    new = np.array(values, dtype).tobytes()
    content[offset : offset + len(new)] = new
    path.write_bytes(content)
    return path


def save_itk(path, array=None, affine=AFFINE, compress=False):
    array = np.random.RandomState(0).randint(-1000, 1000, SHAPE) if array is None else array
    image = itk.image_from_array(array.T.astype(np.int16).copy())
    if array.ndim == 3:
        lps = np.diag([-1, -1, 1, 1]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing)
        image.SetOrigin(lps[:3, 3])
        image.SetDirection(itk.matrix_from_array(lps[:3, :3] / spacing))
    itk.imwrite(image, str(path), compression=compress)
    return path


@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz", "$case.NII.GZ"])
def test_header_gives_shape_affine_and_spacing(tmp_path, name):
    header = check_header(save(tmp_path / name))
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, AFFINE)
    np.testing.assert_allclose(header.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_header_of_every_format_is_that_of_nifti(tmp_path, suffix, compress):
    header = check_header(save_itk(tmp_path / f"case{suffix}", compress=compress))
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-6)


def test_nifti_2_and_big_endian_headers_are_read(tmp_path):
    image = nib.Nifti2Image(np.zeros(SHAPE, np.int16), AFFINE)
    nib.save(image, tmp_path / "two.nii")
    big = nib.Nifti1Image(np.zeros(SHAPE, ">i2"), AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii.gz")
    assert check_header(tmp_path / "two.nii").shape == check_header(tmp_path / "big.nii.gz").shape == SHAPE


def test_header_costs_less_than_5_ms_whatever_the_size(tmp_path):
    path = save(tmp_path / "case.nii.gz", np.zeros((200, 200, 200), np.int16))
    check_header(path)
    start = time.perf_counter()
    for _ in range(10):
        check_header(path)
    assert (time.perf_counter() - start) / 10 < 5e-3


@pytest.mark.parametrize("shape", [(12, 10, 8, 1), (12, 10, 8, 1, 1), (12, 10, 1)])
def test_trailing_axes_of_length_one_are_dropped_beyond_three(tmp_path, shape):
    assert check_header(save(tmp_path / "case.nii", np.zeros(shape, np.int16))).shape == shape[:3]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.nii.gz", b"", "gzip data, got an empty file"),
        ("a.nii.gz", b"\n<!DOCTYPE html><html>", "gzip data, got an HTML"),
        ("a.nii", b"\x1f\x8b\x08", "NIfTI image, got gzip data"),
        ("a.nii", b"hello", "NIfTI image, got unknown data"),
        ("a.png", b"\x89PNG\r\n", "name must end in .*got a PNG picture"),
        ("a.dcm", b"\0" * 128 + b"DICM", "name must end in .*got a DICOM file"),
        ("a.nii.gz", gzip.compress(b"<html>" * 100, mtime=0), "whole NIfTI header, got 540 bytes of an HTML"),
        ("a.nii.gz", gzip.compress(b"", mtime=0), "whole NIfTI header, got 0 bytes of an empty file"),
        ("a.nrrd", b"NRRD0004\nnonsense\n\n", "header must be readable"),
        ("a.mha", b"NDims = 3\nnonsense", "header must be readable"),
    ],
)
def test_refuses_a_file_that_is_something_else_and_says_what(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{match}"):
        check_header(tmp_path / name)


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.nii: must be a file, got nothing"):
        check_header(tmp_path / "a.nii")
    with pytest.raises(FileNotFoundError, match="must be a file, got a folder"):
        check_header(tmp_path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "z.nrrd", "z.mha"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_refuses_a_truncated_file(tmp_path, name, share):
    path = tmp_path / name
    path = save(path) if ".nii" in name else save_itk(path, compress=name.startswith("z"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=name):
        check_header(path)


def test_refuses_mhd_without_its_voxels(tmp_path):
    path = save_itk(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.mhd: voxels must lie in a\.raw"):
        check_header(path)


def test_gzip_in_several_streams_with_zeros_behind_is_complete(tmp_path):
    content = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + b"\0" * 100)
    assert check_gzip(tmp_path / "a.nii.gz") == len(content)
    assert check_header(tmp_path / "a.nii.gz").shape == SHAPE


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_gzip_refuses_a_flipped_bit(tmp_path, name):
    path = save(tmp_path / name) if ".nii" in name else save_itk(tmp_path / name, compress=True)
    check_gzip(path)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: compressed data must be"):
        check_gzip(path)


@pytest.mark.parametrize("cut", [1, 8, 300])
def test_gzip_refuses_a_missing_end(tmp_path, cut):
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.nii\.gz: compressed data must be complete"):
        check_gzip(path)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros(SHAPE, np.complex64), "real numbers, one per channel, got complex"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "real numbers, one per channel, got color"),
        (np.zeros((12, 10), np.int16), r"3 dimensions, got shape \(12, 10\)"),
        (np.zeros((12, 10, 8, 2, 3), np.int16), r"3 dimensions, got shape \(12, 10, 8, 2, 3\)"),
        (np.zeros((1, 1, 1), np.int16), r"more than one voxel, got shape \(1, 1, 1\)"),
    ],
)
def test_refuses_voxels_that_are_no_volume(tmp_path, array, match):
    with pytest.raises(ValueError, match=rf"a\.nii: .*{match}"):
        check_header(save(tmp_path / "a.nii", array))


DIM, DATATYPE, PIXDIM, SFORM_CODE, SFORM, XYZT = 40, 70, 76, 254, 280, 123  # bytes into a NIfTI-1 header


@pytest.mark.parametrize(
    ("offset", "values", "dtype", "match"),
    [
        (DIM, [3, 12, 0, 8], "i2", r"every dimension must hold a voxel, got shape \(12, 0, 8\)"),
        (DIM, [3, 12, -5, 8], "i2", "every dimension must hold a voxel"),
        (DATATYPE, [999], "i2", "data type must be one that NIfTI knows, got code 999"),
        (PIXDIM + 4, [0], "f4", r"voxel size must be finite and not 0, got 0 x"),
        (PIXDIM + 8, [np.nan], "f4", "voxel size must be finite and not 0, got 2 x nan x 4 mm"),
        (SFORM, [0] * 12, "f4", "got an sform of zeros"),
        (SFORM, [np.nan], "f4", "affine must be finite"),
        (SFORM, [0] * 4, "f4", "voxel size must not be 0, got 0 x 3 x 4 mm"),
        (SFORM, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0], "f4", "affine must be invertible"),
        (XYZT, [1], "u1", "mm, got meters and a field of view of 2.4e\\+04 x 3"),
        (XYZT, [3], "u1", "mm, got microns and a field of view of 0.024 x 0.03"),
        (SFORM, [0.001, 0, 0, 0, 0, 0.001, 0, 0, 0, 0, 0.001, 0], "f4", "between 5 and 3000 mm, got 0.012 x 0.01"),
        (SFORM, [600, 0, 0, 0, 0, 600, 0, 0, 0, 0, 600, 0], "f4", "between 5 and 3000 mm, got 7200 x 6000"),
    ],
)
def test_refuses_a_bad_header(tmp_path, offset, values, dtype, match):
    with pytest.raises(ValueError, match=rf"a\.nii: .*{match}"):
        check_header(patch(save(tmp_path / "a.nii"), offset, values, dtype))


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_header_is_read_or_refused_by_name(tmp_path, seed):
    random, path = np.random.RandomState(seed), save(tmp_path / "a.nii")
    patch(path, random.randint(4, 340), random.randint(0, 256, 8), "u1")
    try:
        check_header(path)
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("a.mha", b"ElementSpacing = 2 3 4", b"ElementSpacing = 0 3 4", "voxel size must not be 0, got 0 x 3 x 4 mm"),
        ("a.mha", b"ElementSpacing = 2 3 4", b"ElementSpacing = -2 3 4", "voxel size must be positive, got -2 mm"),
        ("a.mha", b"DimSize = 12 10 8", b"DimSize = 12 0 8", r"hold a voxel, got shape \(12, 0, 8\)"),
        ("a.nrrd", b"sizes: 12 10 8", b"sizes: 12 10 9", "must hold the 2160 bytes its header announces, got 1920"),
        ("a.nrrd", b"encoding", b'space units: "m" "m" "m"\nencoding', "voxel size must be in mm, got m;"),
        ("a.nrrd", b"space directions: (", b"space directions: (nan", "header must be readable"),
    ],
)
def test_refuses_a_bad_text_header(tmp_path, name, old, new, match):
    path = save_itk(tmp_path / name)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=rf"{name}: .*{match}"):
        check_header(path)


@pytest.mark.parametrize("shape", [(12, 10, 8, 3), (12, 10, 8, 1, 3)])
def test_channels_are_the_fourth_axis_or_the_fifth_after_one_of_length_one(tmp_path, shape):
    header = check_header(save(tmp_path / "a.nii.gz", np.zeros(shape, np.int16)))
    assert (header.shape, header.channels) == ((12, 10, 8), 3)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_vectors_of_other_formats_are_channels(tmp_path, suffix):
    vectors = itk.image_from_array(np.zeros((8, 10, 12, 2), np.int16), is_vector=True)
    itk.imwrite(vectors, str(tmp_path / f"a{suffix}"))
    header = check_header(tmp_path / f"a{suffix}")
    assert (header.shape, header.channels) == ((12, 10, 8), 2)


def test_refuses_another_unit_in_a_metaimage(tmp_path):
    path = save_itk(tmp_path / "a.mha")
    path.write_bytes(
        path.read_bytes().replace(b"ElementType = MET_SHORT", b"ElementType = MET_SHORT\nDistanceUnits = cm")
    )
    with pytest.raises(ValueError, match=r"a\.mha: voxel size must be in mm, got cm; convert the file"):
        check_header(path)


@pytest.mark.parametrize(("shape", "match"), [((12, 10), "3 dimensions"), ((1, 1, 1), "more than one voxel")])
def test_other_formats_are_held_to_the_same(tmp_path, shape, match):
    with pytest.raises(ValueError, match=rf"a\.mha: .*{match}"):
        check_header(save_itk(tmp_path / "a.mha", np.zeros(shape)))


def test_label_must_lie_on_the_grid_of_its_image(tmp_path):
    image = check_header(save(tmp_path / "image.nii"))
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.1  # mm, where a voxel has 2
    far[0, 3] += 0.3
    check_grids(image, check_header(save(tmp_path / "near.nii", affine=near)), "near")
    with pytest.raises(ValueError, match=r"far: .* the affine of its image, got corners 0\.15 voxels apart"):
        check_grids(image, check_header(save(tmp_path / "far.nii", affine=far)), "far")
    other = check_header(save(tmp_path / "other.nii", np.zeros((8, 10, 12), np.uint8)))
    with pytest.raises(ValueError, match=r"other: .*\(12, 10, 8\), got \(8, 10, 12\)"):
        check_grids(image, other, "other")


# ---- 2D images -----------------------------------------------------------------------------------


def save_picture(path, mode="L"):
    array = np.random.RandomState(0).randint(0, 256, (12, 10, 3)).astype(np.uint8)
    Image.fromarray(array).convert(mode).save(path)
    return path


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1)])
def test_a_2d_image_is_a_volume_with_one_slice_where_it_is_allowed(tmp_path, shape):
    path = save(tmp_path / "a.nii.gz", np.zeros(shape, np.int16))
    header = check_header(path, allow_2d=True)
    assert header.shape == (12, 10, 1)
    np.testing.assert_allclose(header.affine, AFFINE)
    if len(shape) == 2:
        with pytest.raises(ValueError, match=r"a.nii.gz: must hold one volume of 3 dimensions, got shape \(12, 10\)"):
            check_header(path)
    assert check_header(save_itk(tmp_path / "a.mha", np.zeros((12, 10))), allow_2d=True).shape == (12, 10, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P", "1"])
def test_a_picture_is_a_2d_image_of_width_and_height_where_it_is_allowed(tmp_path, mode):
    path = save_picture(tmp_path / "a.PNG", mode)
    assert check_header(path, allow_2d=True).shape == (10, 12, 1)
    with pytest.raises(ValueError, match=r"a.PNG: name must end in .nii.gz, .*, got a PNG picture"):
        check_header(path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda content: content[:-30], "PNG must be intact"),
        (lambda content: content[:90] + bytes([content[90] ^ 1]) + content[91:], "PNG must be intact"),
        (lambda content: b"\xff\xd8\xff" + content, "a .png file must be a PNG picture, got a JPEG picture"),
        (lambda content: b"", "a .png file must be a PNG picture, got an empty file"),
    ],
)
def test_a_damaged_picture_is_refused(tmp_path, damage, match):
    path = save_picture(tmp_path / "a.png")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"a.png: {match}"):
        check_header(path, allow_2d=True)
