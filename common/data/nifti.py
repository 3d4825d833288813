"""Headers of NIfTI files, whose grid is taken by NIfTI's own rules."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat

from common.cli import InputError

from .container import NIFTI_HEADERS, check_length, half_of_pair, name_kind, refuse_voxels
from .grid import corner_distance, format_mm

__all__ = ["nifti_start", "read_nifti_grid", "read_nifti_header"]

_TENTH = 0.1  # voxels, by which two statements about a grid may differ
_NO_SCALAR = 3 * float(np.finfo(np.float32).eps)  # below which 1 minus these squares is rounding: half a turn
_QUATERNION_ROUNDING = 1e-3  # by which the squares of a rounded quaternion may exceed 1


def read_nifti_header(path: Path) -> nib.Nifti1Header:
    """Read a NIfTI header as it stands in the file; `nibabel.load` would repair some of it in silence."""
    source = half_of_pair(path, ".hdr") if path.name.lower().endswith((".hdr", ".img")) else path
    with gzip.open(source) if source.name.lower().endswith(".gz") else source.open("rb") as file:
        block = file.read(540)
    sizes = {order: int.from_bytes(block[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    order = next((order for order, size in sizes.items() if size in NIFTI_HEADERS), None)
    if order is None or len(block) < sizes[order]:
        raise InputError(
            f"{path}: must hold a whole NIfTI header, got {len(block)} bytes of {name_kind(block)}; copy it again"
        )
    header = NIFTI_HEADERS[sizes[order]](block[: sizes[order]], endianness=order, check=False)
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


def read_nifti_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray, dict[str, Any]]:
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
        refuse_voxels(path, "complex" if dtype.kind == "c" else "color or other compound")
    pixdim = header["pixdim"][1 : 1 + min(len(shape), 3)]
    if not np.isfinite(pixdim).all() or not pixdim.all():
        raise InputError(f"{path}: voxel size must be finite and not 0, got {format_mm(pixdim)}; write the header anew")
    affine, parts = _locate_nifti(path, header, shape[:3])
    if unit in ("meter", "micron"):
        scale = 1e3 if unit == "meter" else 1e-3
        extent = np.array(shape[:3]) * np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)] * scale
        raise InputError(
            f"{path}: voxel size must be in mm, got {unit}s and a field of view of {format_mm(extent)}; convert it"
        )
    if min(shape, default=0) > 0:  # others are refused later
        num_bytes = math.prod(shape) * dtype.itemsize
        parts["warnings"] += check_length(path, nifti_start(path, header) + num_bytes)
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
        warnings.append(f"pixdim is negative ({format_mm(header['pixdim'][1:4])}), its absolute value is used")
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
                f"sform has voxels of {format_mm(edges)} and is used, though pixdim says {format_mm(sizes)}: "
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
    scalar = 1 - square if 1 - square > _NO_SCALAR else 0.0
    affine[:3, :3] = quat2mat([scalar**0.5, *vector]) * (
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
