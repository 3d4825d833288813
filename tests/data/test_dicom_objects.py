"""Laws of DICOM SEG and RTSTRUCT: read back, they are the same mask in the same place, under the same names."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import numpy as np
import pydicom
import pytest
from dicom_files import write_series
from matplotlib.path import Path as Polygon

from common.data import (
    Segmentation,
    check_header,
    is_whole_object,
    label_color,
    write_dicom_seg,
    write_rtstruct,
)

LABELS = {0: "background", 1: "liver", 2: "spleen", 3: "größer \\ 5 cm", 4: "n" * 80}
SHAPE = (17, 14, 6)
OBLIQUE = [0.98480775, 0.17101007, 0.03015369, -0.17364818, 0.96984631, 0.17101007]
NORMAL = np.cross(OBLIQUE[:3], OBLIQUE[3:])


def oblique(index, dataset):
    dataset.ImageOrientationPatient = OBLIQUE
    dataset.ImagePositionPatient = [f"{number:.8f}" for number in np.array([-123.456, 20.1, 30]) + 2.5 * index * NORMAL]


def feet_first(index, dataset):
    """Prone, feet first, the last slice stored first."""
    dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [100, -50, 900 - 2.5 * index]
    dataset.InstanceNumber = SHAPE[2] - index


def upwards(index, dataset):
    dataset.ImagePositionPatient = [100, -50, 900 - 2.5 * index]


def sagittal(index, dataset):
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    dataset.ImagePositionPatient = [-40 + 2.5 * index, -50, 900]


def tilted(index, dataset):
    dataset.ImagePositionPatient = [-10, 20 + index * 0.5, 30 + index * 2.5]


def bare(index, dataset):
    """Without what an image must have, and what some anonymizers take away."""
    for name in ("SliceThickness", "StudyInstanceUID", "InstanceNumber"):
        delattr(dataset, name)


def with_patient(index, dataset):
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Müller^Jürgen", "007", "M"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240131", "120000", "4"
    dataset.FrameOfReferenceUID = "1.2.3.77"


EDITS = {
    "plain": lambda index, dataset: None,
    **{edit.__name__: edit for edit in (oblique, feet_first, upwards, sagittal, tilted, bare, with_patient)},
}
needs_highdicom = pytest.mark.skipif(find_spec("highdicom") is None, reason="needs the extra dicom")
every_object = pytest.mark.parametrize("write", [pytest.param(write_dicom_seg, marks=needs_highdicom), write_rtstruct])
every_series = pytest.mark.parametrize("edit", EDITS.values(), ids=[*EDITS])


def make(folder, labels=LABELS, label_map=None, **options) -> Segmentation:
    """Write a series and return a segmentation with a hole, an island, single voxels and labels that touch."""
    write_series(folder, shape=SHAPE, **options)
    if label_map is None:
        label_map = np.zeros(SHAPE, np.uint8)
        label_map[2:9, 3:11, 1:4] = 1
        label_map[4:7, 5:9, 2] = 0
        label_map[5, 7, 2] = 1
        label_map[0, 0, 0] = label_map[-1, -1, -1] = label_map[12, 2, 3] = label_map[13, 3, 3] = 1
        label_map[9:12, 3:6, 2:5] = 2
        label_map[16, 5:, 5] = 3
    return Segmentation(label_map, check_header(folder).affine, labels, folder, "1.2.3.4.1")


def stored_slices(folder):
    """Return the slices in their order along the normal, by their own words."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    normal = np.cross(slices[0].ImageOrientationPatient[:3], slices[0].ImageOrientationPatient[3:])
    return sorted(slices, key=lambda image: np.dot(normal, image.ImagePositionPatient))


# ---- DICOM SEG -----------------------------------------------------------------------------------


def read_seg(path, folder):
    """Return object and label map, slice by slice of the series."""
    import highdicom as hd

    found = hd.seg.segread(path)
    uids = [image.SOPInstanceUID for image in stored_slices(folder)]
    frames = found.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    return found, frames.T


