"""Headers of image files: what a file is, where its voxels lie in the world, and whether both make sense."""

from __future__ import annotations

import functools
import gzip
import itertools
import logging
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from common.cli import InputError, MissingFileError

from .dicom import Series, check_series, is_dicom

__all__ = [
    "PICTURE_SUFFIX",
    "SUFFIXES",
    "Header",
    "check_gzip",
    "check_header",
    "corner_distance",
    "find_reason",
    "nifti_start",
    "read_nifti_header",
    "voxel_file",
    "warn_once",
]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".hdr", ".img")
PICTURE_SUFFIX = ".png"  # the only format of 2D images that keeps every value and has no grid in millimeters
NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16  # bytes
_FIELD_OF_VIEW_MM = (5.0, 3000.0)  # of the longest side: a crop of a mouse, a whole patient
_TENTH = 0.1  # voxels, by which two statements about a grid may differ
_QUATERNION_ROUNDING = 1e-3  # by which the squares of a rounded quaternion may exceed 1
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NRRD_SPACES = {  # in which ITK knows where the patient's left and front are
    *("right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"),
}
_NRRD_ENCODINGS = ("raw", "gzip", "gz", "ascii", "text", "txt", "hex")  # which ITK decodes
_META_SCALE = {"slope": "1", "offset": "0"}
_MISSING_SPACING = "voxel size must be in the header, got none; write it with the program that made the file"

_SIGNATURES = {
    b"\x1f\x8b": "gzip data",
    b"NRRD": "an NRRD image",
    b"PK\x03\x04": "a ZIP archive",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer",
    b"<": "an HTML or XML page",
}

_WANTED = {
    ".nii.gz": "gzip data",
    ".nii": "a NIfTI image",
    ".hdr": "a NIfTI image",
    ".nrrd": "an NRRD image",
    ".mha": "a MetaImage",
    ".mhd": "a MetaImage",
    PICTURE_SUFFIX: "a PNG picture",
}

_NIFTI_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


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
        suffix = _check_kind(path, (*SUFFIXES, PICTURE_SUFFIX) if allow_2d else SUFFIXES)
        if suffix == PICTURE_SUFFIX:
            return _check_picture(path)
        try:
            parts = _read_nifti(path) if suffix in NIFTI_SUFFIXES else _read_itk(path)
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


