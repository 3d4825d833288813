"""Scans as users have them, also bad ones: writers of every format in which each field of the header may be wrong."""

from __future__ import annotations

import bz2
import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from dicom_files import write_series
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from common.data import PHANTOM_LABELS, make_phantom, write_datalist

IMAGE, LABEL, AFFINE = make_phantom(3, 24)  # of which every scan here is a copy: axes to the front, the feet, the left
SIZES = np.linalg.norm(AFFINE[:3, :3], axis=0)

Maker = Callable[[Path], Any]  # which writes into a folder
Edit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # of voxels and their affine

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


def to_gray(dtype: type = np.uint8) -> np.ndarray:
    """Return the middle axial slice of the image as gray values of rows and columns."""
    plane = IMAGE[:, IMAGE.shape[1] // 2].T.astype(float)
    top = np.iinfo(dtype).max
    return np.clip((plane + 200) / 600 * top, 0, top).astype(dtype)


# ---- inputs by name ------------------------------------------------------------------------------


def _nifti(name: str = "case.nii.gz", **options: Any) -> Maker:
    return lambda folder: write_nifti(folder / name, **options)


def _nrrd(name: str = "case.nrrd", **options: Any) -> Maker:
    return lambda folder: write_nrrd(folder / name, **options)


def _meta(name: str = "case.mha", **options: Any) -> Maker:
    return lambda folder: write_metaimage(folder / name, **options)


def _png(pixels: np.ndarray, mode: str | None = None, name: str = "case.png") -> Maker:
    return lambda folder: (Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)).save(
        folder / name
    )


def _after(make: Maker, *changes: Callable[[Path], Any]) -> Maker:
    """Return a maker that changes what another one made."""

    def both(folder: Path) -> None:
        made = make(folder)
        for change in changes:
            change(made)

    return both


def _beside(*makes: Maker) -> Maker:
    return lambda folder: [make(folder) for make in makes]


def _rename(name: str) -> Callable[[Path], Path]:
    return lambda path: path.rename(path.parent / name)


def _file(name: str, content: bytes = b"x") -> Maker:
    return lambda folder: (folder / name).write_bytes(content)


def _link(name: str, target: str) -> Maker:
    return lambda folder: (folder / name).symlink_to(target)


def _in(name: str, make: Maker) -> Maker:
    """Return a maker that works in a folder below."""

    def inside(folder: Path) -> None:
        (folder / name).mkdir(parents=True)
        make(folder / name)

    return inside


def _voxel(value: float, dtype: str = "f4") -> np.ndarray:
    """Return the image with another value of one voxel."""
    voxels = IMAGE.astype(dtype)
    voxels[10, 9, 12] = value
    return voxels


