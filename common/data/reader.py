"""Reader of images: one for every format and every workflow, which trusts no header that it has not checked."""

from __future__ import annotations

import gzip
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.transforms import LoadImage
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from nibabel.volumeutils import apply_read_scaling
from PIL import Image

from common.cli import InputError

from .checks import check_grids
from .container import NIFTI_SUFFIXES, PICTURE_SUFFIX, SUFFIXES, check_gzip, find_reason, voxel_file
from .dicom import read_series
from .header import Header, check_header
from .nifti import nifti_start, read_nifti_header

__all__ = [
    "LoadVolume",
    "Paths",
    "case_id",
    "case_name",
    "check_name",
    "fingerprint",
    "note_fingerprint",
    "noted_fingerprint",
    "read_volume",
]

Paths = str | Path | Sequence[str | Path]

_ITK_TYPES = ("unsigned_char", "short", "unsigned_short", "int", "unsigned_int", "float", "double")
_HASHED_SIDE = 40  # voxels
_NAME_BYTES = 255  # that file systems take
_fingerprints: dict[tuple[str, ...], str] = {}


def read_volume(
    paths: Paths, allow_2d: bool = False, series: str | None = None
) -> tuple[np.ndarray, Header, dict[str, Any]]:
    """Read an image, each of its files once, and check headers, checksums and grids on the way.

    Args:
        paths: file or folder, see `check_header`, or a list of them, one for each channel or group of channels.
        allow_2d: see `check_header`.
        series: likewise.

    Returns:
        Voxels of shape `(C, H, W, D)` in the order and type of the file, its header, and metadata as MONAI's readers
        give it: `affine` (from voxel indices to RAS millimeters), `spatial_shape`, and more for who writes on its grid.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when `check_header` refuses a file, a checksum is wrong, or the files of an image differ in grid.
    """
    files = [Path(path) for path in ensure_tuple(paths)]
    headers = [check_header(file, allow_2d, series) for file in files]
    for file, header in zip(files[1:], headers[1:], strict=True):
        check_grids(headers[0], header, file, "channel", channels=None)
    parts = [_read_voxels(file, header) for file, header in zip(files, headers, strict=True)]
    for file, part in zip(files, parts, strict=True):
        if part.dtype.kind == "f" and part.dtype.itemsize > 4:
            _check_range(part, file)
    voxels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    _fingerprints[tuple(map(str, files))] = _hash(voxels)
    return voxels, headers[0], _metadata(files, headers)


def case_id(paths: Paths) -> str:
    """Return the name of a case: that of its file without folder and suffix, or of the folder of a DICOM series.

    A name may have dots, as a UID has. Where each channel has a file of its own, the number of the channel, such as
    `_0000`, is no part of the name.
    """
    files = [Path(path) for path in ensure_tuple(paths)]
    name = files[0].name
    suffix = next((suffix for suffix in (*SUFFIXES, PICTURE_SUFFIX) if name.lower().endswith(suffix)), "")
    stem = name[: len(name) - len(suffix)]
    return re.sub(r"_\d{4}$", "", stem) if len(files) > 1 else stem


def check_name(paths: Paths) -> None:
    """Refuse a path that no file system takes, or no line of a report."""
    path = Path(ensure_tuple(paths)[0])
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in str(path)):
        raise InputError(f"{str(path)!r}: path must be plain text in one line, got control characters; rename it")
    if (size := len(path.name.encode())) > _NAME_BYTES:
        raise InputError(f"{path}: name must have at most {_NAME_BYTES} bytes, got {size}; correct it")


def case_name(meta: Mapping[str, Any]) -> str:
    """Return the name of the case that an image belongs to, from its metadata; its files are called by it."""
    return str(meta.get("case_id") or case_id(str(meta["filename_or_obj"])))


def noted_fingerprint(paths: Paths) -> str | None:
    """Return the `fingerprint` of an image that was read before; None for another one."""
    return _fingerprints.get(tuple(map(str, ensure_tuple(paths))))


def note_fingerprint(paths: Paths, value: str) -> None:
    """Keep the `fingerprint` of an image that another process has read."""
    _fingerprints[tuple(map(str, ensure_tuple(paths)))] = value


def fingerprint(paths: Paths) -> str:
    """Return a checksum by which the same image is known in every format, however compressed.

    It is that of the size and of a part of the voxels, in their order: copies are found at no cost worth a word, and
    images that differ in those voxels alone are not told apart.
    """
    key = tuple(str(path) for path in ensure_tuple(paths))
    if key not in _fingerprints:
        read_volume(paths, allow_2d=True)
    return _fingerprints[key]