def find_reason(error: BaseException) -> str:
    """Return the line of an error that tells most: the last of the many that ITK writes, but for that of the system."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1].strip() if lines else type(error).__name__


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning the first time that it is given; a file is looked at several times in a run."""
    logger.warning(text)


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return by how many voxels of the first of two grids their corner voxels lie apart at most.

    Args:
        first: affine, `(4, 4)`.
        second: likewise.
        shape: voxels along each axis of both.
    """
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))], dtype=float)
    apart = np.linalg.solve(first[:3, :3], (corners @ (first - second)[:3, :3].T + (first - second)[:3, 3]).T)
    return float(np.abs(apart).max())


def check_gzip(path: str | Path) -> int:
    """Decompress a file to its end, which alone finds a flipped bit, and return the number of bytes it held.

    Works for `.nii.gz` and for compressed `.nrrd`, `.mha` and `.mhd`; files without compression, and so without a
    checksum, return their number of bytes.

    Raises:
        ValueError: when the stream is cut short or its checksum is wrong.
    """
    source, offset, is_compressed = voxel_file(Path(path))
    if not is_compressed:
        return source.stat().st_size - offset
    size = 0
    inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
    try:
        with source.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                while chunk.strip(b"\0") or (chunk and not inflater.eof):
                    if inflater.eof:  # a file may hold several streams, and zeros after them
                        inflater = zlib.decompressobj(wbits=47)
                    size += len(inflater.decompress(chunk))
                    chunk = inflater.unused_data
    except zlib.error as error:
        raise InputError(f"{path}: compressed data must be intact, got {error}; copy the file again") from error
    if not inflater.eof:
        raise InputError(f"{path}: compressed data must be complete, got {size} bytes and no end; copy the file again")
    return size


def voxel_file(path: Path) -> tuple[Path, int, bool]:
    """Return the file that holds the voxels, the byte at which they begin, and whether they are compressed.

    For NIfTI the byte is 0: header and voxels are compressed together, if they are.
    """
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        source = _half(path, ".img") if name.endswith((".hdr", ".img")) else path
        return source, 0, name.endswith(".gz")
    fields, offset = _read_fields(path)
    is_compressed = (
        fields.get("encoding", "").lower() in ("gzip", "gz") or fields.get("compresseddata", "").lower() == "true"
    )
    separate = fields.get("data file", fields.get("datafile", fields.get("elementdatafile", "LOCAL")))
    if separate == "LOCAL":
        return path, offset, is_compressed
    if separate.split()[:1] == ["LIST"] or "%" in separate:
        raise InputError(f"{path}: voxels must lie in one file, got several, {separate}; convert the file")
    if not (path.parent / separate).is_file():
        raise MissingFileError(f"{path}: voxels must lie in {separate}, got no such file; copy it, too")
    return path.parent / separate, 0, is_compressed


def read_nifti_header(path: Path) -> nib.Nifti1Header:
    """Read a NIfTI header as it stands in the file; `nibabel.load` would repair some of it in silence."""
    source = _half(path, ".hdr") if path.name.lower().endswith((".hdr", ".img")) else path
    with gzip.open(source) if source.name.lower().endswith(".gz") else source.open("rb") as file:
        block = file.read(540)
    sizes = {order: int.from_bytes(block[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    order = next((order for order, size in sizes.items() if size in _NIFTI_HEADERS), None)
    if order is None or len(block) < sizes[order]:
        raise InputError(
            f"{path}: must hold a whole NIfTI header, got {len(block)} bytes of {_name_kind(block)}; copy it again"
        )
    header = _NIFTI_HEADERS[sizes[order]](block[: sizes[order]], endianness=order, check=False)
    magic, is_pair = bytes(header["magic"].item()).rstrip(b"\0 \r\n\x1a"), source.suffix.lower() == ".hdr"
    if magic not in ((b"ni1", b"ni2") if is_pair else (b"n+1", b"n+2")):
        what = "an ANALYZE header, which has no orientation" if is_pair and not magic.strip() else f"{magic!r}"
        raise InputError(
            f"{path}: header must be that of a NIfTI {'pair' if is_pair else 'file'}, got {what}; convert it"
        )
    return header


def nifti_start(path: Path, header: nib.Nifti1Header) -> int:
    """Return the byte at which the voxels begin; 0 stands for the end of the header where one file holds both."""
    is_pair = path.name.lower().endswith((".hdr", ".img"))
    least = 0 if is_pair else int(header["sizeof_hdr"]) + 4  # four bytes tell of extensions
    start = float(header["vox_offset"])
    if start != 0 and not (start >= least and start.is_integer()):
        raise InputError(
            f"{path}: voxels must begin at a whole byte from {least} on (vox_offset), got {start:g}; write the header "
            "anew"
        )
    return int(start) or least


def _half(path: Path, suffix: str) -> Path:
    """Return one half of a pair `.hdr` and `.img`, in whichever case its suffix is."""
    for name in (suffix, suffix.upper()):
        if (half := path.with_suffix(name)).is_file():
            return half
    raise MissingFileError(f"{path}: must have its {suffix} file beside it, got none; copy it, too")


def _check_kind(path: Path, suffixes: Sequence[str]) -> str:
    """Return the suffix of a file whose first bytes are what that suffix says."""
    if path.is_symlink() and not path.exists():
        raise MissingFileError(f"{path}: must lead to a file, got a link to {path.readlink()}; mend or remove the link")
    if not path.is_file():
        found = "a folder without DICOM files" if path.is_dir() else "nothing there"
        raise MissingFileError(f"{path}: must be a file, got {found}; look at the path")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    source = _half(path, ".hdr") if suffix == ".img" else path
    with source.open("rb") as file:
        head = file.read(1024)
    kind = _name_kind(head)
    if suffix is None:
        raise InputError(f"{path}: name must end in {', '.join(suffixes)}, got {kind}; convert the file")
    if kind != _WANTED[".hdr" if suffix == ".img" else suffix]:
        raise InputError(f"{path}: a {suffix} file must be {_WANTED[suffix]}, got {kind}; copy or convert it again")
    return suffix


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


def _name_kind(head: bytes) -> str:
    """Name what a file is by its first bytes."""
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if any(int.from_bytes(head[:4], order) in _NIFTI_HEADERS for order in ("little", "big")):  # type: ignore[arg-type]
        return "a NIfTI image"
    if b"NDims" in head:
        return "a MetaImage"
    return next((kind for start, kind in _SIGNATURES.items() if head.lstrip().startswith(start)), "unknown data")


def _read_nifti(path: Path) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
    """Return shape, affine and other parts of a `Header`."""
    header = read_nifti_header(path)
    if int(header["datatype"]) not in nib.nifti1.data_type_codes.value_set("code"):
        raise InputError(
            f"{path}: data type must be one that NIfTI knows, got code {header['datatype']}; convert the file again"
        )
    _check_nifti(path, header)
    shape, dtype = tuple(int(size) for size in header.get_data_shape()), header.get_data_dtype()
    unit = header.get_xyzt_units()[0]
    if dtype.kind not in "iuf":
        _refuse_voxels(path, "complex" if dtype.kind == "c" else "color or other compound")
    pixdim = header["pixdim"][1 : 1 + min(len(shape), 3)]
    if not np.isfinite(pixdim).all() or not pixdim.all():
        raise InputError(f"{path}: voxel size must be finite and not 0, got {_mm(pixdim)}; write the header anew")
    affine, parts = _locate_nifti(path, header, shape[:3])
    if unit in ("meter", "micron"):
        scale = 1e3 if unit == "meter" else 1e-3
        extent = np.array(shape[:3]) * np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)] * scale
        raise InputError(
            f"{path}: voxel size must be in mm, got {unit}s and a field of view of {_mm(extent)}; convert the file"
        )
    if min(shape, default=0) > 0:  # others are refused later
        num_bytes = math.prod(shape) * dtype.itemsize
        parts["warnings"] += _check_length(path, nifti_start(path, header) + num_bytes)
    return shape, affine, parts


def _check_nifti(path: Path, header: nib.Nifti1Header) -> None:
    """Refuse fields without a meaning, which one program passes over and another does not."""
    if int(header["dim"][0]) not in range(1, 8):
        raise InputError(
            f"{path}: number of dimensions (dim[0]) must be 1 to 7, got {header['dim'][0]}; write the header anew"
        )
    for name in ("sform_code", "qform_code"):
        if int(header[name]) not in nib.nifti1.xform_codes.value_set("code"):
            raise InputError(f"{path}: {name} must be 0 to 5, got {header[name]}; write the grid anew")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = slope != 0 and not math.isnan(slope)
    if is_scaled and not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(
            f"{path}: intensities must be scaled by finite numbers (scl_slope, scl_inter), got {slope:g} and "
            f"{intercept:g}; write the header anew"
        )


def _locate_nifti(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the affine by NIfTI's own rules: the sform if it has a code, else the qform, else the voxel size alone."""
    sizes = np.abs(header["pixdim"][1:4].astype(float))
    sizes[len(shape) :] = 1.0
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    warnings = []
    if (header["pixdim"][1:4] < 0).any():
        warnings.append(f"pixdim is negative ({_mm(header['pixdim'][1:4])}), its absolute value is used")
    if has_sform:
        affine = header.get_sform().astype(float)
        if not affine[:3].any():
            raise InputError(
                f"{path}: affine must map voxels to millimeters, got an sform of zeros; write the grid anew"
            )
    elif has_qform:
        affine = _qform(path, header, sizes)
    else:
        affine = np.diag([*sizes, 1.0])
        warnings.append(
            "orientation is unknown, since neither sform nor qform has a code; left and right may be swapped"
        )
    if has_sform and np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0:
        whole = (*shape, 1, 1, 1)[:3]
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        off = float(np.abs((edges - sizes) / edges * (np.array(whole) - 1)).max())
        if off > _TENTH:
            warnings.append(
                f"sform has voxels of {_mm(edges)} and is used, though pixdim says {_mm(sizes)}: "
                f"{off:.2g} voxels apart at a corner"
            )
        elif has_qform:
            off = _sform_to_qform(header, affine, sizes, whole)
            if not off <= _TENTH:
                where = f"lies {off:.2g} voxels off at a corner" if np.isfinite(off) else "makes no sense"
                warnings.append(f"sform is used, though the qform {where}")
    fields = ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units")
    places = (*fields, *(f"{name}_{axis}" for name, axes in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in axes))
    return affine, {
        "warnings": tuple(warnings),
        "nifti": {name: np.array(header[name]) for name in places},
        "is_oriented": has_sform or has_qform,
    }


