"""DICOM series of any kind, also bad ones, written by pydicom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def write_series(
    folder: Path,
    uid: str = "1.2.3.4.1",
    shape: tuple[int, int, int] = (7, 6, 5),
    spacing: tuple[float, float, float] = (0.8, 0.9, 2.5),
    origin: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    voxels: np.ndarray | None = None,
    edit: Callable[[int, FileDataset], Any] = lambda index, dataset: None,
    name: str = "{:03}.dcm",
) -> np.ndarray:
    """Write one file for each slice of a CT in axial planes, and return its voxels in HU, `(columns, rows, slices)`.

    Args:
        folder: of the files.
        uid: of the series.
        shape: columns, rows and slices.
        spacing: of columns, rows and slices in mm.
        origin: LPS position of the first voxel.
        voxels: Hounsfield units, noise when not given.
        edit: changes the header of the slice of an index; a slice for which it returns False is left out.
        name: of a file, by the index of its slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if voxels is None:
        voxels = np.random.RandomState(0).randint(-1000, 1000, shape).astype(np.int16)
    for index in range(shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{index + 1}"
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{uid}.{index + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3.9", uid, "CT"
        dataset.InstanceNumber = index + 1
        dataset.Columns, dataset.Rows = shape[:2]
        dataset.PixelSpacing = [spacing[1], spacing[0]]  # between rows, between columns
        dataset.SliceThickness = spacing[2]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [origin[0], origin[1], origin[2] + index * spacing[2]]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (voxels[:, :, index].T + 1024).astype("<u2").tobytes()
        if edit(index, dataset) is not False:
            dataset.save_as(folder / name.format(index))
    return voxels
