"""Scans as users have them, also bad ones: writers of every format in which each field of the header may be wrong."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common.data import make_phantom

IMAGE, LABEL, AFFINE = make_phantom(3, 24)  # of which every scan here is a copy: axes to the front, the feet, the left
SIZES = np.linalg.norm(AFFINE[:3, :3], axis=0)

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NRRD_TYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "f4": "float", "f8": "double"}
_META_TYPES = {"i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE"}


def write_nifti(
    path: Path,
    voxels: np.ndarray = IMAGE,
    affine: np.ndarray = AFFINE,
    codes: tuple[int, int] = (1, 1),
    version: int = 1,
    order: str = "<",
    behind: bytes = b"",
    compress: Callable[[bytes], bytes] | None = None,
    **fields: Any,
) -> Path:
    """Write a NIfTI file, field by field as given, and return its path.

    Args:
        path: `.nii`, `.nii.gz`, or `.hdr` with its `.img`.
        voxels: of any shape that NIfTI can hold.
        affine: of sform and qform.
        codes: of sform and qform.
        version: of NIfTI, 1 or 2.
        order: of bytes, `<` or `>`.
        behind: bytes after the voxels.
        compress: what to do with the content, if not what the name of the file says.
        fields: raw values of fields of the header; indexed ones as a mapping, such as `pixdim={0: -1}`.
    """
    kind = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version]
    header = kind(endianness=order, check=False)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header["pixdim"][1 : 1 + voxels.ndim] = [*np.linalg.norm(affine[:3, :3], axis=0), 1.0, 1.0][: voxels.ndim]
    header.set_qform(affine, codes[1], strip_shears=True)
    header.set_sform(affine, codes[0])
    header.set_xyzt_units("mm")
    is_pair = path.suffix == ".hdr"
    start = 0 if is_pair else {1: 352, 2: 544}[version]
    header["magic"] = {1: b"ni1" if is_pair else b"n+1", 2: b"ni2" if is_pair else b"n+2"}[version]
    header["vox_offset"] = start
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    for name, value in fields.items():
        for index, part in value.items() if isinstance(value, dict) else [(..., value)]:
            header[name][index] = part
    block = header.binaryblock
    content = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F") + behind
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_pair:
        path.write_bytes(block + b"\0\0\0\0")
        path.with_suffix(".img").write_bytes(content)
        return path
    compress = compress or (gzip.compress if path.name.lower().endswith(".gz") else bytes)
    path.write_bytes(compress(block + b"\0" * max(start - len(block), 0) + content))
    return path


def write_nrrd(
    path: Path,
    voxels: np.ndarray = IMAGE,
    affine: np.ndarray = AFFINE,
    encode: Callable[[bytes], bytes] = bytes,
    **fields: str | None,
) -> Path:
    """Write an NRRD file and return its path.

    Args:
        path: `.nrrd`.
        voxels: of three dimensions, or of four with the channels first.
        affine: from indices of voxels to RAS millimeters.
        encode: what to do with the voxels.
        fields: of the header, with `_` for blanks; None leaves one out.
    """
    lps = _LPS @ affine
    directions = " ".join(f"({','.join(f'{value:.9g}' for value in lps[:3, axis])})" for axis in range(3))
    stated: dict[str, str | None] = {
        "type": _NRRD_TYPES[voxels.dtype.str[1:]],
        "dimension": str(voxels.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": directions if voxels.ndim == 3 else f"none {directions}",
        "kinds": " ".join([*["list"] * (voxels.ndim - 3), *["domain"] * 3]),
        "endian": "little" if voxels.dtype.str[0] != ">" else "big",
        "encoding": "raw",
        "space origin": f"({','.join(f'{value:.9g}' for value in lps[:3, 3])})",
    }
    stated |= {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in stated.items() if value is not None]
    head = "\n".join(["NRRD0004", *lines]).encode() + b"\n"
    content = encode(voxels.tobytes(order="F"))
    if stated.get("data file"):
        path.write_bytes(head)
        (path.parent / str(stated["data file"])).write_bytes(content)
    else:
        path.write_bytes(head + b"\n" + content)
    return path


def write_metaimage(
    path: Path,
    voxels: np.ndarray = IMAGE,
    affine: np.ndarray = AFFINE,
    encode: Callable[[bytes], bytes] = bytes,
    **fields: str | None,
) -> Path:
    """Write a MetaImage and return its path; arguments as those of `write_nrrd`, but `fields` with their own names."""
    lps = _LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    stated: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(f"{value:.9g}" for value in (lps[:3, :3] / sizes).T.ravel()),
        "Offset": " ".join(f"{value:.9g}" for value in lps[:3, 3]),
        "ElementSpacing": " ".join(f"{value:.9g}" for value in sizes),
        "DimSize": " ".join(map(str, voxels.shape[-3:])),
        "ElementType": _META_TYPES[voxels.dtype.str[1:]],
        "ElementDataFile": "LOCAL" if path.suffix == ".mha" else f"{path.stem}.raw",
    }
    last = fields.pop("ElementDataFile", stated.pop("ElementDataFile"))
    stated |= fields
    stated["ElementDataFile"] = last
    head = "".join(f"{name} = {value}\n" for name, value in stated.items() if value is not None).encode()
    content = encode(voxels.tobytes(order="F"))
    if path.suffix == ".mha":
        path.write_bytes(head + content)
    else:
        path.write_bytes(head)
        path.with_suffix(".raw").write_bytes(content)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flip_bit(path: Path, share: float = 0.5) -> Path:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 4
    path.write_bytes(bytes(content))
    return path


def turned(degrees: float, affine: np.ndarray = AFFINE) -> np.ndarray:
    """Return an affine that is turned about the patient's long axis, around the center of the scan."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    center = np.eye(4)
    center[:3, 3] = (affine @ [*(np.array(IMAGE.shape) - 1) / 2, 1])[:3]
    return center @ turn @ np.linalg.inv(center) @ affine


def to_png(volume: np.ndarray = IMAGE, dtype: type = np.uint8) -> np.ndarray:
    """Return the middle axial slice as gray values of rows and columns."""
    plane = volume[:, volume.shape[1] // 2].T.astype(float)
    return np.clip((plane + 200) / 600 * np.iinfo(dtype).max, 0, np.iinfo(dtype).max).astype(dtype)


def pack(form: str, *values: float) -> bytes:
    """Return numbers as bytes, for fields that must stand where no writer would put them."""
    return struct.pack(form, *values)
