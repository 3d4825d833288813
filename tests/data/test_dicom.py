"""Laws of DICOM series: a whole volume, or an error that names the slice."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import write_series

from common.data import check_header, list_images, read_volume

NUM_SLICES = 5


@pytest.mark.parametrize("name", ["{:03}.dcm", "IM{:04}", "{}.IMA"])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_series_is_read_with_its_grid_whatever_its_files_are_called_and_in_whatever_order(
    tmp_path, name, is_reversed
):
    def edit(index, dataset):
        if is_reversed:
            dataset.InstanceNumber = NUM_SLICES - index

    voxels = write_series(tmp_path, edit=edit, name=name)
    array, header, meta = read_volume(tmp_path)
    np.testing.assert_array_equal(array[0], voxels)
    np.testing.assert_allclose(header.affine, [[-0.8, 0, 0, 10], [0, -0.9, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert header.shape == voxels.shape and header.is_oriented and not header.warnings and meta["series"] == "1.2.3.4.1"


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    def edit(index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + 0.5 * index, -1024 + index

    voxels = write_series(tmp_path, edit=edit)
    expected = (voxels + 1024.0) * (1 + 0.5 * np.arange(NUM_SLICES)) - 1024 + np.arange(NUM_SLICES)
    np.testing.assert_allclose(read_volume(tmp_path)[0][0], expected)


def test_a_gantry_tilt_is_kept_in_the_affine_and_warned_of(tmp_path, caplog):
    def edit(index, dataset):
        dataset.ImagePositionPatient = [-10, 20 + index * 0.5, 30 + index * 2.5]

    write_series(tmp_path, edit=edit)
    header = check_header(tmp_path)
    np.testing.assert_allclose(header.affine[:3, 2], [0, -0.5, 2.5], atol=1e-6)
    assert "gantry is tilted by 11.3 degrees" in caplog.text


def skip(*indices):
    return lambda index, dataset: index not in indices


def setting(chosen, **values):
    """Return an edit that sets elements of one slice."""

    def edit(index, dataset):
        if index == chosen:
            for name, value in values.items():
                setattr(dataset, name, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (skip(2), r"slices must be evenly spaced \(2.5 mm\), got 1 missing from 32.50 to 37.50 mm, after 001.dcm"),
        (skip(1, 2), "got 2 missing from 30.00 to 37.50 mm"),
        (setting(2, ImagePositionPatient=[-10, 20, 35.2]), "slices must be evenly spaced"),
        (
            setting(2, ImagePositionPatient=[-10, 20, 32.5]),
            r"002.dcm: .*positions, got 32.50 mm also in 001.dcm",
        ),
        (setting(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "002.dcm: slices must have one orientation"),
        (setting(2, PixelSpacing=[1, 1]), "002.dcm: slices must have one size"),
        (setting(2, Rows=3, PixelData=bytes(42)), "002.dcm: slices must have one size, got 7 x 3"),
        (setting(2, ImagePositionPatient=[-7, 20, 35]), "002.dcm: slices must lie on one line, got one 3 mm beside it"),
        (setting(2, ImagePositionPatient=None), "002.dcm: slice must say where it lies, got no ImagePositionPatient"),
        (setting(2, PhotometricInterpretation="MONOCHROME1"), "002.dcm: air must be dark"),
        (setting(2, PixelData=bytes(40)), "002.dcm: slice must hold 84 bytes of voxels, got 40"),
        (setting(2, NumberOfFrames=2, PixelData=bytes(168)), "002.dcm: must hold one slice, got 2 frames"),
        (
            setting(2, SeriesInstanceUID="1.2.3.4.2"),
            r"got 1.2.3.4.1 \(CT, 4 slices\); 1.2.3.4.2 .*--series",
        ),
    ],
)
def test_refuses_what_is_not_one_whole_volume_by_slice_and_place(tmp_path, edit, match):
    write_series(tmp_path, edit=edit)
    with pytest.raises(ValueError, match=match):
        check_header(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 128 + b"DICM" + b"junk"])
def test_refuses_an_unreadable_slice_by_name(tmp_path, content):
    write_series(tmp_path)
    (tmp_path / "002.dcm").write_bytes(content)
    with pytest.raises(ValueError, match=r"002.dcm: slice must "):
        check_header(tmp_path)


def test_refuses_a_truncated_slice_by_name(tmp_path):
    write_series(tmp_path)
    path = tmp_path / "002.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"002.dcm: slice must "):
        check_header(tmp_path)


def test_refuses_a_compression_that_nothing_decodes_and_says_what_helps(tmp_path):
    def edit(index, dataset):
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        dataset["PixelData"].is_undefined_length = True
        dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"

    write_series(tmp_path, edit=edit)
    with pytest.raises(ValueError, match=r"compression must be one that ITK decodes, got .*; decompress the series"):
        check_header(tmp_path)


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path):
    first = write_series(tmp_path, "1.2.3.4.1")
    second = write_series(tmp_path, "1.2.3.4.2", voxels=np.zeros(first.shape, np.int16), name="b{:03}.dcm")
    for uid, voxels in (("1.2.3.4.1", first), ("1.2.3.4.2", second)):
        np.testing.assert_array_equal(read_volume(tmp_path, series=uid)[0][0], voxels)
        assert len(list_images(tmp_path, series=uid)) == 1
    with pytest.raises(FileNotFoundError, match=r"must hold series 9, got 1.2.3.4.1 .*; choose one of these"):
        check_header(tmp_path, series="9")


def test_a_single_slice_is_as_thick_as_it_says_or_refused(tmp_path, caplog):
    write_series(tmp_path / "thick", shape=(7, 6, 1))
    header = check_header(tmp_path / "thick")
    assert header.shape == (7, 6, 1) and header.spacing[2] == 2.5
    assert "series is a single slice, taken to be 2.5 mm thick" in caplog.text
    write_series(tmp_path / "thin", shape=(7, 6, 1), edit=setting(0, SliceThickness=None))
    with pytest.raises(ValueError, match="a single slice must have a SliceThickness"):
        check_header(tmp_path / "thin")


def test_what_is_no_image_lies_beside_a_series_unread(tmp_path):
    write_series(tmp_path, edit=setting(0, Modality="CT"))
    write_series(tmp_path, "1.2.3.4.7", shape=(7, 6, 1), edit=setting(0, Modality="SEG"), name="seg{:03}.dcm")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert check_header(tmp_path).shape == (7, 6, NUM_SLICES)
