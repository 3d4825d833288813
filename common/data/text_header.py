"""Headers of NRRD and MetaImage files, which are text: read by ITK, and held to what it passes over."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import InputError

from .container import check_length, read_fields, refuse_voxels, voxel_file

__all__ = ["read_text_grid"]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_NRRD_SPACES = {  # in which ITK knows where the patient's left and front are
    *("right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"),
}
_NRRD_ENCODINGS = ("raw", "gzip", "gz", "ascii", "text", "txt", "hex")  # which ITK decodes
_META_SCALE = {"slope": "1", "offset": "0"}
_MISSING_SPACING = "voxel size must be in the header, got none; write it with the program that made the file"


def read_text_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
    """Return shape, affine and other parts of the `Header` of an NRRD or MetaImage file."""
    import itk  # takes a second to import, and most data is NIfTI

    image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise InputError(f"{path}: header must be readable, got one that ITK does not know; convert the file again")
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    pixel, channels = image_io.GetPixelTypeAsString(image_io.GetPixelType()), image_io.GetNumberOfComponents()
    if pixel not in ("scalar", "vector", "rgb", "rgba", "covariant_vector", "point", "offset"):
        refuse_voxels(path, f"{channels}-component {pixel.replace('_', ' ')}")
    num_dims = image_io.GetNumberOfDimensions()
    fields = read_fields(path)[0]
    warnings = _check_fields(path, fields, num_dims)
    shape = tuple(int(image_io.GetDimensions(axis)) for axis in range(num_dims))
    affine = np.eye(4)
    for axis in range(min(num_dims, 3)):
        if image_io.GetSpacing(axis) < 0:
            raise InputError(
                f"{path}: voxel size must be positive, got {image_io.GetSpacing(axis):.4g} mm; write the header anew"
            )
        direction = list(image_io.GetDirection(axis))[:3]
        affine[: len(direction), axis] = np.array(direction) * image_io.GetSpacing(axis)
        affine[axis, 3] = image_io.GetOrigin(axis)
    is_oriented = not warnings
    is_exact = not {"byte skip", "line skip", "headersize"} & {*fields} and fields.get("encoding") in (
        None,
        "raw",
        "gzip",
    )
    warnings += check_length(path, math.prod(shape) * channels * image_io.GetComponentSize(), is_exact)
    parts = {"warnings": warnings, "is_oriented": is_oriented, "channels": channels}
    return shape, _LPS @ affine, parts  # ITK's world is LPS


def _check_fields(path: Path, fields: dict[str, str], num_dims: int) -> tuple[str, ...]:
    """Refuse what ITK passes over in an NRRD or MetaImage header; return warnings of what the header leaves open."""
    for name in ("spacings", "ElementSpacing", "ElementSize", "TransformMatrix", "Offset", "Position", "Origin"):
        _check_numbers(path, name, fields.get(name.lower(), ""))
    if path.name.lower().endswith(".nrrd"):
        units = set(re.findall(r"\w+", fields.get("space units", ""))) - {"mm"}
        space = fields.get("space", "none").lower()
        directions = [part for part in fields.get("space directions", "").split() if part != "none"]
        has_spacing = bool(directions) or "spacings" in fields
        is_oriented = space.removesuffix("-time") in _NRRD_SPACES and bool(directions)
        unknown = f"space must be right-anterior-superior or its like, got {space}"
        encoding = fields.get("encoding", "raw").lower()
        if encoding not in _NRRD_ENCODINGS:
            raise InputError(f"{path}: encoding must be raw, gzip, ascii or hex, got {encoding}; convert the file")
    else:
        _check_metaimage(path, fields)
        units = {fields.get("distanceunits", "mm")} - {"mm", "?"}
        spacing, size = (fields.get(name, "").split()[:num_dims] for name in ("elementspacing", "elementsize"))
        has_spacing, is_oriented = (
            bool(spacing or size),
            {"transformmatrix", "orientation", "rotation"} & {*fields} != set(),
        )
        unknown = "there is no TransformMatrix"
        if spacing and size and [*map(float, spacing)] != [*map(float, size)]:
            raise InputError(
                f"{path}: ElementSpacing and ElementSize must be alike, got {spacing} and {size}; mend the header"
            )
    if units:
        raise InputError(f"{path}: voxel size must be in mm, got {', '.join(sorted(units))}; convert the file")
    if not has_spacing:
        raise InputError(f"{path}: {_MISSING_SPACING}")
    return () if is_oriented else (f"orientation is unknown, since {unknown}; left and right may be swapped",)


def _check_numbers(path: Path, name: str, text: str) -> None:
    """Refuse text that is no list of finite numbers; ITK takes 0 or 1 for it, and for what follows."""
    for word in text.split():
        try:
            is_finite = math.isfinite(float(word))
        except ValueError:
            is_finite = False
        if not is_finite:
            raise InputError(f"{path}: {name} must be finite numbers, got {text}; mend the header")


def _check_metaimage(path: Path, fields: dict[str, str]) -> None:
    """Refuse voxels that ITK would decode to other ones, or not at all."""
    if fields.get("binarydata", "true").lower() == "false":
        raise InputError(f"{path}: voxels must be binary (BinaryData), got text; convert the file")
    scale = [fields.get(f"elementtointensityfunction{name}", default) for name, default in _META_SCALE.items()]
    if [*map(float, scale)] != [*map(float, _META_SCALE.values())]:
        raise InputError(
            f"{path}: intensities must be stored as they are, got ElementToIntensityFunctionSlope and Offset of "
            f"{' and '.join(scale)}, which programs pass over; scale the voxels"
        )
    source, offset, is_compressed = voxel_file(path)
    size = source.stat().st_size - offset
    if is_compressed and fields.get("compresseddatasize", "none") != str(size):
        raise InputError(
            f"{path}: CompressedDataSize must be the number of bytes, {size}, got "
            f"{fields.get('compresseddatasize', 'none')}; write the file again, or without compression"
        )