class LoadVolume(LoadImage):
    """Load an image as a `MetaTensor` of shape `(C, H, W, D)`, see `read_volume`.

    MONAI's own readers are left out: some look for packages, and warn where there are none.

    Args:
        allow_2d: see `check_header`.
        series: likewise.
    """

    def __init__(self, allow_2d: bool = False, series: str | None = None) -> None:
        self.auto_select = False
        self.image_only = True
        self.dtype = np.float32
        self.ensure_channel_first = True
        self.simple_keys = False
        self.pattern, self.sep = None, "."
        self.expanduser = True
        self.readers = [_VolumeReader(allow_2d, series)]


class _VolumeReader(ImageReader):
    """Reader that `LoadImage` asks."""

    def __init__(self, allow_2d: bool, series: str | None) -> None:
        self.allow_2d = allow_2d
        self.series = series

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Return the paths as they are: `LoadImage` hides the errors that are raised here."""
        return data

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        voxels, _, meta = read_volume(img, self.allow_2d, self.series)
        return voxels, meta


def _read_voxels(path: Path, header: Header) -> np.ndarray:
    """Return the voxels of one file, of shape `(C, H, W, D)`."""
    name = path.name.lower()
    if header.series is not None:
        voxels = read_series(header.series)
    elif name.endswith(PICTURE_SUFFIX):
        with Image.open(path) as picture:
            voxels = np.asarray(picture)
        voxels = voxels.swapaxes(0, 1)[:, :, None]
    elif name.endswith(NIFTI_SUFFIXES):
        voxels = _read_nifti(path)
    else:
        voxels = _read_itk(path, header.channels)
    if header.channels == 1:
        return voxels.reshape(header.shape, order="A")[None]
    return np.moveaxis(voxels.reshape((*header.shape, header.channels), order="A"), -1, 0)


def _read_nifti(path: Path) -> np.ndarray:
    """Return the voxels of a NIfTI file, scaled where its header says so; its checksum is compared on the way."""
    header = read_nifti_header(path)
    source, _, is_compressed = voxel_file(path)
    content = source.read_bytes()
    if is_compressed:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: compressed data must be intact, got {error}; copy the file again") from error
    shape, dtype, start = header.get_data_shape(), header.get_data_dtype(), nifti_start(path, header)
    voxels = np.frombuffer(content, dtype, int(np.prod(shape)), start).reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    if slope is not None:
        voxels = apply_read_scaling(voxels, slope, intercept)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _read_itk(path: Path, channels: int) -> np.ndarray:
    """Return the voxels of an NRRD or MetaImage file, channels last."""
    import itk  # takes a second to import, and most data is NIfTI

    check_gzip(path)
    try:
        image = _imread(path, channels)
    except RuntimeError as error:
        raise InputError(
            f"{path}: voxels must be readable, got {find_reason(error)}; copy or convert the file again"
        ) from error
    voxels = itk.array_from_image(image).T
    return voxels if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(voxels, 0, -1)


def _imread(path: Path, channels: int) -> Any:
    """Read an image by ITK, as 64-bit floats where it has no type of image for what the file holds."""
    import itk

    image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    is_scalar = image_io.GetPixelTypeAsString(image_io.GetPixelType()) == "scalar"  # or lists of one number
    component = image_io.GetComponentTypeAsString(image_io.GetComponentType())
    if channels == 1 and not (is_scalar and component in _ITK_TYPES):
        return itk.imread(str(path), itk.D)
    try:
        return itk.imread(str(path))
    except TypeError as error:
        raise InputError(f"{path}: voxels must be of a usual type, got lists of {component}; convert it") from error


def _check_range(voxels: np.ndarray, path: Path) -> None:
    """Refuse numbers that 32-bit floats cannot hold, and which would become infinite."""
    finite = voxels[np.isfinite(voxels)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    if largest > np.finfo(np.float32).max:
        raise InputError(f"{path}: intensities must fit a 32-bit float, got up to {largest:.4g}; scale them")


def _hash(voxels: np.ndarray) -> str:
    """Return a checksum of the size and of the values on a grid of about 40 voxels a side, as 32-bit floats."""
    steps = tuple(slice(None, None, max(size // _HASHED_SIDE, 1)) for size in voxels.shape[1:])
    digest = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(voxels[(slice(None), *steps)], np.float32).data)
    return digest.hexdigest()


def _metadata(files: Sequence[Path], headers: Sequence[Header]) -> dict[str, Any]:
    header = headers[0]
    return {
        MetaKeys.AFFINE: header.affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: header.affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(header.shape[:2] if header.is_2d else header.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        "nifti": {name: value.tolist() for name, value in header.nifti.items()},
        "is_oriented": header.is_oriented,
        "series": header.series.uid if header.series else "",
        "stated_modality": header.series.modality if header.series else "",
        "has_palette": files[0].suffix.lower() == PICTURE_SUFFIX and _has_palette(files[0]),
        "warnings": "\n".join(warning for part in headers for warning in part.warnings),
    }


def _has_palette(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.mode == "P"
