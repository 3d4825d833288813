"""DICOM series as volumes: found in a folder, checked slice by slice before they are read, and read.

`pydicom` reads the headers; ITK, which brings the decoders of most compressed syntaxes, reads the voxels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import ensure_tuple

from common.cli import InputError, MissingFileError

from .container import find_reason

if TYPE_CHECKING:  # takes a while to import, and most data is NIfTI
    from pydicom.dataset import FileDataset

__all__ = ["Series", "check_series", "is_dicom", "list_dicom", "read_series"]

_UNEVEN = 0.01  # by which distances between slices may differ
_SAME = 1e-3  # mm, within which two slices have one position; and of direction cosines
_DRIFT = 0.1  # pixels, by which slices may lie beside the line through the first and the last one
_TILT = 1e-2  # of the direction between slices, beyond which a tilt is worth a word
_IMPLICIT = "1.2.840.10008.1.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNCOMPRESSED = (_IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DECODED = {  # by ITK
    *(_DEFLATED, "1.2.840.10008.1.2.5"),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
}
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # numbers of each
_NO_IMAGE = ("RTSTRUCT", "RTPLAN", "RTDOSE", "SEG", "SR", "PR", "KO", "REG", "DOC")


@dataclass(frozen=True)
class Series:
    """DICOM series that is one whole volume.

    Attributes:
        files: its slices, from the first to the last along the normal of their planes.
        uid: `SeriesInstanceUID`.
        modality: such as CT or MR.
        shape: voxels along rows, columns and slices.
        affine: `(4, 4)`, from voxel indices to RAS millimeters; a gantry tilt is in it.
        warnings: what is only odd.
    """

    files: tuple[Path, ...]
    uid: str
    modality: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    warnings: tuple[str, ...] = ()


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, by its name or its first bytes, or whether a folder directly holds such a file."""
    if path.is_dir():
        return any(is_dicom(file) for file in path.iterdir() if file.is_file())
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if path.suffix and not path.suffix[1:].isdecimal() and path.suffix.lower() != ".ima":
        return False  # not opened: a folder may hold large files of other kinds
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def list_dicom(folder: Path) -> list[Path]:
    """Return the DICOM files that lie directly in a folder."""
    return sorted(file for file in folder.iterdir() if file.is_file() and is_dicom(file))


def check_series(folder: str | Path, series: str | None = None) -> Series:
    """Read the headers of the DICOM files in a folder, and refuse what is not one whole volume.

    Args:
        folder: that directly holds the files.
        series: `SeriesInstanceUID` of the one that is meant; None where there is but one.

    Raises:
        FileNotFoundError: when there is no such series.
        ValueError: when a file is unreadable or cut short; when there are several series; when slices are missing,
            doubled, unevenly spaced, or differ in orientation, size or pixel size; when voxels are colors or of a
            syntax that nothing here decodes.
    """
    folder = Path(folder)
    slices = _choose(folder, _read_headers(folder), series)
    for file, dataset in slices:
        _check_slice(file, dataset, slices[0][1])
    return _make_series(folder, slices)


def read_series(series: Series) -> np.ndarray:
    """Return the rescaled voxels of a series, of shape `(columns, rows, slices)`, as 32-bit floats."""
    import itk  # takes a second to import

    volume = np.empty(series.shape, np.float32, order="F")
    for index, file in enumerate(series.files):
        try:
            pixels = itk.array_view_from_image(itk.imread(str(file), itk.F))  # each with a slope of its own
        except RuntimeError as error:
            raise InputError(f"{file}: slice must be readable, got {find_reason(error)}; copy it again") from error
        volume[:, :, index] = pixels.reshape(series.shape[1::-1]).T
    return volume