@needs_highdicom
@every_series
def test_a_seg_is_the_same_mask_on_the_slices_of_the_series(tmp_path, edit):
    segmentation = make(tmp_path / "scan", edit=edit)
    write_dicom_seg(tmp_path / "a_seg.dcm", segmentation)
    found, label_map = read_seg(tmp_path / "a_seg.dcm", tmp_path / "scan")
    np.testing.assert_array_equal(label_map, segmentation.label_map)
    first = stored_slices(tmp_path / "scan")[0]
    assert found.StudyInstanceUID == first.get("StudyInstanceUID", found.StudyInstanceUID)
    assert found.SeriesInstanceUID != first.SeriesInstanceUID
    assert found.FrameOfReferenceUID == first.get("FrameOfReferenceUID", found.FrameOfReferenceUID)
    places = {
        tuple(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in found.PerFrameFunctionalGroupsSequence
    }
    assert places == {tuple(image.ImagePositionPatient) for image in stored_slices(tmp_path / "scan")}


@needs_highdicom
def test_the_segments_of_a_seg_are_the_labels_also_those_that_no_voxel_has(tmp_path):
    import highdicom as hd

    write_dicom_seg(tmp_path / "a_seg.dcm", make(tmp_path / "scan"))
    found, _ = read_seg(tmp_path / "a_seg.dcm", tmp_path / "scan")
    assert {segment.SegmentNumber: segment.SegmentLabel for segment in found.SegmentSequence} == {
        1: "liver",
        2: "spleen",
        3: "größer / 5 cm",
        4: "n" * 64,
    }
    for segment in found.SegmentSequence:
        color = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(color, label_color(segment.SegmentNumber), atol=1)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"


@every_object
def test_a_segmentation_of_nothing_is_written_with_all_its_names(tmp_path, write, caplog):
    segmentation = make(tmp_path / "scan", label_map=np.zeros(SHAPE, np.uint8))
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "a.dcm", segmentation)
    assert not caplog.records
    found = pydicom.dcmread(tmp_path / "a.dcm")
    if write is write_dicom_seg:
        assert [segment.SegmentNumber for segment in found.SegmentSequence] == [1, 2, 3, 4]
        assert not read_seg(tmp_path / "a.dcm", tmp_path / "scan")[1].any()
    else:
        assert [region.ROINumber for region in found.StructureSetROISequence] == [1, 2, 3, 4]
        assert not any("ContourSequence" in region for region in found.ROIContourSequence)


# ---- RTSTRUCT ------------------------------------------------------------------------------------


