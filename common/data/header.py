"""Headers of image files: where their voxels lie in the world, and whether that makes sense."""

from __future__ import annotations

import functools
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from common.cli import InputError

from .container import NIFTI_SUFFIXES, PICTURE_SUFFIX, SUFFIXES, check_kind, find_reason
from .dicom import Series, check_series, is_dicom
from .grid import format_mm
from .nifti import read_nifti_grid
from .text_header import read_text_grid

__all__ = ["Header", "check_header", "warn_once"]

logger = logging.getLogger(__name__)

_FIELD_OF_VIEW_MM = (5.0, 3000.0)  # of the longest side: a crop of a mouse, a whole patient


@dataclass(frozen=True)
class Header:
    """Grid of a volume, as its file states it.

    Attributes:
        shape: voxels along each spatial axis.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        spacing: edges of a voxel in mm.
        channels: numbers that each voxel holds.
        warnings: what is unknown, or stated twice and differently.
        nifti: fields of a NIfTI header that say where the voxels lie, by name; none for other formats.
        is_oriented: whether the file says where the patient's left, front and head are.
        is_2d: whether the file has but two axes, which the shape completes by one of length 1.
        series: slices of a DICOM series in their order.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    spacing: tuple[float, ...]
    channels: int = 1
    warnings: tuple[str, ...] = ()
    nifti: dict[str, Any] = field(default_factory=dict)
    is_oriented: bool = True
    is_2d: bool = False
    series: Series | None = None


def check_header(path: str | Path, allow_2d: bool = False, series: str | None = None) -> Header:
    """Read the header of an image and refuse what no segmentation could be right for; log what is only odd.

    Costs well below 5 ms for NIfTI, whatever the size of the volume; the voxels stay unread.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd` file, one of a pair `.hdr` and `.img`, or a folder with a
            DICOM series. A fourth axis, or a fifth after one of length 1, holds the channels.
        allow_2d: take a 2D image, and a `.png` file, for a volume with one slice. A PNG is read to its end; it is taken
            for an axial slice as it is shown on a screen, the patient's right on the left and the front up, with pixels
            of 1 mm.
        series: UID of the DICOM series that is meant, where a folder holds several.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not what its name says, is cut short, holds complex or color voxels, or has a
            shape, affine, unit or field of view that is not a volume's; when a DICOM series is not one whole volume.
    """
    path = Path(path)
    if path.is_dir() and is_dicom(path):
        header = _check_geometry(path, *_read_series(path, series))
    else:
        suffix = check_kind(path, (*SUFFIXES, PICTURE_SUFFIX) if allow_2d else SUFFIXES)
        if suffix == PICTURE_SUFFIX:
            return _check_picture(path)
        try:
            parts = read_nifti_grid(path) if suffix in NIFTI_SUFFIXES else read_text_grid(path)
        except FileNotFoundError:  # the voxels of an .mhd file
            raise
        except (HeaderDataError, OSError, EOFError, zlib.error, RuntimeError) as error:
            raise InputError(
                f"{path}: header must be readable, got {find_reason(error)}; copy or convert the file again"
            ) from error
        header = _check_geometry(path, *parts, allow_2d)
    for warning in header.warnings:
        warn_once(f"{path}: {warning}")
    return header


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning the first time that it is given; a file is looked at several times in a run."""
    logger.warning(text)


def _check_picture(path: Path) -> Header:
    """Return the grid of a PNG file whose checksums are right."""
    try:
        with Image.open(path) as picture:
            size, channels = picture.size, len(picture.getbands())
            picture.verify()
    except (OSError, SyntaxError, EOFError, ValueError, zlib.error) as error:  # what Pillow raises for damage
        raise InputError(f"{path}: PNG must be intact, got {error}; copy the file again") from error
    if max(size) == 1:
        raise InputError(f"{path}: must hold more than one pixel, got {size}; look at the file")
    return Header((*size, 1), np.diag([-1.0, -1.0, 1.0, 1.0]), (1.0, 1.0, 1.0), channels, is_2d=True)


def _read_series(path: Path, series: str | None) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
    found = check_series(path, series)
    return found.shape, found.affine, {"series": found, "warnings": found.warnings}


def _check_geometry(
    path: Path, shape: tuple[int, ...], affine: np.ndarray, parts: dict[str, Any], allow_2d: bool = False
) -> Header:
    parts, whole = dict(parts), shape
    if min(whole, default=0) < 1:
        raise InputError(
            f"{path}: every dimension must hold a voxel, got shape {whole}; copy or convert the file again"
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) == 4:
        *space, channels = shape
        shape, parts["channels"] = tuple(space), channels * parts.get("channels", 1)
    if allow_2d and len(shape) == 2:
        shape, parts["is_2d"] = (*shape, 1), True
    if len(shape) != 3:
        raise InputError(f"{path}: must hold one volume of 3 dimensions, got shape {whole}; split or convert the file")
    if max(shape) == 1:
        raise InputError(f"{path}: must hold more than one voxel, got shape {whole}; look at the file")
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: affine must be finite, got {affine.tolist()}; write the grid anew")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not spacing.all():
        raise InputError(f"{path}: voxel size must not be 0, got {format_mm(spacing)}; write the grid anew")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"{path}: affine must be invertible, got {affine.tolist()}; write the grid anew")
    extent = spacing * shape
    low, high = _FIELD_OF_VIEW_MM
    if not low <= extent.max() <= high:
        raise InputError(
            f"{path}: field of view must be between {low:g} and {high:g} mm, got {format_mm(extent)}; are voxels in mm?"
        )
    return Header(shape, affine, tuple(spacing.tolist()), **parts)