def _oriented(axes: str) -> Maker:
    scan = nib.Nifti1Image(IMAGE, AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
    turned_scan = scan.as_reoriented(turn)
    return _nifti(voxels=np.asarray(turned_scan.dataobj), affine=turned_scan.affine)


def _words(content: bytes) -> bytes:
    return " ".join(map(str, np.frombuffer(content, "i2"))).encode()


def _series(edit: Callable[[int, FileDataset], Any] = lambda index, dataset: None, **options: Any) -> Maker:
    """Return a maker of a DICOM series of axial slices in the folder `case`."""
    scan = nib.Nifti1Image(IMAGE, AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("LPS"))
    axial = scan.as_reoriented(turn)
    grid, voxels = _LPS @ axial.affine, np.asarray(axial.dataobj)
    fixed = {"spacing": tuple(np.diag(grid)[:3]), "origin": tuple(grid[:3, 3]), "shape": voxels.shape}

    def make(folder: Path) -> Path:
        write_series(folder / "case", voxels=voxels, edit=edit, **fixed, **options)
        return folder / "case"

    return make


def _set(**values: Any) -> Callable[[int, FileDataset], None]:
    def edit(index: int, dataset: FileDataset) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return edit


def _move(step: Callable[[int], tuple[float, float]]) -> Callable[[int, FileDataset], None]:
    """Return an edit that moves slices to the back and along their normal, in shares of the distance between them."""

    def edit(index: int, dataset: FileDataset) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        back, along = (share * float(dataset.SliceThickness) for share in step(index))
        dataset.ImagePositionPatient = [x, y + back, z + along]

    return edit


def _slice(number: int, change: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: change(sorted(folder.iterdir())[number])


def _slices(change: Callable[[FileDataset], Any], again: str = "") -> Callable[[Path], None]:
    """Return a change of each file of a series, which is written beside the old one if a prefix is given."""

    def edit(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path.with_name(again + path.name))

    return edit


def _rescaled(index: int, dataset: FileDataset) -> None:
    """Store every third slice in steps of 2 HU and more."""
    step = 1 + index % 3
    stored = np.frombuffer(dataset.PixelData, "<u2") // step
    dataset.RescaleSlope, dataset.PixelData = step, stored.astype("<u2").tobytes()


def _signed(index: int, dataset: FileDataset) -> None:
    values = np.frombuffer(dataset.PixelData, "<u2").astype("i2") - 1024
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    dataset.PixelData, dataset.PixelPaddingValue = np.where(values < -950, -2000, values).astype("<i2").tobytes(), -2000


def _add_localizer(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "000.dcm")
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.save_as(folder / "localizer.dcm")


def _reverse(folder: Path) -> None:
    files = sorted(folder.iterdir())
    for number, file in enumerate(reversed(files)):
        file.rename(folder / f"r{number:03}.dcm")


_HALF, _SHEAR = turned(0.5), np.eye(4)
_SHEAR[1, 2] = 0.35
_SWAPPED = {1: SIZES[1], 2: SIZES[0]}
_STACK = np.stack([IMAGE, IMAGE])
_COLORS = np.zeros(IMAGE.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
_RAS = " ".join(f"({','.join(f'{value:.9g}' for value in AFFINE[:3, axis])})" for axis in range(3))
_RAS_ORIGIN = f"({','.join(f'{value:.9g}' for value in AFFINE[:3, 3])})"
_SPACINGS = " ".join(map(str, SIZES))
_COMPRESSED = len(zlib.compress(IMAGE.tobytes(order="F")))

SCANS: dict[str, Maker] = {
    # files
    "sound": _nifti(),
    "truncated gz": _after(_nifti(), cut),
    "truncated nii": _after(_nifti("case.nii"), cut),
    "truncated nrrd": _after(_nrrd(), cut),
    "truncated mha": _after(_meta(), cut),
    "truncated voxels of a pair": _after(_nifti("case.hdr"), lambda path: cut(path.with_suffix(".img"))),
    "flipped bit in gz": _after(_nifti(), flip_bit),
    "flipped bit in gzip nrrd": _after(_nrrd(encoding="gzip", encode=gzip.compress), lambda path: flip_bit(path, 0.7)),
    "checksum of zeros": _nifti(compress=lambda content: gzip.compress(content)[:-8] + bytes(8)),
    "garbage after gz": _nifti(compress=lambda content: gzip.compress(content) + b"garbage"),
    "zeros after gz": _nifti(compress=lambda content: gzip.compress(content) + bytes(100)),
    "gz of two members": _nifti(compress=lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:])),
    "gz of gz": _nifti(compress=lambda content: gzip.compress(gzip.compress(content))),
    "bytes after the voxels": _nifti(behind=b"x" * 999),
    "empty file": _file("case.nii.gz", b""),
    "page": _file("case.nii.gz", b"<html>not found</html>"),
    "pointer of Git LFS": _file("case.nii.gz", b"version https://git-lfs.github.com/spec/v1"),
    "gz named nii": _nifti("case.nii", compress=gzip.compress),
    "nii named gz": _nifti(compress=bytes),
    "nii named mha": _after(_nifti("case.nii"), _rename("case.mha")),
    "unknown ending": _file("case.foo"),
    # voxels
    "nan": _nifti(voxels=_voxel(np.nan)),
    "inf": _nifti(voxels=_voxel(np.inf)),
    "float64 beyond float32": _nifti(voxels=_voxel(1e300, "f8")),
    "scaled beyond float32": _nifti(scl_slope=1e38),
    "constant": _nifti(voxels=np.zeros_like(IMAGE)),
    "CT in 0 to 1": _nifti(voxels=((IMAGE + 1024) / 4000).astype("f4")),
    "CT in 0 to 255": _nifti(voxels=np.clip((IMAGE + 200) / 2, 0, 255).astype("u1")),
    "CT with 1024 added": _nifti(voxels=IMAGE + 1024),
    "CT with 1024 added and padding": _nifti(voxels=np.where(IMAGE < -950, -2000, IMAGE + 1024).astype("i2")),
    "MR given to a CT bundle": _nifti(voxels=np.interp(IMAGE, [-1000, -200, 300], [-60, 0, 558]).astype("i2")),
    "complex": _nifti(voxels=IMAGE.astype("c8")),
    "colors": lambda folder: nib.save(nib.Nifti1Image(_COLORS, AFFINE), folder / "case.nii.gz"),
    "one bit": _nifti(datatype=1, bitpix=1),
    "float64": _nifti(voxels=IMAGE.astype("f8")),
    "int64": _nifti(voxels=IMAGE.astype("i8")),
    "slope of zero": _nifti(scl_slope=0),
    "slope of nan": _nifti(scl_slope=np.nan, scl_inter=np.nan),
    "slope of inf": _nifti(scl_slope=np.inf),
    "intercept of nan": _nifti(scl_inter=np.nan),
    # shapes
    "2D": _nifti(voxels=IMAGE[:, :, 12]),
    "4D": _nifti(voxels=np.stack([IMAGE] * 3, -1)),
    "4D of one volume": _nifti(voxels=IMAGE[..., None]),
    "5D of vectors": _nifti(voxels=np.stack([IMAGE] * 3, -1)[:, :, :, None], intent_code=1007),
    "one voxel": _nifti(voxels=IMAGE[:1, :1, :1]),
    "no voxels": _nifti(dim={2: 0}),
    "no volumes": _nifti(dim={0: 4, 4: 0}),
    "nine dimensions": _nifti(dim={0: 9}),
    "negative dimension": _nifti(dim={1: -21}),
    "larger than the file": _nifti(dim={3: 99}),
    "smaller than the file": _nifti(dim={3: 12}),
    "voxels from byte 0": _nifti("case.nii", vox_offset=0),
    "voxels within the header": _nifti("case.nii", vox_offset=348),
    "voxels from half a byte": _nifti("case.nii", vox_offset=352.5, behind=b"x"),
    "voxels from nan": _nifti("case.nii", vox_offset=np.nan),
    # grids of NIfTI
    "voxel size of zero": _nifti(pixdim={1: 0}),
    "voxel size of nan": _nifti(pixdim={2: np.nan}),
    "affine of nan": _nifti(srow_x={0: np.nan}),
    "sform of zeros": _nifti(srow_x=0, srow_y=0, srow_z=0),
    "flat sform": _nifti(srow_z=0),
    "meters": _nifti(xyzt_units=1),
    "micrometers": _nifti(xyzt_units=3),
    "meters called mm": _nifti(affine=np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE),
    "no unit": _nifti(xyzt_units=0),
    "sform half a degree off": _nifti(srow_x=_HALF[0], srow_y=_HALF[1], srow_z=_HALF[2]),
    "qform shifted": _nifti(qoffset_x=AFFINE[0, 3] + 3),
    "qform of nan": _nifti(quatern_d=np.nan),
    "pixdim swapped": _nifti(pixdim=_SWAPPED),
    "pixdim negative": _nifti(pixdim={1: -SIZES[0]}),
    "qform alone": _nifti(codes=(0, 1), srow_x=9),
    "qfac of zero": _nifti(codes=(0, 1), pixdim={0: 0}),
    "qfac of a half": _nifti(codes=(0, 1), pixdim={0: 0.5}),
    "quaternion rounded": _nifti(codes=(0, 1), quatern_b=-0.5000003, quatern_c=-0.5000003, quatern_d=0.5000003),
    "quaternion of 3": _nifti(codes=(0, 1), quatern_d=3),
    "no codes": _nifti(codes=(0, 0)),
    "code of 99": _nifti(sform_code=99),
    "code of -1": _nifti(qform_code=-1),
    "oblique": _nifti(affine=turned(20)),
    "sheared": _nifti(affine=_SHEAR @ AFFINE, codes=(1, 0)),
    "RAS": _oriented("RAS"),
    "LPS": _oriented("LPS"),
    "SAR": _oriented("SAR"),
    "PIL": _oriented("PIL"),
    "NIfTI-2": _nifti(version=2),
    "big-endian": _nifti(order=">"),
    "pair": _nifti("case.hdr"),
    "header without voxels": _after(_nifti("case.hdr"), lambda path: path.with_suffix(".img").unlink()),
    "voxels without header": _after(_nifti("case.hdr"), Path.unlink),
    "ANALYZE": lambda folder: nib.save(nib.AnalyzeImage(IMAGE, AFFINE), folder / "case.hdr"),
    # NRRD and MetaImage
    "nrrd": _nrrd(),
    "nrrd in RAS": _nrrd(space="RAS", space_directions=_RAS, space_origin=_RAS_ORIGIN),
    "nrrd of a scanner": _nrrd(space="scanner-xyz"),
    "nrrd without space": _nrrd(space=None, space_directions=None, space_origin=None, spacings=_SPACINGS),
    "nrrd without spacing": _nrrd(space_directions=None, space_origin=None),
    "nrrd with a spacing of nan": _nrrd(space=None, space_directions=None, space_origin=None, spacings="nan nan nan"),
    "nrrd in meters": _nrrd(space_units='"m" "m" "m"'),
    "nrrd of lists of one": _nrrd(voxels=IMAGE[None]),
    "nrrd of two channels": _nrrd(voxels=_STACK),
    "nrrd detached": _nrrd(data_file="case.raw"),
    "nrrd without its voxels": _after(_nrrd(data_file="case.raw"), lambda path: path.with_suffix(".raw").unlink()),
    "nrrd of text": _nrrd(encoding="ascii", encode=_words),
    "nrrd of half a text": _nrrd(encoding="ascii", encode=lambda content: _words(content)[:-9999]),
    "nrrd of bzip2": _nrrd(encoding="bzip2", encode=bz2.compress),
    "nrrd with a byte skip": _nrrd(byte_skip="-1", encode=lambda content: b"xx" + content),
    "nrrd smaller than its file": _nrrd(sizes="21 18 23"),
    "mha": _meta(),
    "mhd": _meta("case.mhd"),
    "mhd without its voxels": _after(_meta("case.mhd"), lambda path: path.with_suffix(".raw").unlink()),
    "mhd of many files": _meta("case.mhd", ElementDataFile="slice%03d.raw 0 23 1"),
    "mha compressed": _meta(CompressedData="True", CompressedDataSize=str(_COMPRESSED), encode=zlib.compress),
    "mha compressed without size": _meta(CompressedData="True", encode=zlib.compress),
    "mha of text": _meta(BinaryData="False", encode=_words),
    "mha to be scaled": _meta(ElementToIntensityFunctionSlope="2"),
    "mha without spacing": _meta(ElementSpacing=None),
    "mha with a spacing of zero": _meta(ElementSpacing="0 1 1"),
    "mha with an offset of nan": _meta(Offset="nan 0 0"),
    "mha without matrix": _meta(TransformMatrix=None),
    "mha of two channels": _meta(ElementNumberOfChannels="2", voxels=_STACK),
    # folders
    "nothing": lambda folder: None,
    "zip": _file("case.zip", b"PK\x03\x04"),
    "broken link": _beside(_nifti(), _link("other.nii.gz", "/nowhere")),
    "link to itself": _beside(_nifti(), _link("other.nii.gz", "other.nii.gz")),
    "one name, two endings": _beside(_nifti(), _nrrd()),
    "one name, two cases": _beside(_nifti(), _nifti("CASE.nii.gz")),
    "name with a line break": _nifti("case\n.nii.gz"),
    "name that is too long": _nifti("c" * 248 + ".nii.gz"),
    "data set": _beside(_nifti(), _file("dataset.json", b"{}")),
    "results": _beside(_nifti(), _file("report.json", b'{"cases": []}')),
    "one good, one bad": _beside(_nifti(), _after(_nifti("other.nii.gz"), cut)),
    "spaces": _nifti("my case 1.nii.gz"),
    "other letters": _nifti("größe_日本.nii.gz"),
    "expression": _nifti("$(touch x).nii.gz"),
    "reference": _nifti("@network.nii.gz"),
    "macro": _nifti("%x.nii.gz"),
    "identifier with dots": _nifti("1.2.840.113.nii.gz"),
    "capitals": _nifti("CASE.NII.GZ"),
    "link": _beside(_in(".elsewhere", _nifti()), _link("case.nii.gz", ".elsewhere/case.nii.gz")),
    "folder by a link": _beside(_in(".elsewhere", _nifti()), _link("patient", ".elsewhere")),
    "link in a circle": _beside(_nifti(), _in("folder", _link("back", ".."))),
    "nested": _in("a/b/c", _nifti()),
    "hidden files and sidecars": _beside(
        _nifti(), *map(_file, ("._case.nii.gz", ".DS_Store", "Thumbs.db", "case.json"))
    ),
    "file of another kind beside": _beside(_nifti(), _file("case.mgz")),
    "results beside": _beside(
        _nifti(), _in("old", _beside(_nifti("other.nii.gz"), _file("report.json", b'{"cases": []}')))
    ),
    # DICOM
    "dicom": _series(),
    "dicom in reverse": _after(_series(), _reverse),
    "dicom without endings": _series(name="IM{:05}"),
    "dicom implicit": _after(
        _series(), _slices(lambda data: setattr(data.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian))
    ),
    "dicom by run length": _after(_series(), _slices(lambda dataset: dataset.compress(RLELossless))),
    "dicom deflated": _after(
        _series(), _slices(lambda data: setattr(data.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    ),
    "dicom rescaled by slice": _series(_rescaled),
    "dicom signed and padded": _series(_signed),
    "dicom oblique": _series(_set(ImageOrientationPatient=[np.cos(0.3), np.sin(0.3), 0, -np.sin(0.3), np.cos(0.3), 0])),
    "dicom hardly uneven": _series(_move(lambda index: (0, 0.005 * (index == 5)))),
    "dicom with a directory": _after(_series(), lambda folder: (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")),
    "dicom tilted": _series(_move(lambda index: (0.3 * index, 0))),
    "dicom of a single slice": _series(lambda index, dataset: index == 0),
    "dicom uneven": _series(_move(lambda index: (0, 0.03 * (index == 5)))),
    "dicom with a gap": _series(lambda index, dataset: index != 7),
    "dicom with a double": _after(_series(), _slice(3, lambda path: shutil.copy(path, path.with_name("x.dcm")))),
    "dicom of two series": _beside(_series(), _series(uid="1.2.3.5", name="b{:03}.dcm")),
    "dicom of two echoes": _after(_series(), _slices(lambda dataset: setattr(dataset, "EchoTime", 9), "b")),
    "dicom with a localizer": _after(_series(), _add_localizer),
    "dicom truncated": _after(_series(), _slice(3, cut)),
    "dicom truncated in its last header": _after(_series(), _slice(-1, lambda path: cut(path, 0.3))),
    "dicom that is none": _after(_series(), lambda folder: (folder / "x.dcm").write_text("hello")),
    "dicom without position": _series(lambda index, dataset: delattr(dataset, "ImagePositionPatient")),
    "dicom with half a position": _series(_set(ImagePositionPatient=[0, 0])),
    "dicom without orientation": _series(lambda index, dataset: delattr(dataset, "ImageOrientationPatient")),
    "dicom with long directions": _series(_set(ImageOrientationPatient=[2, 0, 0, 0, 2, 0])),
    "dicom with skew directions": _series(_set(ImageOrientationPatient=[1, 0, 0, 0.5, 0.86, 0])),
    "dicom without pixel spacing": _series(lambda index, dataset: delattr(dataset, "PixelSpacing")),
    "dicom with a pixel spacing of zero": _series(_set(PixelSpacing=[0, 0])),
    "dicom inverted": _series(_set(PhotometricInterpretation="MONOCHROME1")),
    "dicom beside nifti": _after(_series(), lambda folder: write_nifti(folder / "x.nii.gz")),
}

PICTURES: dict[str, Maker] = {
    "gray": _png(to_gray()),
    "gray of 16 bits": _png(to_gray(np.uint16)),
    "capitals": _png(to_gray(), name="CASE.PNG"),
    "2D nifti": _nifti(voxels=IMAGE[:, :, 12]),
    "colors": _png(to_gray(), "RGB"),
    "transparent": _png(to_gray(), "LA"),
    "palette": _png(to_gray(), "P"),
    "truncated": _beside(_png(to_gray()), lambda folder: cut(folder / "case.png")),
    "JPEG": _beside(_png(to_gray(), name="case.jpg"), lambda folder: (folder / "case.jpg").rename(folder / "case.png")),
    "one pixel": _png(to_gray()[:1, :1]),
}


def write_set(folder: Path, edits: dict[str, Edit], images: bool = False) -> None:
    """Write a data set of three cases.

    Args:
        folder: to make.
        edits: of a label and its affine, by the name of the case.
        images: whether the image has the affine of its edited label, too.
    """
    cases = []
    for index, name in enumerate(("first", "second", "third")):
        voxels, label, affine = (IMAGE, LABEL, AFFINE) if index == 0 else make_phantom(index, 24)
        edited, other = edits.get(name, lambda *kept: kept)(label.copy(), affine.copy())
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", voxels, other if images else affine)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", edited, other)
        cases.append({"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"})
    names = {str(value): name for value, name in enumerate(PHANTOM_LABELS)}
    write_datalist(folder, {"name": "phantoms", "labels": names, "modality": {"0": "CT"}, "training": cases})
