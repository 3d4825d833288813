"""Checks of what a volume must be before any work starts on it: its file, header, voxels and labels."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from common.cli import InputError, MissingFileError

__all__ = [
    "Header",
    "PICTURE_SUFFIX",
    "SUFFIXES",
    "check_grids",
    "check_gzip",
    "check_header",
    "check_hounsfield",
    "check_image",
    "check_label",
]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
PICTURE_SUFFIX = ".png"  # the only format of 2D images that keeps every value and has no grid in millimeters

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16  # bytes
_FIELD_OF_VIEW_MM = (5.0, 3000.0)  # of the longest side: a crop of a mouse, a whole patient
_GRID_TOLERANCE = 1e-2  # voxels
_ROUNDING = 1e-2  # how far a label may lie from a whole number

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
    ".nrrd": "an NRRD image",
    ".mha": "a MetaImage",
    ".mhd": "a MetaImage",
    PICTURE_SUFFIX: "a PNG picture",
}

_NIFTI_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True)
class Header:
    """Grid of a volume.

    Attributes:
        shape: voxels along each spatial axis.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        spacing: edges of a voxel in mm.
        channels: numbers that each voxel holds.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    spacing: tuple[float, ...]
    channels: int = 1


def check_header(path: str | Path, allow_2d: bool = False) -> Header:
    """Read the header of an image file and refuse what no segmentation could be right for.

    Costs well below 5 ms for NIfTI, whatever the size of the volume; the voxels stay unread.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd` file; axes of length 1 beyond the third are dropped.
        allow_2d: take a 2D image, and a `.png` file of any number of channels, for a volume with one slice. A PNG is
            read to its end; see `EnsureVolume` for its grid.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not what its name says, is cut short, holds complex or color voxels, or has a
            shape, affine, unit or field of view that is not a volume's.
    """
    path = Path(path)
    suffix = _check_kind(path, (*SUFFIXES, PICTURE_SUFFIX) if allow_2d else SUFFIXES)
    if suffix == PICTURE_SUFFIX:
        return _check_picture(path)
    try:
        shape, affine = _read_nifti(path) if suffix in (".nii", ".nii.gz") else _read_itk(path)
    except FileNotFoundError:  # the voxels of an .mhd file
        raise
    except (HeaderDataError, OSError, EOFError, zlib.error, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # ITK writes many lines
        raise InputError(f"{path}: header must be readable, got {reason}") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if allow_2d and len(shape) == 2:
        shape = (*shape, 1)
    return _check_geometry(path, shape, affine)


def check_gzip(path: str | Path) -> int:
    """Decompress a file to its end, which alone finds a flipped bit, and return the number of bytes it held.

    nibabel stops before the checksum. Works for `.nii.gz` and for compressed `.nrrd`, `.mha` and `.mhd`; files without
    compression, and so without a checksum, return their number of bytes.

    Raises:
        ValueError: when the stream is cut short or its checksum is wrong.
    """
    source, offset, is_compressed = _find_payload(Path(path))
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


def check_grids(image: Header, label: Header, path: str | Path, name: str = "label") -> None:
    """Refuse the label at `path`, or what else it is called, unless it lies on the grid of its image.

    The shapes must be the same, and the affines but for a hundredth of a voxel.
    """
    if label.shape != image.shape:
        raise InputError(f"{path}: {name} must have the shape of its image {image.shape}, got {label.shape}")
    difference = float(np.abs(label.affine - image.affine).max())
    if difference > _GRID_TOLERANCE * min(image.spacing):
        raise InputError(f"{path}: {name} must have the affine of its image, got a difference of {difference:.4g} mm")


def check_image(array: np.ndarray, path: str | Path) -> str | None:
    """Refuse no voxels, NaN, Inf and what 32-bit floats cannot hold; return a warning of a constant image."""
    if array.size == 0:
        raise InputError(f"{path}: image must hold voxels, got shape {array.shape}")
    if array.dtype.kind == "f":
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            nans = np.count_nonzero(np.isnan(array))
            raise InputError(
                f"{path}: every voxel must be finite, got {nans} NaN and {bad - nans} infinite; repair the file, or "
                "pass nan: replace"
            )
    low, high = array.min(), array.max()
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        raise InputError(f"{path}: intensities must fit a 32-bit float, got {low:.4g} to {high:.4g}")
    return f"{path}: image is constant, every voxel is {low:.6g}" if low == high else None


def check_label(array: np.ndarray, path: str | Path, labels: int | Sequence[int] | None = None) -> np.ndarray:
    """Return a label map as whole numbers, of the smallest type that holds every label; warn when it is empty.

    Args:
        array: label map; values within 0.01 of a whole number are rounded, with a warning.
        path: name for the errors.
        labels: number of classes, background included, or the allowed values; None allows all.

    Raises:
        ValueError: when a value is NaN, not whole, or not allowed.
    """
    if array.size == 0:
        raise InputError(f"{path}: label must hold voxels, got shape {array.shape}")
    whole = _round(array, path) if array.dtype.kind == "f" else array
    allowed = list(range(labels)) if isinstance(labels, int) else [int(label) for label in labels or ()]
    low, high = min(whole.min(), *allowed, 0), max(whole.max(), *allowed, 0)
    types = [name for name in ("uint8", "int16", "int32") if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if not types:
        raise InputError(f"{path}: labels must be whole numbers of 32 bits, got {_list(whole)}")
    small = whole.astype(types[0])
    if labels is not None and not (is_allowed := np.isin(small, allowed, kind="table")).all():
        raise InputError(f"{path}: labels must be among {allowed}, got {_list(small[~is_allowed])}")
    if not small.any():
        logger.warning("%s: label is empty, every voxel is background", path)
    return small


def check_hounsfield(array: np.ndarray, path: str | Path) -> None:
    """Warn when intensities said to be Hounsfield units cannot be: no air, or a window already applied."""
    low, high = float(array.min()), float(array.max())
    if low >= 0 or (low > -200 and high <= 255):
        logger.warning("%s: a CT must be in Hounsfield units, with air near -1000, got %.4g to %.4g", path, low, high)


def _round(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Return whole numbers, still as floats."""
    rounded = np.rint(array)
    if not np.array_equal(rounded, array):
        is_near = np.abs(array - rounded) <= _ROUNDING  # never for NaN
        if not is_near.all():
            raise InputError(f"{path}: labels must be whole numbers, got {_list(array[~is_near])}")
        logger.warning("%s: labels up to %.2g off a whole number are rounded", path, np.abs(array - rounded).max())
    return rounded


def _list(values: np.ndarray, limit: int = 8) -> str:
    """Write down the first few different values."""
    different = np.unique(values)
    return ", ".join(f"{value:.6g}" for value in different[:limit]) + (", ..." if len(different) > limit else "")


def _check_kind(path: Path, suffixes: Sequence[str]) -> str:
    """Return the suffix of a file whose first bytes are what that suffix says."""
    if not path.is_file():
        raise MissingFileError(f"{path}: must be a file, got {'a folder' if path.is_dir() else 'nothing there'}")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    with path.open("rb") as file:
        head = file.read(1024)
    kind = _name_kind(head)
    if suffix is None:
        raise InputError(f"{path}: name must end in {', '.join(suffixes)}, got {kind}")
    if kind != _WANTED[suffix]:
        raise InputError(f"{path}: a {suffix} file must be {_WANTED[suffix]}, got {kind}")
    return suffix


def _check_picture(path: Path) -> Header:
    """Return the grid of a PNG file whose checksums are right."""
    try:
        with Image.open(path) as picture:
            size = picture.size
            picture.verify()
    except (OSError, SyntaxError, EOFError, ValueError, zlib.error) as error:  # what Pillow raises for damage
        raise InputError(f"{path}: PNG must be intact, got {error}; copy the file again") from error
    if max(size) == 1:
        raise InputError(f"{path}: must hold more than one pixel, got {size}")
    return Header((*size, 1), np.diag([-1.0, -1.0, 1.0, 1.0]), (1.0, 1.0, 1.0))


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


def _read_nifti(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine as they stand in the file; `nibabel.load` would repair some of them in silence."""
    is_compressed = path.name.lower().endswith(".gz")
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        block = file.read(540)
    sizes = {order: int.from_bytes(block[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    order = next((order for order, size in sizes.items() if size in _NIFTI_HEADERS), None)
    if order is None or len(block) < sizes[order]:
        raise InputError(f"{path}: must hold a whole NIfTI header, got {len(block)} bytes of {_name_kind(block)}")
    header_class = _NIFTI_HEADERS[sizes[order]]
    header = header_class(block[: sizes[order]], endianness=order, check=False)

    if int(header["datatype"]) not in nib.nifti1.data_type_codes.value_set("code"):
        raise InputError(f"{path}: data type must be one that NIfTI knows, got code {header['datatype']}")
    shape, dtype = tuple(int(size) for size in header.get_data_shape()), header.get_data_dtype()
    unit = header.get_xyzt_units()[0]
    if dtype.kind not in "iuf":
        _refuse_voxels(path, "complex" if dtype.kind == "c" else "color or other compound")
    pixdim = header["pixdim"][1 : 1 + min(len(shape), 3)]
    if not np.isfinite(pixdim).all() or not pixdim.all():
        raise InputError(f"{path}: voxel size must not be 0, got {tuple(pixdim.tolist())}")
    if header["sform_code"] > 0 and not header.get_sform()[:3].any():
        raise InputError(f"{path}: affine must map voxels to millimeters, got an sform of zeros")
    affine = header.get_best_affine()
    if unit in ("meter", "micron"):
        scale = 1e3 if unit == "meter" else 1e-3
        field = np.array(shape[:3]) * np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)] * scale
        raise InputError(f"{path}: voxel size must be in mm, got {unit}s and a field of view of {_mm(field)}")
    _check_length(path, max(int(header.get_data_offset()), 352) + int(np.prod(shape)) * dtype.itemsize)
    return shape, affine


def _read_itk(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Return shape and affine of an NRRD or MetaImage file."""
    import itk  # takes a second to import, and most data is NIfTI

    image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise InputError(f"{path}: header must be readable, got one that ITK does not know")
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    pixel, components = image_io.GetPixelTypeAsString(image_io.GetPixelType()), image_io.GetNumberOfComponents()
    if components != 1:
        _refuse_voxels(path, f"{components}-component {pixel.replace('_', ' ')}")
    units = set(re.findall(r"\w+", _read_fields(path)[0].get("space units", ""))) - {"mm"}
    if units:
        raise InputError(f"{path}: voxel size must be in mm, got {', '.join(sorted(units))}")
    num_dims = image_io.GetNumberOfDimensions()
    shape = tuple(int(image_io.GetDimensions(axis)) for axis in range(num_dims))
    affine = np.eye(4)
    for axis in range(min(num_dims, 3)):
        if image_io.GetSpacing(axis) < 0:
            raise InputError(f"{path}: voxel size must be positive, got {image_io.GetSpacing(axis):.4g} mm")
        direction = list(image_io.GetDirection(axis))[:3]
        affine[: len(direction), axis] = np.array(direction) * image_io.GetSpacing(axis)
        affine[axis, 3] = image_io.GetOrigin(axis)
    _check_length(path, int(np.prod(shape)) * image_io.GetComponentSize())
    return shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world is LPS


def _refuse_voxels(path: Path, kind: str) -> NoReturn:
    raise InputError(f"{path}: voxels must be real numbers, one per voxel, got {kind} voxels")


def _find_payload(path: Path) -> tuple[Path, int, bool]:
    """Return the file that holds the voxels, the byte at which they begin, and whether they are compressed."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return path, 0, name.endswith(".gz")
    fields, offset = _read_fields(path)
    is_compressed = fields.get("encoding") in ("gzip", "gz") or fields.get("compresseddata", "").lower() == "true"
    separate = fields.get("data file", fields.get("datafile", fields.get("elementdatafile", "LOCAL")))
    if separate == "LOCAL":
        return path, offset, is_compressed
    if not (path.parent / separate).is_file():
        raise MissingFileError(f"{path}: voxels must lie in {separate}, got no such file")
    return path.parent / separate, 0, is_compressed


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


def _check_length(path: Path, num_bytes: int) -> None:
    """Refuse a file with fewer than `num_bytes` bytes of voxels (of header and voxels for NIfTI)."""
    source, offset, is_compressed = _find_payload(path)
    size = source.stat().st_size - offset
    if is_compressed:
        with source.open("rb") as file:
            file.seek(-4, 2)
            trailer = int.from_bytes(file.read(), "little")  # gzip: what the last stream held, modulo 2^32
        size = num_bytes if trailer == num_bytes % 2**32 else check_gzip(path)
    if size < num_bytes:
        raise InputError(f"{path}: must hold the {num_bytes} bytes its header announces, got {size}; it is truncated")


def _check_geometry(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> Header:
    if len(shape) != 3:
        raise InputError(f"{path}: must hold one volume of 3 dimensions, got shape {shape}")
    if min(shape) < 1:
        raise InputError(f"{path}: every dimension must hold a voxel, got shape {shape}")
    if max(shape) == 1:
        raise InputError(f"{path}: must hold more than one voxel, got shape {shape}")
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: affine must be finite, got {affine.tolist()}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not spacing.all():
        raise InputError(f"{path}: voxel size must not be 0, got {_mm(spacing)}")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise InputError(f"{path}: affine must be invertible, got {affine.tolist()}")
    field = spacing * shape
    low, high = _FIELD_OF_VIEW_MM
    if not low <= field.max() <= high:
        raise InputError(f"{path}: field of view must lie between {low:g} and {high:g} mm, got {_mm(field)}")
    return Header(shape, affine, tuple(spacing.tolist()))


def _mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