def read_regions(path, folder):
    """Return the label map by the rule that a pixel is inside if its center lies in an odd number of contours.

    Points are put into the plane of their slice by that slice's own words.
    """
    structures, slices = pydicom.dcmread(path), stored_slices(folder)
    columns, rows = slices[0].Columns, slices[0].Rows
    centers = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)
    label_map = np.zeros((columns, rows, len(slices)), np.uint8)
    index_of = {image.SOPInstanceUID: index for index, image in enumerate(slices)}
    for region in structures.ROIContourSequence:
        inside = np.zeros(label_map.shape, bool)
        for contour in region.get("ContourSequence", []):
            index = index_of[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            image = slices[index]
            axes = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
            assert contour.ContourGeometricType == "CLOSED_PLANAR" and contour.NumberOfContourPoints == len(points) > 2
            assert np.abs(points @ np.cross(*axes)).max() < 1e-3  # mm, off the plane
            pixels = points @ axes.T / np.array(image.PixelSpacing, float)[::-1]
            inside[:, :, index] ^= Polygon(pixels).contains_points(centers).reshape(columns, rows)
        assert not label_map[inside].any()
        label_map[inside] = region.ReferencedROINumber
    return structures, label_map


@every_series
def test_the_regions_of_an_rtstruct_are_the_same_mask_in_the_planes_of_the_slices(tmp_path, edit):
    segmentation = make(tmp_path / "scan", edit=edit)
    write_rtstruct(tmp_path / "a_rtstruct.dcm", segmentation)
    structures, label_map = read_regions(tmp_path / "a_rtstruct.dcm", tmp_path / "scan")
    np.testing.assert_array_equal(label_map, segmentation.label_map)
    first = stored_slices(tmp_path / "scan")[0]
    assert structures.StudyInstanceUID == first.get("StudyInstanceUID", structures.StudyInstanceUID)
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == first.get("FrameOfReferenceUID", frame.FrameOfReferenceUID)
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID and len(series.ContourImageSequence) == SHAPE[2]


def test_the_regions_of_an_rtstruct_have_the_names_and_colors_of_the_labels(tmp_path):
    write_rtstruct(tmp_path / "a.dcm", make(tmp_path / "scan"))
    found = pydicom.dcmread(tmp_path / "a.dcm")
    names = [region.ROIName for region in found.StructureSetROISequence]
    assert names == ["liver", "spleen", "größer / 5 cm", "n" * 64]
    for region in found.ROIContourSequence:
        assert tuple(region.ROIDisplayColor) == label_color(region.ReferencedROINumber)
    assert {observation.ReferencedROINumber for observation in found.RTROIObservationsSequence} == {1, 2, 3, 4}


def test_the_area_of_a_region_is_that_of_its_pixels(tmp_path):
    """Contours through the centers of the outermost pixels, as other programs draw them, lose half a pixel around."""
    label_map = np.zeros(SHAPE, np.uint8)
    label_map[3:13, 2:12, 2] = 1
    write_rtstruct(tmp_path / "a.dcm", make(tmp_path / "scan", label_map=label_map))
    (contour,) = pydicom.dcmread(tmp_path / "a.dcm").ROIContourSequence[0].ContourSequence
    x, y, _ = np.array(contour.ContourData, float).reshape(-1, 3).T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(100 * 0.8 * 0.9, rel=0.01) and len(x) == 8


@pytest.mark.parametrize("seed", range(3))
def test_any_mask_survives_the_way_through_contours(tmp_path, seed):
    label_map = np.random.RandomState(seed).randint(0, 3, SHAPE).astype(np.uint8)
    write_rtstruct(tmp_path / "a.dcm", make(tmp_path / "scan", label_map=label_map))
    np.testing.assert_array_equal(read_regions(tmp_path / "a.dcm", tmp_path / "scan")[1], label_map)


def test_a_contour_may_have_any_number_of_points(tmp_path):
    """One of more than 64 KB had no place in a file with explicit types of its elements."""
    label_map = np.zeros((130, 130, 2), np.uint8)
    label_map[::4, 1:-1, 0] = label_map[:, 1, 0] = label_map[1::4, 5::2, 0] = 1
    write_series(tmp_path / "scan", shape=label_map.shape)
    write_rtstruct(tmp_path / "a.dcm", Segmentation(label_map, np.eye(4), LABELS, tmp_path / "scan"))
    structures, found = read_regions(tmp_path / "a.dcm", tmp_path / "scan")
    assert max(len(contour.ContourData) for contour in structures.ROIContourSequence[0].ContourSequence) > 8000
    np.testing.assert_array_equal(found, label_map)


@needs_highdicom
def test_a_series_that_highdicom_refuses_is_named(tmp_path):
    segmentation = make(
        tmp_path / "scan", edit=lambda index, dataset: setattr(dataset, "StudyInstanceUID", f"1.2.{index}")
    )
    with pytest.raises(ValueError, match=r"scan: series must be one that highdicom takes, got .*; leave dicom_seg out"):
        write_dicom_seg(tmp_path / "a.dcm", segmentation)
    assert not (tmp_path / "a.dcm").exists()


def test_rt_utils_reads_the_same_masks_and_names(tmp_path):
    """On slices as wide as high, with square pixels: others it reads cut off, or stretched."""
    rt_utils = pytest.importorskip("rt_utils")
    label_map = np.zeros((16, 16, 6), np.uint8)
    label_map[2:9, 3:11, 1:4], label_map[4:7, 5:9, 2], label_map[9:12, 3:6, 2:5] = 1, 0, 2
    write_series(tmp_path / "scan", shape=label_map.shape, spacing=(0.8, 0.8, 2.5), edit=oblique)
    segmentation = Segmentation(label_map, check_header(tmp_path / "scan").affine, LABELS, tmp_path / "scan")
    write_rtstruct(tmp_path / "a.dcm", segmentation)
    found = rt_utils.RTStructBuilder.create_from(str(tmp_path / "scan"), str(tmp_path / "a.dcm"))
    assert found.get_roi_names()[:2] == ["liver", "spleen"]
    for value in (1, 2):
        mask = found.get_roi_mask_by_name(LABELS[value])
        np.testing.assert_array_equal(mask.swapaxes(0, 1), label_map == value)


# ---- both ----------------------------------------------------------------------------------------


@every_object
def test_the_patient_is_that_of_the_series_whatever_its_character_set(tmp_path, write):
    write(tmp_path / "a.dcm", make(tmp_path / "scan", edit=with_patient))
    found = pydicom.dcmread(tmp_path / "a.dcm")
    assert str(found.PatientName) == "Müller^Jürgen" and found.PatientID == "007" and found.PatientSex == "M"
    assert (found.StudyDate, found.StudyTime, found.StudyID) == ("20240131", "120000", "4")
    assert found.FrameOfReferenceUID == "1.2.3.77"


@every_object
def test_a_single_slice_and_one_of_two_series_in_a_folder_have_their_object(tmp_path, write):
    write_series(tmp_path / "scan", uid="1.2.3.5", shape=(5, 5, 4), name="other{}.dcm")
    write_series(tmp_path / "scan", shape=(7, 6, 1))
    label_map = np.zeros((7, 6, 1), np.uint8)
    label_map[2:4, 1:5] = 1
    write(tmp_path / "a.dcm", Segmentation(label_map, np.eye(4), LABELS, tmp_path / "scan", "1.2.3.4.1"))
    found = pydicom.dcmread(tmp_path / "a.dcm")
    assert b"1.2.3.4.1.1" in (tmp_path / "a.dcm").read_bytes() and b"1.2.3.5.1" not in (tmp_path / "a.dcm").read_bytes()
    assert found.Modality in ("SEG", "RTSTRUCT")


@every_object
def test_a_series_that_is_no_longer_what_was_segmented_is_refused(tmp_path, write):
    segmentation = make(tmp_path / "scan")
    (tmp_path / "scan" / "005.dcm").unlink()
    with pytest.raises(ValueError, match=r"scan: series must have the voxels .*\(17, 14, 6\), got \(17, 14, 5\); segm"):
        write(tmp_path / "a.dcm", segmentation)


@every_object
def test_what_is_written_beside_a_series_is_no_slice_of_it(tmp_path, write):
    segmentation = make(tmp_path / "scan")
    write(tmp_path / "scan" / "a.dcm", segmentation)
    assert check_header(tmp_path / "scan").shape == SHAPE


@every_object
def test_an_object_that_is_cut_short_anywhere_is_not_whole(tmp_path, write):
    write(path := tmp_path / "a.dcm", make(tmp_path / "scan"))
    content = path.read_bytes()
    assert is_whole_object(path)
    for size in (0, 100, *range(400, len(content), 397), len(content) - 8, len(content) - 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert not is_whole_object(path), size
