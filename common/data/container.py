"""Files that hold voxels: what they are by their first bytes, where their voxels begin, and whether all are there."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import nibabel as nib

from common.cli import InputError, MissingFileError

__all__ = [
    "NIFTI_HEADERS",
    "NIFTI_SUFFIXES",
    "PICTURE_SUFFIX",
    "SUFFIXES",
    "check_gzip",
    "check_kind",
    "check_length",
    "find_reason",
    "half_of_pair",
    "name_kind",
    "read_fields",
    "refuse_voxels",
    "voxel_file",
]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".hdr", ".img")
PICTURE_SUFFIX = ".png"  # the only format of 2D images that keeps every value and has no grid in millimeters
NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")
NIFTI_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by their size in bytes

_CHUNK = 1 << 16  # bytes

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


def check_kind(path: Path, suffixes: Sequence[str]) -> str:
    """Return the suffix of a file whose first bytes are what that suffix says."""
    if path.is_symlink() and not path.exists():
        raise MissingFileError(f"{path}: must lead to a file, got a link to {path.readlink()}; mend or remove the link")
    if not path.is_file():
        found = "a folder without DICOM files" if path.is_dir() else "nothing there"
        raise MissingFileError(f"{path}: must be a file, got {found}; look at the path")
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    source = half_of_pair(path, ".hdr") if suffix == ".img" else path
    with source.open("rb") as file:
        head = file.read(1024)
    kind = name_kind(head)
    if suffix is None:
        raise InputError(f"{path}: name must end in {', '.join(suffixes)}, got {kind}; convert the file")
    if kind != _WANTED[".hdr" if suffix == ".img" else suffix]:
        raise InputError(f"{path}: a {suffix} file must be {_WANTED[suffix]}, got {kind}; copy or convert it again")
    return suffix


def name_kind(head: bytes) -> str:
    """Name what a file is by its first bytes."""
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if any(int.from_bytes(head[:4], order) in NIFTI_HEADERS for order in ("little", "big")):  # type: ignore[arg-type]
        return "a NIfTI image"
    if b"NDims" in head:
        return "a MetaImage"
    return next((kind for start, kind in _SIGNATURES.items() if head.lstrip().startswith(start)), "unknown data")


def half_of_pair(path: Path, suffix: str) -> Path:
    """Return one half of a pair `.hdr` and `.img`, in whichever case its suffix is."""
    for name in (suffix, suffix.upper()):
        if (half := path.with_suffix(name)).is_file():
            return half
    raise MissingFileError(f"{path}: must have its {suffix} file beside it, got none; copy it, too")


def voxel_file(path: Path) -> tuple[Path, int, bool]:
    """Return the file that holds the voxels, the byte at which they begin, and whether they are compressed.

    For NIfTI the byte is 0: header and voxels are compressed together, if they are.
    """
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        source = half_of_pair(path, ".img") if name.endswith((".hdr", ".img")) else path
        return source, 0, name.endswith(".gz")
    fields, offset = read_fields(path)
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


def read_fields(path: Path) -> tuple[dict[str, str], int]:
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


def check_length(path: Path, num_bytes: int, is_exact: bool = True) -> tuple[str, ...]:
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


def find_reason(error: BaseException) -> str:
    """Return the line of an error that tells most: the last of the many that ITK writes, but for that of the system."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1].strip() if lines else type(error).__name__


def refuse_voxels(path: Path, kind: str) -> NoReturn:
    raise InputError(f"{path}: voxels must be real numbers, one per channel, got {kind} voxels; convert the file")