def _read_headers(folder: Path) -> list[tuple[Path, FileDataset]]:
    """Return the files of a folder that are images, with what their headers say."""
    import pydicom

    found = []
    for file in list_dicom(folder):
        try:
            with file.open("rb") as content:
                dataset = pydicom.dcmread(content, stop_before_pixels=True, force=True)  # old files have no preamble
                remaining = os.fstat(content.fileno()).st_size - content.tell()
        except (OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
            raise InputError(f"{file}: slice must be readable, got {error}; copy it again, or remove it") from error
        if "SOPClassUID" not in dataset:
            raise InputError(f"{file}: slice must be a whole DICOM file, got none; copy it again, or remove it")
        if str(dataset.get("Modality", "")) in _NO_IMAGE:
            continue
        if "Rows" not in dataset or "Columns" not in dataset:
            if "Image" in dataset.SOPClassUID.name:
                raise InputError(f"{file}: slice must have a whole header, got a part; copy it again, or remove it")
            continue
        _check_length(file, dataset, remaining)
        found.append((file, dataset))
    return found


def _check_length(file: Path, dataset: FileDataset, remaining: int) -> None:
    """Refuse a slice whose voxels are cut short, where their number of bytes is known: without compression."""
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", _IMPLICIT))
    bits = int(dataset.get("BitsAllocated", 16)) * int(dataset.get("SamplesPerPixel", 1))
    size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1) or 1) * bits // 8
    remaining -= 8 if syntax == _IMPLICIT else 12  # the head of the element of the voxels
    if syntax == _DEFLATED:  # of which pydicom has read everything
        return
    if remaining <= 0 or (syntax in _UNCOMPRESSED and remaining < size):
        raise InputError(f"{file}: slice must hold {size} bytes of voxels, got {max(remaining, 0)}; copy it again")


def _choose(
    folder: Path, slices: Sequence[tuple[Path, FileDataset]], series: str | None
) -> list[tuple[Path, FileDataset]]:
    """Return the slices of the one series, or of the one that is meant."""
    by_uid = defaultdict(list)
    for file, dataset in slices:
        by_uid[str(dataset.get("SeriesInstanceUID", ""))].append((file, dataset))
    if not by_uid:
        raise MissingFileError(f"{folder}: must hold the slices of a scan, got no DICOM image; look at the folder")
    listed = "; ".join(f"{uid} ({_describe(members)})" for uid, members in sorted(by_uid.items()))
    if series is None and len(by_uid) > 1:
        raise InputError(f"{folder}: must hold one DICOM series, got {listed}; choose one with --series UID")
    if series is not None and series not in by_uid:
        raise MissingFileError(f"{folder}: must hold series {series}, got {listed}; choose one of these")
    return by_uid[next(iter(by_uid)) if series is None else series]


def _describe(slices: Sequence[tuple[Path, FileDataset]]) -> str:
    first = slices[0][1]
    said = " ".join(str(first.get(name, "")) for name in ("Modality", "SeriesDescription")).strip()
    return f"{said + ', ' if said else ''}{len(slices)} slices"


def _check_slice(file: Path, dataset: FileDataset, first: FileDataset) -> None:
    """Refuse a slice that is no gray image of a known place, or is unlike the first one."""
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(f"{file}: must hold one slice, got {dataset.NumberOfFrames} frames; convert it to NIfTI")
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in str(dataset.get("PhotometricInterpretation", "")):
        raise InputError(f"{file}: voxels must be gray, got {dataset.get('PhotometricInterpretation')}; remove it")
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        raise InputError(f"{file}: air must be dark, got MONOCHROME1, where it is bright; convert the series")
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and str(syntax) not in _DECODED | {*_UNCOMPRESSED}:
        raise InputError(
            f"{file}: compression must be one that ITK decodes, got {syntax.name}; decompress the series, "
            "for instance by dcmdjpeg of DCMTK or gdcmconv --raw"
        )
    for name, count in _GEOMETRY.items():
        if not dataset.get(name):
            raise InputError(f"{file}: slice must say where it lies, got no {name}; remove it if it is no slice")
        numbers = _numbers(dataset, name)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise InputError(f"{file}: {name} must be {count} numbers, got {numbers.tolist()}; export the series again")
    axes = _numbers(dataset, "ImageOrientationPatient").reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_TILT):
        raise InputError(
            f"{file}: ImageOrientationPatient must be two directions of length 1 at a right angle, got "
            f"{axes.ravel().tolist()}; export the series again"
        )
    if not (_numbers(dataset, "PixelSpacing") > 0).all():
        raise InputError(
            f"{file}: PixelSpacing must be above 0, got {_numbers(dataset, 'PixelSpacing').tolist()}; export the "
            "series again"
        )
    if not np.allclose(
        _numbers(dataset, "ImageOrientationPatient"), _numbers(first, "ImageOrientationPatient"), atol=_SAME
    ):
        raise InputError(
            f"{file}: slices must have one orientation, got {_numbers(dataset, 'ImageOrientationPatient').tolist()} "
            f"beside {_numbers(first, 'ImageOrientationPatient').tolist()}; move the localizer or the other planes away"
        )
    size, others = (dataset.Columns, dataset.Rows), (first.Columns, first.Rows)
    if size != others or not np.allclose(
        _numbers(dataset, "PixelSpacing"), _numbers(first, "PixelSpacing"), rtol=_SAME
    ):
        raise InputError(
            f"{file}: slices must have one size, got {size[0]} x {size[1]} of {_numbers(dataset, 'PixelSpacing')} "
            f"mm beside {others[0]} x {others[1]} of {_numbers(first, 'PixelSpacing')} mm; move the others away"
        )


