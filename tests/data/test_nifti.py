"""Laws of the grid of a NIfTI file: its own rules decide, and what is open or said twice is warned of."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from common.data import check_header

SHAPE = (12, 10, 8)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0, 4, 6], [0, 3, 0, 7], [0, 0, 0, 1]])


def save(path, edit, affine=AFFINE, kind=nib.Nifti1Image):
    image = kind(np.zeros(SHAPE, np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1, strip_shears=True)
    edit(image.header)
    nib.save(image, path)
    return path


def fields(**values):
    """Return an edit that sets fields of a header."""

    def edit(header):
        for name, value in values.items():
            header[name] = value

    return edit


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (4, 1)])
def test_sform_or_qform_say_where_the_voxels_are(tmp_path, kind, codes, caplog):
    header = check_header(save(tmp_path / "a.nii", fields(sform_code=codes[0], qform_code=codes[1]), kind=kind))
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-5)
    assert header.is_oriented and not caplog.text


def test_a_qfac_of_zero_counts_as_one_and_another_is_refused(tmp_path):
    rotated = np.diag([2.0, 3, 4, 1])
    path = save(tmp_path / "a.nii", fields(sform_code=0), affine=rotated)
    for qfac, expected in ((0, rotated), (1, rotated), (-1, np.diag([2.0, 3, -4, 1]))):
        content = bytearray(path.read_bytes())
        content[76:80] = np.float32(qfac).tobytes()
        path.write_bytes(content)
        np.testing.assert_allclose(check_header(path).affine, expected, atol=1e-6)
    content[76:80] = np.float32(0.5).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nii: qfac .* must be 1 or -1, got 0\.5"):
        check_header(path)


def turn(path, length):
    """Write a quaternion of half a turn, of some length, as no library would."""
    content = bytearray(path.read_bytes())
    content[256:268] = np.array([0, 0, length], np.float32).tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("length", [1.0000002, 1.0004])
def test_a_quaternion_that_is_too_long_by_rounding_is_read(tmp_path, length):
    path = turn(save(tmp_path / "a.nii", fields(sform_code=0), affine=np.diag([2.0, 3, 4, 1])), length)
    np.testing.assert_allclose(check_header(path).affine, np.diag([-2.0, -3, 4, 1]), atol=1e-5)


@pytest.mark.parametrize("length", [3, np.nan])
def test_a_quaternion_that_is_none_is_refused_where_it_is_used(tmp_path, length, caplog):
    with pytest.raises(ValueError, match=r"a\.nii: quaternion must have length 1, got"):
        check_header(turn(save(tmp_path / "a.nii", fields(sform_code=0)), length))
    np.testing.assert_allclose(check_header(turn(save(tmp_path / "b.nii", fields()), length)).affine, AFFINE)
    assert "b.nii: sform is used" in caplog.text


def test_without_a_code_the_orientation_is_unknown_and_that_is_said(tmp_path, caplog):
    path = save(tmp_path / "a.nii", fields())
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # both codes
    path.write_bytes(content)
    header = check_header(path)
    assert not header.is_oriented and header.spacing == (2, 3, 4)
    assert "a.nii: orientation is unknown" in caplog.text


@pytest.mark.parametrize(
    ("moved", "voxels", "warns"),
    [
        (fields(qoffset_x=5.1), 0.05, False),
        (fields(qoffset_x=9), 2, True),
        (fields(pixdim=[1, 2, 3, 4.4, 1, 1, 1, 1]), 0.7, True),
        (fields(pixdim=[1, 2.002, 3, 4, 1, 1, 1, 1]), 0.01, False),
    ],
)
def test_the_sform_is_used_and_what_disagrees_by_a_tenth_of_a_voxel_is_told(tmp_path, moved, voxels, warns, caplog):
    header = check_header(save(tmp_path / "a.nii", moved))
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-5)
    assert ("sform" in caplog.text) is warns is bool(header.warnings)


def test_a_shear_is_read_from_the_sform(tmp_path):
    shear = np.eye(4)
    shear[1, 2] = 0.35
    header = check_header(save(tmp_path / "a.nii", fields(qform_code=0), affine=shear @ AFFINE))
    np.testing.assert_allclose(header.affine, shear @ AFFINE, atol=1e-5)


@pytest.mark.parametrize("name", ["a.img", "a.hdr"])
def test_a_pair_is_read_by_either_half_and_refused_without_the_other(tmp_path, name):
    nib.save(nib.Nifti1Pair(np.zeros(SHAPE, np.int16), AFFINE), tmp_path / "a.img")
    np.testing.assert_allclose(check_header(tmp_path / name).affine, AFFINE)
    other = ".hdr" if name == "a.img" else ".img"
    (tmp_path / f"a{other}").unlink()
    with pytest.raises(FileNotFoundError, match=rf"must have its {other} file beside it, got none; copy it, too"):
        check_header(tmp_path / name)


def test_an_analyze_pair_is_refused_since_it_has_no_orientation(tmp_path):
    nib.save(nib.AnalyzeImage(np.zeros(SHAPE, np.int16), AFFINE), tmp_path / "a.img")
    with pytest.raises(ValueError, match=r"a\.img: header must be that of a NIfTI pair, got an ANALYZE header"):
        check_header(tmp_path / "a.img")
