"""Segmentations as DICOM objects that refer to the series of the scan: DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import datetime
import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monai
import numpy as np

from common.cli import InputError

from .colors import label_color
from .dicom import Series, check_series
from .segmentation import Segmentation

if TYPE_CHECKING:  # takes a while to import, and most data is NIfTI
    from pydicom.dataset import Dataset

__all__ = ["is_whole_object", "write_dicom_seg", "write_rtstruct"]

_PATIENT = (  # elements that every object of a study repeats, though they may be empty
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")  # which a series may lack, though it must not
_MAKER, _MODEL, _VERSION = "self-supervised-bundles", "MONAI bundle", f"MONAI {monai.__version__}"
_SERIES_NUMBER = 300  # of what is derived from a series
_LONGEST = 64  # characters of a name
_UTF8 = "ISO_IR 192"
_LAST = "UNAPPROVED"  # element of an RTSTRUCT
_RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"
_LEVEL = 0.51  # contours lie .49 pixels around the centers of a mask, which stay inside by whatever rule


def write_dicom_seg(path: Path, segmentation: Segmentation) -> None:
    """Write a binary DICOM SEG on the grid of the series, with a segment for each label.

    The number of a segment is the value of its label. A label that no voxel has is a segment without a frame; where
    nothing was segmented at all, every frame is there and empty, since DICOM wants at least one.

    Args:
        path: of the file.
        segmentation: of a DICOM series.

    Raises:
        ValueError: when the series is no longer what was segmented, or is one that highdicom refuses.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells each step
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_MAKER, version=_VERSION, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=value,
            segment_label=_text(name),
            segmented_property_category=codes.SCT.Tissue,  # as 3D Slicer says of what it does not know
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_rgb(*label_color(value)),
        )
        for value, name in segmentation.classes.items()
    ]
    frames = np.ascontiguousarray(segmentation.label_map.T)
    slices = _read_slices(_find_series(segmentation))
    try:
        seg = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=frames.astype(np.min_scalar_type(int(frames.max()))),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MODEL,
            software_versions=_VERSION,
            device_serial_number="1",
            omit_empty_frames=bool(frames.any()),
            specific_character_set=_UTF8,
            series_description="Segmentation",
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{segmentation.source}: series must be one that highdicom takes, got {error}; leave dicom_seg out of "
            "--formats"
        ) from error
    _write(path, seg)


def write_rtstruct(path: Path, segmentation: Segmentation) -> None:
    """Write an RT structure set with a region for each label, and its contours in the planes of the slices.

    A pixel belongs to a region if its center lies inside an odd number of the contours of its slice: a hole has a
    contour of its own. A label that no voxel has is a region without contours.

    Args:
        path: of the file.
        segmentation: of a DICOM series.

    Raises:
        ValueError: when the series is no longer what was segmented.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

    scan = _find_series(segmentation)
    slices = _read_slices(scan)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(_RT_STRUCTURE_SET), generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit VR leaves a contour 64 KB
    structures = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    _set(
        structures,
        SpecificCharacterSet=_UTF8,
        SOPClassUID=meta.MediaStorageSOPClassUID,
        SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        Modality="RTSTRUCT",
        StudyInstanceUID=slices[0].StudyInstanceUID,
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=_SERIES_NUMBER + 1,
        SeriesDescription="Segmentation",
        InstanceNumber=1,
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        Manufacturer=_MAKER,
        ManufacturerModelName=_MODEL,
        SoftwareVersions=_VERSION,
        OperatorsName="",
        StructureSetLabel="Segmentation",
        StructureSetDate=date,
        StructureSetTime=time,
        FrameOfReferenceUID=slices[0].FrameOfReferenceUID,
        PositionReferenceIndicator="",
        ApprovalStatus=_LAST,
        **{name: slices[0].get(name) for name in _PATIENT},
    )
    series = _set(Dataset(), SeriesInstanceUID=slices[0].SeriesInstanceUID)
    series.ContourImageSequence = [_refer(image) for image in slices]
    study = _set(Dataset(), ReferencedSOPClassUID=_STUDY, ReferencedSOPInstanceUID=slices[0].StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    frame = _set(Dataset(), FrameOfReferenceUID=slices[0].FrameOfReferenceUID)
    frame.RTReferencedStudySequence = [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]
    regions, contours, observations = [], [], []
    for value, name in segmentation.classes.items():
        regions.append(
            _set(
                Dataset(),
                ROINumber=value,
                ReferencedFrameOfReferenceUID=slices[0].FrameOfReferenceUID,
                ROIName=_text(name),
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        outline = _set(Dataset(), ReferencedROINumber=value, ROIDisplayColor=[*label_color(value)])
        if found := [*_contours(segmentation.label_map == value, scan, slices)]:
            outline.ContourSequence = found
        contours.append(outline)
        kind = {"RTROIInterpretedType": "", "ROIInterpreter": ""}
        observations.append(_set(Dataset(), ObservationNumber=value, ReferencedROINumber=value, **kind))
    structures.StructureSetROISequence = regions
    structures.ROIContourSequence = contours
    structures.RTROIObservationsSequence = observations
    _write(path, structures)


def is_whole_object(path: Path) -> bool:
    """Tell whether an object that was written here has its last element; pydicom reads one that is cut short, too."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        if "PixelData" in dataset:
            size = math.ceil(dataset.NumberOfFrames * dataset.Rows * dataset.Columns / 8)
            return len(dataset.PixelData) >= size
        return bool(dataset.get("ApprovalStatus") == _LAST)
    except Exception:  # whatever a damaged object makes pydicom raise
        return False