def _qform(path: Path, header: nib.Nifti1Header, sizes: np.ndarray) -> np.ndarray:
    """Return the affine of a qform: a `qfac` of 0 counts as 1, and a quaternion may be too long by rounding."""
    qfac = float(header["pixdim"][0])
    if qfac not in (-1.0, 0.0, 1.0):
        raise InputError(f"{path}: qfac (pixdim[0]) must be 1 or -1, got {qfac:g}; write the grid anew")
    vector = np.array([header[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    square = float(vector @ vector)
    if not square <= 1 + _QUATERNION_ROUNDING:
        raise InputError(f"{path}: quaternion must have length 1, got {square**0.5:.4g}; write the grid anew")
    vector /= max(square, 1.0) ** 0.5
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([max(1 - square, 0.0) ** 0.5, *vector]) * (
        *sizes[:2],
        -sizes[2] if qfac < 0 else sizes[2],
    )
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _sform_to_qform(header: nib.Nifti1Header, affine: np.ndarray, sizes: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far, in voxels, the qform lies from the sform at a corner; infinity when it makes no sense."""
    try:
        return corner_distance(affine, _qform(Path(), header, sizes), shape)
    except InputError:
        return np.inf


def _read_itk(path: Path) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
    """Return shape, affine and other parts of the `Header` of an NRRD or MetaImage file."""
    import itk  # takes a second to import, and most data is NIfTI

    image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise InputError(f"{path}: header must be readable, got one that ITK does not know; convert the file again")
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    pixel, channels = image_io.GetPixelTypeAsString(image_io.GetPixelType()), image_io.GetNumberOfComponents()
    if pixel not in ("scalar", "vector", "rgb", "rgba", "covariant_vector", "point", "offset"):
        _refuse_voxels(path, f"{channels}-component {pixel.replace('_', ' ')}")
    num_dims = image_io.GetNumberOfDimensions()
    fields = _read_fields(path)[0]
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
    warnings += _check_length(path, math.prod(shape) * channels * image_io.GetComponentSize(), is_exact)
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


def _read_series(path: Path, series: str | None) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
    found = check_series(path, series)
    return found.shape, found.affine, {"series": found, "warnings": found.warnings}


def _refuse_voxels(path: Path, kind: str) -> NoReturn:
    raise InputError(f"{path}: voxels must be real numbers, one per channel, got {kind} voxels; convert the file")


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the lines of text that open an NRRD or MetaImage file, by lower-case key, and where they end."""
    is_nrrd = path.name.lower().endswith(".nrrd")
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in file:
            if is_nrrd and not line.strip():
                break
            key, _, value = line.decode("latin-1").partition(":" if is_nrrd else "=")
            fields[key.strip().lower()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
        return fields, file.tell()


def _check_length(path: Path, num_bytes: int, is_exact: bool = True) -> tuple[str, ...]:
    """Refuse a file with fewer than `num_bytes` bytes of voxels (of header and voxels for NIfTI); warn of more.

    Args:
        path: of the image.
        num_bytes: that its header announces.
        is_exact: whether the file should hold nothing else.
    """
    source, offset, is_compressed = voxel_file(path)
    size = source.stat().st_size - offset
    if is_compressed:
        with source.open("rb") as file:
            file.seek(-4, 2)
            trailer = int.from_bytes(file.read(), "little")  # gzip: what the last stream held, modulo 2^32
        size = num_bytes if trailer == num_bytes % 2**32 else check_gzip(path)
    if size < num_bytes:
        raise InputError(
            f"{path}: must hold the {num_bytes} bytes its header announces, got {size}; it is truncated, copy it again"
        )
    if is_exact and size > num_bytes:
        return (f"holds {size - num_bytes} bytes more than its header announces, which are not read",)
    return ()


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
        raise InputError(f"{path}: voxel size must not be 0, got {_mm(spacing)}; write the grid anew")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"{path}: affine must be invertible, got {affine.tolist()}; write the grid anew")
    extent = spacing * shape
    low, high = _FIELD_OF_VIEW_MM
    if not low <= extent.max() <= high:
        raise InputError(
            f"{path}: field of view must be between {low:g} and {high:g} mm, got {_mm(extent)}; are voxels in mm?"
        )
    return Header(shape, affine, tuple(spacing.tolist()), **parts)


def _mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