def _make_series(folder: Path, slices: Sequence[tuple[Path, FileDataset]]) -> Series:
    """Return the series of slices that are alike, or refuse gaps, doubles and uneven distances."""
    first = slices[0][1]
    across, down = _numbers(first, "ImageOrientationPatient").reshape(2, 3)
    normal = np.cross(across, down)
    row_edge, column_edge = _numbers(first, "PixelSpacing")  # between rows, between columns
    positions = np.array([_numbers(dataset, "ImagePositionPatient") for _, dataset in slices])
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [slices[index][0] for index in order], positions[order]
    heights = positions @ normal
    steps = np.diff(heights)
    warnings = []
    for index in np.flatnonzero(steps < _SAME)[:1]:
        raise InputError(
            f"{files[index + 1]}: slices must have different positions, got {heights[index]:.2f} mm also in "
            f"{files[index].name}; remove one"
        )
    if len(steps):
        usual = float(np.sort(steps)[(len(steps) - 1) // 2])
        if len(steps) > 1 and np.ptp(steps) > _UNEVEN * usual:
            worst = int(np.abs(steps - usual).argmax())
            gap = f"{heights[worst]:.2f} to {heights[worst + 1]:.2f} mm, after {files[worst].name}"
            missing = round(steps[worst] / usual) - 1
            what = f"{missing} missing from {gap}" if missing > 0 else f"{steps[worst]:.4g} mm from {gap}"
            raise InputError(
                f"{folder}: slices must be evenly spaced ({usual:.4g} mm), got {what}; copy the whole series"
            )
        step = (positions[-1] - positions[0]) / len(steps)
    else:
        edge = float(first.get("SpacingBetweenSlices", 0) or first.get("SliceThickness", 0) or 0)
        if not edge > 0:
            raise InputError(f"{folder}: a single slice must have a SliceThickness, got none; add the other slices")
        step = normal * edge
        warnings.append(f"series is a single slice, taken to be {edge:g} mm thick")
    line = positions[0] + np.arange(len(files))[:, None] * step
    drift = np.linalg.norm((positions - line) - ((positions - line) @ normal)[:, None] * normal, axis=1)
    if drift.max() > _DRIFT * min(row_edge, column_edge):
        worst = int(drift.argmax())
        raise InputError(
            f"{files[worst]}: slices must lie on one line, got one {drift[worst]:.3g} mm beside it; move it away"
        )
    tilt = step / np.linalg.norm(step) - normal
    if np.abs(tilt).max() > _TILT:
        angle = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
        warnings.append(f"gantry is tilted by {angle:.1f} degrees, which the affine keeps")
    affine = np.eye(4)
    affine[:3] = np.stack([across * column_edge, down * row_edge, step, positions[0]], axis=1)
    return Series(
        tuple(files),
        str(first.get("SeriesInstanceUID", "")),
        str(first.get("Modality", "")),
        (int(first.Columns), int(first.Rows), len(files)),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,  # DICOM's world is LPS
        tuple(warnings),
    )


def _numbers(dataset: FileDataset, name: str) -> np.ndarray:
    value: Any = dataset.get(name)
    return np.array([float(number) for number in ensure_tuple(value)])