def _find_series(segmentation: Segmentation) -> Series:
    """Return the series on whose grid a segmentation lies."""
    found = check_series(segmentation.source, segmentation.series or None)
    if found.shape != segmentation.label_map.shape:
        raise InputError(
            f"{segmentation.source}: series must have the voxels that were segmented, {segmentation.label_map.shape}, "
            f"got {found.shape}; segment it again"
        )
    return found


def _read_slices(series: Series) -> list[Dataset]:
    """Return the headers of the slices of a series, in their order, with what every object must repeat."""
    import pydicom

    slices: list[Dataset] = []
    for file in series.files:
        image = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        image.decode()  # text of another character set is written as UTF-8
        for name in _PATIENT:
            if name not in image:
                setattr(image, name, "")
        if not image.get("SliceThickness"):
            image.SliceThickness = round(float(np.linalg.norm(series.affine[:3, 2])), 4)
        for name in _UIDS:
            if not image.get(name):
                setattr(image, name, pydicom.uid.generate_uid(entropy_srcs=[series.uid, name]))
        slices.append(image)
    return slices


def _contours(mask: np.ndarray, series: Series, slices: list[Dataset]) -> Iterator[Dataset]:
    """Yield the contours of a mask of the shape of a series."""
    from pydicom.dataset import Dataset
    from skimage.measure import find_contours

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine  # DICOM's world is LPS
    for index in np.flatnonzero(mask.any(axis=(0, 1))):
        for pixels in find_contours(np.pad(mask[:, :, index], 1).astype(np.float32), _LEVEL):
            corners = _corners(pixels[:-1] - 1)
            points = corners @ affine[:3, :2].T + affine[:3, 2] * index + affine[:3, 3]
            yield _set(
                Dataset(),
                ContourImageSequence=[_refer(slices[index])],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{number:.4f}" for number in points.ravel()],  # mm
            )


def _corners(points: np.ndarray) -> np.ndarray:
    """Return the points of a closed contour, of shape `(N, 2)`, at which its direction changes."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[np.abs(turn) > 1e-6]


def _refer(image: Dataset) -> Dataset:
    from pydicom.dataset import Dataset

    return _set(Dataset(), ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def _set(dataset: Any, **elements: Any) -> Any:
    """Set elements of a dataset by their keywords, and return it."""
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def _write(path: Path, dataset: Dataset) -> None:
    """Write an object by way of the memory, since pydicom hides why the system refuses a file."""
    content = io.BytesIO()
    dataset.save_as(content)
    path.write_bytes(content.getvalue())


def _text(name: str) -> str:
    """Return a name as DICOM holds it, where a backslash separates values."""
    return name.replace("\\", "/")[:_LONGEST]
