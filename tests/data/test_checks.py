"""Laws of the checks on files, headers, voxels and labels."""

from __future__ import annotations

import gzip
import logging
import time

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import check_grids, check_gzip, check_header, check_hounsfield, check_image, check_label

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
        (np.zeros(SHAPE, np.complex64), "real numbers, one per voxel, got complex"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "real numbers, one per voxel, got color"),
        (np.zeros((12, 10), np.int16), r"3 dimensions, got shape \(12, 10\)"),
        (np.zeros((12, 10, 8, 2), np.int16), r"3 dimensions, got shape \(12, 10, 8, 2\)"),
        (np.zeros((12, 10, 8, 1, 3), np.int16), r"3 dimensions, got shape \(12, 10, 8, 1, 3\)"),
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
        (PIXDIM + 4, [0], "f4", r"voxel size must not be 0, got \(0\.0"),
        (PIXDIM + 8, [np.nan], "f4", "voxel size must not be 0"),
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
        ("a.nrrd", b"encoding", b'space units: "m" "m" "m"\nencoding', "voxel size must be in mm, got m$"),
        ("a.nrrd", b"space directions: (", b"space directions: (nan", "header must be readable"),
    ],
)
def test_refuses_a_bad_text_header(tmp_path, name, old, new, match):
    path = save_itk(tmp_path / name)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match=rf"{name}: .*{match}"):
        check_header(path)


def test_refuses_colors_in_other_formats(tmp_path):
    itk.imwrite(itk.image_from_array(np.zeros((8, 10, 12, 3), np.uint8), is_vector=True), str(tmp_path / "a.nrrd"))
    with pytest.raises(ValueError, match=r"a\.nrrd: voxels must be real numbers, .* got 3-component rgb voxels"):
        check_header(tmp_path / "a.nrrd")


@pytest.mark.parametrize(("shape", "match"), [((12, 10), "3 dimensions"), ((1, 1, 1), "more than one voxel")])
def test_other_formats_are_held_to_the_same(tmp_path, shape, match):
    with pytest.raises(ValueError, match=rf"a\.mha: .*{match}"):
        check_header(save_itk(tmp_path / "a.mha", np.zeros(shape)))


def test_label_must_lie_on_the_grid_of_its_image(tmp_path):
    image = check_header(save(tmp_path / "image.nii"))
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.01
    far[0, 3] += 0.05
    check_grids(image, check_header(save(tmp_path / "near.nii", affine=near)), "near")
    with pytest.raises(ValueError, match=r"far: label must have the affine of its image, got a difference of 0\.05 mm"):
        check_grids(image, check_header(save(tmp_path / "far.nii", affine=far)), "far")
    other = check_header(save(tmp_path / "other.nii", np.zeros((8, 10, 12), np.uint8)))
    with pytest.raises(ValueError, match=r"other: .*\(12, 10, 8\), got \(8, 10, 12\)"):
        check_grids(image, other, "other")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0, np.nan, np.nan], "finite, got 2 NaN and 0 infinite"),
        ([np.inf, -np.inf, np.nan], "finite, got 1 NaN and 2 infinite"),
        ([0, 1e39, 1], "32-bit float, got 0 to 1e\\+39"),
        ([], r"hold voxels, got shape \(0,\)"),
    ],
)
def test_image_refuses_values_that_poison_a_network(values, match):
    with pytest.raises(ValueError, match=f"a: .*{match}"):
        check_image(np.array(values), "a")


def test_image_warns_only_when_it_is_constant():
    assert check_image(np.array([1.0, 2.0]), "a") is None
    assert check_image(np.full(5, 3, np.int16), "a") == "a: image is constant, every voxel is 3"


@pytest.mark.parametrize(
    ("values", "labels", "match"),
    [
        ([0, 1, 5, 5, 255], 3, r"among \[0, 1, 2\], got 5, 255"),
        ([0, -1], 3, "got -1"),
        ([0, 1, 2], [0, 2], r"among \[0, 2\], got 1"),
        ([0, 0.5, 1], 2, "whole numbers, got 0.5"),
        ([0, np.nan], None, "whole numbers, got nan"),
        ([0, np.inf], None, "whole numbers of 32 bits, got 0, inf"),
        ([0, 2**40], 2, "whole numbers of 32 bits, got 0, 1.09951e\\+12"),
        ([], 2, r"hold voxels, got shape \(0,\)"),
        (list(range(20)), 2, "got 2, 3, 4, 5, 6, 7, 8, 9, \\.\\.\\."),
    ],
)
def test_label_refuses_values_outside_the_set(values, labels, match):
    with pytest.raises(ValueError, match=f"a: label.*{match}"):
        check_label(np.array(values), "a", labels)


def test_label_within_a_hundredth_is_rounded_with_a_warning(caplog):
    rounded = check_label(np.array([0.0, 0.996, 2.004]), "a", 3)
    assert rounded.dtype == np.uint8
    np.testing.assert_array_equal(rounded, [0, 1, 2])
    assert "rounded" in caplog.text


@pytest.mark.parametrize(
    ("value", "labels", "dtype"),
    [(255, 256, "uint8"), (256, 300, "int16"), (-1, None, "int16"), (40000, None, "int32")],
)
def test_label_keeps_every_value_whatever_the_number_of_classes(value, labels, dtype):
    out = check_label(np.array([0, value]), "a", labels)
    assert out.dtype == dtype
    assert out[1] == value


def test_empty_label_is_warned_of(caplog):
    check_label(np.zeros(5, np.uint8), "a", 2)
    assert "a: label is empty" in caplog.text


@pytest.mark.parametrize(
    ("low", "high", "is_odd"),
    [(0, 1, True), (0, 255, True), (-40, 160, True), (0, 4095, True), (-1000, 200, False), (-150, 900, False)],
)
def test_values_that_are_no_hounsfield_units_are_warned_of(caplog, low, high, is_odd):
    with caplog.at_level(logging.WARNING):
        check_hounsfield(np.array([low, high]), "a")
    assert ("Hounsfield" in caplog.text) is is_odd


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
