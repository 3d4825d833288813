"""Each input that a user may have ends in the right segmentation, in a warning, or in a sentence that says what to do.

Options are held to the same in tests/workflows/test_errors.py and tests/cli/test_options.py.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
from bad_inputs import IMAGE, PICTURES, SCANS, turned, write_nifti, write_set
from nibabel.spatialimages import HeaderDataError
from PIL import Image
from workflow_helpers import (
    CONTEXT,
    FAST,
    PLANAR,
    ROOT,
    SHORT,
    bundle_run,
    every_bundle,
    last_words,
    run,
    scratch,
    workflow,
)

from common.data import load_record, read_volume, write_datalist
from common.data.container import read_fields
from common.data.header import warn_once

pytestmark = pytest.mark.slow
FNET = ROOT / "bundles" / "fnet_wtacae_stl"
HAS_HIGHDICOM = find_spec("highdicom") is not None  # the extra dicom

REFUSED = {
    "truncated gz": r"case.nii.gz: compressed data must be complete, got 9\d+ bytes and no end; copy",
    "truncated nii": r"case.nii: must hold the 18496 bytes its header announces, got 9248; .* copy",
    "truncated nrrd": r"case.nrrd: must hold the 18144 bytes its header announces, got \d+; .* copy",
    "truncated mha": r"case.mha: must hold the 18144 bytes its header announces, got \d+; .* copy",
    "truncated voxels of a pair": r"case.img: must hold the 18144 bytes its header announces, got 9072; .* copy",
    "flipped bit in gz": r"case.nii.gz: compressed data must be intact, got CRC check failed.*; copy",
    "flipped bit in gzip nrrd": r"case.nrrd: compressed data must be intact, got .*; copy",
    "checksum of zeros": r"case.nii.gz: compressed data must be intact, got .*; copy",
    "garbage after gz": r"case.nii.gz: compressed data must be intact, got .*; copy",
    "gz of gz": r"case.nii.gz: must hold a whole NIfTI header, got 540 bytes of gzip data; copy",
    "empty file": r"case.nii.gz: a .nii.gz file must be gzip data, got an empty file; copy",
    "page": r"case.nii.gz: .*, got an HTML or XML page; copy",
    "pointer of Git LFS": r"case.nii.gz: .*, got a Git LFS pointer; copy",
    "gz named nii": r"case.nii: a .nii file must be a NIfTI image, got gzip data; copy",
    "nii named gz": r"case.nii.gz: a .nii.gz file must be gzip data, got a NIfTI image; copy",
    "nii named mha": r"case.mha: a .mha file must be a MetaImage, got a NIfTI image; copy",
    "unknown ending": r"scans: dataset_dir must hold scans .*, got case.foo; look",
    "nan": r"case.nii.gz: every voxel must be finite, got 1 NaN and 0 infinite; .* --nan replace",
    "inf": r"case.nii.gz: every voxel must be finite, got 0 NaN and 1 infinite; .* --nan replace",
    "float64 beyond float32": r"case.nii.gz: intensities must fit a 32-bit float, got up to 1e\+300; scale",
    "scaled beyond float32": r"case.nii.gz: intensities must fit a 32-bit float, got up to 1\.\d+e\+41; scale",
    "complex": r"case.nii.gz: voxels must be real numbers, .*, got complex voxels; convert",
    "colors": r"case.nii.gz: voxels must be real numbers, .*, got color .*; convert",
    "one bit": r"case.nii.gz: voxels must be real numbers, .*; convert",
    "slope of inf": r"case.nii.gz: intensities must be scaled by finite numbers .*, got inf and 0; write",
    "intercept of nan": r"case.nii.gz: intensities must be scaled by finite numbers .*, got 1 and nan; write",
    "2D": r"case.nii.gz: must hold one volume of 3 dimensions, got shape \(21, 18\); .* convert",
    "4D": r"case.nii.gz: number of channels must be 1, got 3; give",
    "5D of vectors": r"case.nii.gz: number of channels must be 1, got 3; give",
    "one voxel": r"case.nii.gz: must hold more than one voxel, got shape \(1, 1, 1\); look",
    "no voxels": r"case.nii.gz: every dimension must hold a voxel, got shape \(21, 0, 24\); copy",
    "no volumes": r"case.nii.gz: every dimension must hold a voxel, got shape \(21, 18, 24, 0\); copy",
    "nine dimensions": r"case.nii.gz: number of dimensions \(dim\[0\]\) must be 1 to 7, got 9; write",
    "negative dimension": r"case.nii.gz: every dimension must hold a voxel, got shape \(-21, 18, 24\); copy",
    "larger than the file": r"case.nii.gz: must hold the 75196 bytes its header announces, got 18496; .* copy",
    "voxels within the header": r"case.nii: voxels must begin at a whole byte from 352 on .*, got 348; write",
    "voxels from half a byte": r"case.nii: voxels must begin at a whole byte from 352 on .*, got 352.5; write",
    "voxels from nan": r"case.nii: voxels must begin at a whole byte from 352 on .*, got nan; write",
    "voxel size of zero": r"case.nii.gz: voxel size must be finite and not 0, got 0 x .* mm; write",
    "voxel size of nan": r"case.nii.gz: voxel size must be finite and not 0, got .* nan .* mm; write",
    "affine of nan": r"case.nii.gz: affine must be finite, got .*nan.*; write",
    "sform of zeros": r"case.nii.gz: affine must map voxels to millimeters, got an sform of zeros; write",
    "flat sform": r"case.nii.gz: voxel size must not be 0, got 12.47 x 0 x 12.47 mm; write",
    "meters": r"case.nii.gz: voxel size must be in mm, got meters and a field of view of 2.618e\+05 x .*; convert",
    "micrometers": r"case.nii.gz: voxel size must be in mm, got microns and a field of view of 0.2618 x .*; convert",
    "meters called mm": r"case.nii.gz: field of view must be between 5 and 3000 mm, got 0.2618 x .*; are voxels in mm",
    "qfac of a half": r"case.nii.gz: qfac \(pixdim\[0\]\) must be 1 or -1, got 0.5; write",
    "quaternion of 3": r"case.nii.gz: quaternion must have length 1, got 3.\d+; write",
    "code of 99": r"case.nii.gz: sform_code must be 0 to 5, got 99; write",
    "code of -1": r"case.nii.gz: qform_code must be 0 to 5, got -1; write",
    "header without voxels": r"case.hdr: must have its .img file beside it, got none; copy",
    "voxels without header": r"case.img: must have its .hdr file beside it, got none; copy",
    "ANALYZE": r"case.img: header must be that of a NIfTI pair, got an ANALYZE header, .*; convert",
    "nrrd without spacing": r"case.nrrd: voxel size must be in the header, got none; write",
    "nrrd with a spacing of nan": r"case.nrrd: spacings must be finite numbers, got nan nan nan; mend",
    "nrrd in meters": r"case.nrrd: voxel size must be in mm, got m; convert",
    "nrrd of two channels": r"case.nrrd: number of channels must be 1, got 2; give",
    "nrrd without its voxels": r"case.nrrd: header must be readable, got .*couldn't open .*case.raw.*; copy",
    "nrrd of half a text": r"case.nrrd: voxels must be readable, got .*; copy",
    "nrrd of bzip2": r"case.nrrd: encoding must be raw, gzip, ascii or hex, got bzip2; convert",
    "mhd without its voxels": r"case.mhd: voxels must lie in case.raw, got no such file; copy",
    "mhd of many files": r"case.mhd: voxels must lie in one file, got several, slice.*; convert",
    "mha compressed without size": r"case.mha: CompressedDataSize must be the number of bytes, \d+, got none; write",
    "mha of text": r"case.mha: voxels must be binary \(BinaryData\), got text; convert",
    "mha to be scaled": r"case.mha: intensities must be stored as they are, got .*Slope.* 2 .*; scale",
    "mha without spacing": r"case.mha: voxel size must be in the header, got none; write",
    "mha with a spacing of zero": r"case.mha: voxel size must not be 0, got 0 x 1 x 1 mm; write",
    "mha with an offset of nan": r"case.mha: Offset must be finite numbers, got nan 0 0; mend",
    "mha of two channels": r"case.mha: number of channels must be 1, got 2; give",
    "nothing": r"scans: dataset_dir must hold scans .*, got an empty folder; look",
    "zip": r"scans: dataset_dir must hold scans .*, got case.zip; look",
    "broken link": r"other.nii.gz: must lead to a scan, got a link to /nowhere, .*; mend",
    "link to itself": r"other.nii.gz: must lead to a scan, got a link to .*, which is not there; mend",
    "one name, two endings": r"scans must have different names, .*case.nii.gz.*case.nrrd.*; rename",
    "one name, two cases": r"scans must have different names, .*CASE.nii.gz.*case.nii.gz.*; rename",
    "name with a line break": r"case\\n.nii.gz': path must be plain text in one line, .*; rename",
    "name that is too long": r"name of a result must have at most \d+ bytes, got \d+; rename",
    "data set": r"scans: is a data set with labels; name the folder of its scans",
    "results": r"scans: dataset_dir must hold scans, got the results of an inference; name",
    "one good, one bad": r"other.nii.gz: compressed data must be complete, .*; copy",
    "dicom uneven": r"case: slices must be evenly spaced \(10.92 mm\), got 10.59 mm from .*; copy",
    "dicom with a gap": r"case: slices must be evenly spaced .*, got 1 missing from .* after 006.dcm; copy",
    "dicom with a double": r"x.dcm: slices must have different positions, got .* also in 003.dcm; remove",
    "dicom of two series": r"case: must hold one DICOM series, got 1.2.3.4.1 .*; 1.2.3.5 .*; choose one with --series",
    "dicom of two echoes": r"b000.dcm: slices must have different positions, got .*; remove",
    "dicom with a localizer": r"localizer.dcm: slices must have one orientation, got .*; move",
    "dicom truncated": r"003.dcm: slice must hold 1008 bytes of voxels, got \d+; copy",
    "dicom truncated in its last header": r"017.dcm: slice must have a whole header, got a part; copy",
    "dicom that is none": r"x.dcm: slice must be a whole DICOM file, got none; copy",
    "dicom without position": r"000.dcm: slice must say where it lies, got no ImagePositionPatient; remove",
    "dicom with half a position": r"000.dcm: ImagePositionPatient must be 3 numbers, got \[0.0, 0.0\]; export",
    "dicom without orientation": r"000.dcm: slice must say where it lies, got no ImageOrientationPatient; remove",
    "dicom with long directions": r"000.dcm: ImageOrientationPatient must be two directions of length 1 .*; export",
    "dicom with skew directions": r"000.dcm: ImageOrientationPatient must be two .* at a right angle, .*; export",
    "dicom without pixel spacing": r"000.dcm: slice must say where it lies, got no PixelSpacing; remove",
    "dicom with a pixel spacing of zero": r"000.dcm: PixelSpacing must be above 0, got \[0.0, 0.0\]; export",
    "dicom inverted": r"000.dcm: air must be dark, got MONOCHROME1, .*; convert",
    "dicom beside nifti": r"case: must hold one DICOM series or other scans, got both, .*; put",
}

WARNED = {
    "bytes after the voxels": "holds 999 bytes more than its header announces",
    "smaller than the file": "holds 9072 bytes more than its header announces",
    "nrrd smaller than its file": "holds 756 bytes more than its header announces",
    "constant": "image is constant, every voxel is 0",
    "CT in 0 to 1": "a CT must be in Hounsfield units",
    "CT in 0 to 255": "a CT must be in Hounsfield units",
    "CT with 1024 added": "a CT must be in Hounsfield units",
    "CT with 1024 added and padding": "a CT must be in Hounsfield units",
    "MR given to a CT bundle": "a CT must be in Hounsfield units",
    "sform half a degree off": "sform is used, though the qform lies 0.1 voxels off",
    "qform shifted": "sform is used, though the qform lies 0.24 voxels off",
    "qform of nan": "sform is used, though the qform makes no sense",
    "pixdim swapped": "sform has voxels of .* and is used, though pixdim says",
    "pixdim negative": "pixdim is negative .*, its absolute value is used",
    "no codes": "orientation is unknown, since neither sform nor qform has a code",
    "nrrd of a scanner": "orientation is unknown, since space must be .*, got scanner-xyz",
    "nrrd without space": "orientation is unknown, since space must be .*, got none",
    "mha without matrix": "orientation is unknown, since there is no TransformMatrix",
    "dicom tilted": "gantry is tilted by 16.7 degrees",
    "dicom of a single slice": "series is a single slice, taken to be 10.9219 mm thick",
}

SHEARED = {"sheared"}  # whose organs are sheared, too
SAME = sorted({*SCANS} - {*REFUSED} - {*WARNED} - SHEARED)

PICTURE_OUTCOMES = {
    "colors": r"case.png: number of channels must be 1 \(CT\), got 3; give",
    "transparent": r"case.png: number of channels must be 1 \(CT\), got 2; give",
    "palette": r"case.png: pixels must be gray or RGB, got indices into a palette; convert",
    "truncated": r"case.png: PNG must be intact, got .*; copy",
    "JPEG": r"case.png: a .png file must be a PNG picture, got a JPEG picture; copy",
    "one pixel": r"case.png: must hold more than one pixel, got \(1, 1\); look",
}

IN_EVERY_BUNDLE = [
    *("truncated gz", "nan", "voxels within the header", "no codes", "4D", "2D", "single slice", "small", "RAS"),
    *(
        "constant",
        "mha compressed without size",
        "dicom",
        "dicom with a gap",
        "name with a line break",
        "row of voxels",
    ),
]
MORE = {  # of which the grid alone is looked at
    "single slice": lambda folder: write_nifti(folder / "case.nii.gz", IMAGE[:, :, 12:13]),
    "small": lambda folder: write_nifti(folder / "case.nii.gz", IMAGE[8:13, 6:11, 8:13]),
    "row of voxels": lambda folder: write_nifti(folder / "case.nii.gz", IMAGE[10:11, 9:10]),
}


@pytest.fixture
def infer(weights, tmp_path, quiet_hooks, capsys):
    """Return a function that makes an input, segments it, and returns the sentence of a refusal, or None."""

    def _infer(make, bundle: Path = FNET, **options) -> str | None:
        warn_once.cache_clear()
        (tmp_path / "scans").mkdir()
        make(tmp_path / "scans")
        before = sorted(tmp_path.rglob("*"))
        options = {"dataset_dir": str(tmp_path / "scans"), "output_dir": str(tmp_path / "out"), **options}
        options |= {"ckpt_dir": str(weights[bundle.name]), "device": "cpu"}
        made = workflow(bundle, "inference.yaml", kind="infer", **options)
        try:
            made.initialize()
            made.run()
        except Exception:  # what a user sees of it is looked at
            (line,) = last_words(workflow(bundle, "inference.yaml", kind="infer", **options), capsys)
            assert sorted(tmp_path.rglob("*")) == before, "files left behind"
            return line
        try:
            made.finalize()
        except SystemExit as ended:
            assert ended.code == 1
            assert_only_good_ones_are_written(tmp_path / "out")
            return capsys.readouterr().err.splitlines()[-1]
        return None

    return _infer


def assert_only_good_ones_are_written(output: Path) -> None:
    cases = json.loads((output / "report.json").read_text(encoding="utf-8"))["cases"]
    good = [case for case in cases if case["outcome"] == "segmented"]
    assert len(good) < len(cases) and len([*output.glob("*_seg.*")]) == len(good)
    others = [path for path in output.iterdir() if path.stem not in ("report", "labels", "origins")]
    assert len(others) == 2 * len(good), "files left behind"


@pytest.fixture(scope="module")
def sound(weights, tmp_path_factory) -> np.ndarray:
    """Segmentation of the sound scan in RAS orientation."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "scans").mkdir()
    SCANS["sound"](folder / "scans")
    options = {"dataset_dir": str(folder / "scans"), "output_dir": str(folder / "out")}
    run(FNET, "inference.yaml", kind="infer", ckpt_dir=str(weights[FNET.name]), device="cpu", **options)
    mask = in_ras(folder / "out" / "case_seg.nii.gz")
    assert len(np.unique(mask)) == 5
    return mask


def in_ras(mask: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(mask)).dataobj)


def itk_grid(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return affine, in RAS, and shape as ITK reads them."""
    image = itk.imread(str(path), itk.D)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, tuple(image.GetLargestPossibleRegion().GetSize())


def dicom_grid(folder: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return affine, in RAS, and shape of a series, by its slices' own words."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir() if path.name != "DICOMDIR"]
    axes = np.array(slices[0].ImageOrientationPatient, float)
    slices.sort(key=lambda dataset: np.array(dataset.ImagePositionPatient, float) @ np.cross(axes[:3], axes[3:]))
    first, last = (np.array(dataset.ImagePositionPatient, float) for dataset in (slices[0], slices[-1]))
    affine = np.eye(4)
    rows, columns = map(float, slices[0].PixelSpacing)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = axes[:3] * columns, axes[3:] * rows, first
    thickness = np.cross(axes[:3], axes[3:]) * float(slices[0].SliceThickness)
    affine[:3, 2] = (last - first) / (len(slices) - 1) if len(slices) > 1 else thickness
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, (slices[0].Columns, slices[0].Rows, len(slices))


def own_grid(scans: Path, mask: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the grid of the only scan in a folder as another program reads it."""
    if (scans / "case").is_dir():
        return dicom_grid(scans / "case")
    suffixes = (".nii.gz", ".nii", ".hdr", ".nrrd", ".mha", ".mhd")
    stem = mask.name.removesuffix("_seg.nii.gz")
    scan = next(
        path
        for path in [*scans.rglob("*"), *scans.rglob(".elsewhere/*")]
        if path.name.lower().endswith(suffixes) and path.name.startswith(stem)
    )
    if not scan.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        return itk_grid(scan)
    try:
        if scan.suffix.isupper():  # which nibabel does not take
            scan = scan.rename(scan.with_name(scan.name.lower()))
        image = nib.load(scan)
    except HeaderDataError:  # a rounded quaternion, which nibabel refuses
        return itk_grid(scan)
    return image.affine, image.shape[:3]


def check_grid(folder: Path) -> Path:
    """Return the only mask, after a look at where it lies."""
    (mask,) = (folder / "out").glob("*_seg.nii.gz")
    image = nib.load(mask)
    affine, shape = own_grid(folder / "scans", mask)
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    return mask


def warnings(folder: Path) -> str:
    (case,) = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["cases"]
    return "\n".join(case["warnings"])


# ---- one scan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_segmentation_could_be_right_for_is_refused_in_one_sentence_and_leaves_a_report(name, infer):
    said = infer(SCANS[name])
    assert said is not None and said.startswith("error: ") and "Traceback" not in said
    assert re.search(REFUSED[name], said), said


@pytest.mark.parametrize("name", WARNED)
def test_what_is_only_odd_is_segmented_on_its_own_grid_with_a_warning_in_the_report(name, infer, tmp_path):
    assert infer(SCANS[name]) is None
    check_grid(tmp_path)
    assert re.search(WARNED[name], warnings(tmp_path)), warnings(tmp_path)


@pytest.mark.parametrize("name", SAME)
def test_the_same_scan_has_the_same_segmentation_in_every_form(name, infer, sound, tmp_path):
    assert infer(SCANS[name]) is None
    share = (in_ras(check_grid(tmp_path)) == sound).mean()
    assert share == 1 or (name in ("dicom rescaled by slice", "dicom hardly uneven") and share > 0.99)


def test_a_sheared_scan_has_the_same_segmentation_in_every_orientation(infer, tmp_path):
    assert infer(SCANS["sheared"]) is None
    first = in_ras(check_grid(tmp_path))
    scan = nib.as_closest_canonical(nib.load(tmp_path / "scans" / "case.nii.gz"))
    (tmp_path / "scans").rename(tmp_path / "before")
    (tmp_path / "out").rename(tmp_path / "first")
    assert infer(lambda folder: nib.save(scan, folder / "case.nii.gz")) is None
    assert (in_ras(check_grid(tmp_path)) == first).mean() > 0.99


@pytest.mark.parametrize("name", ["no codes", "nrrd without space", "mha without matrix"])
def test_a_scan_without_orientation_and_its_mask_are_one_grid_for_itk_too(name, infer, tmp_path):
    """nibabel wrote a code of its own, and Slicer showed the mask turned and moved."""
    assert infer(SCANS[name]) is None
    (scan,) = (tmp_path / "scans").iterdir()
    (affine, shape), (other, other_shape) = itk_grid(scan), itk_grid(tmp_path / "out" / "case_seg.nii.gz")
    assert shape == other_shape
    np.testing.assert_allclose(other, affine, atol=1e-3)


@pytest.mark.parametrize("name", IN_EVERY_BUNDLE)
@every_bundle
def test_every_bundle_holds_its_scans_to_the_same(bundle, name, infer, tmp_path):
    if bundle == CONTEXT and name == "2D":
        pytest.skip("of slices, which are 2D")
    said = infer({**SCANS, **MORE}[name], bundle)
    if said is None:
        assert name not in REFUSED
        check_grid(tmp_path)
        assert re.search(WARNED.get(name, ""), warnings(tmp_path))
    else:
        assert re.search(REFUSED.get(name, r"organ must have a median above 0, got 0; look"), said), said


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_a_mask_of_its_size_or_is_refused(name, infer, tmp_path):
    said = infer(PICTURES[name], CONTEXT)
    if name in PICTURE_OUTCOMES:
        assert said is not None and re.search(PICTURE_OUTCOMES[name], said), said
        return
    assert said is None
    (mask,) = (path for path in (tmp_path / "out").iterdir() if "_seg" in path.name)
    if mask.suffix == ".png":
        with Image.open(mask) as picture, Image.open(next((tmp_path / "scans").iterdir())) as scan:
            assert picture.size == scan.size
        assert "a CT must be in Hounsfield units" in warnings(tmp_path)
    else:
        assert nib.load(mask).shape == IMAGE.shape[:2]


def test_the_series_that_is_chosen_is_segmented(infer, sound, tmp_path):
    assert infer(SCANS["dicom of two series"], series="1.2.3.5") is None
    (mask,) = (tmp_path / "out").glob("*_seg.nii.gz")
    np.testing.assert_array_equal(in_ras(mask), sound)


def test_nan_is_replaced_where_it_is_asked_for_as_the_refusal_advises(infer, sound, tmp_path):
    assert infer(SCANS["nan"], nan="replace") is None
    assert (in_ras(check_grid(tmp_path)) == sound).mean() > 0.5


@every_bundle
def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made(bundle, weights, infer):
    path = weights[bundle.name] / "record.json"
    before = path.read_text(encoding="utf-8")
    record = json.loads(before)
    if not isinstance(record["spacing"], float):
        pytest.skip("nothing is resampled")
    path.write_text(json.dumps({**record, "spacing": 0.02}), encoding="utf-8")
    try:
        said = infer(SCANS["sound"], bundle)
    finally:
        path.write_text(before, encoding="utf-8")
    assert said is not None
    assert re.search(r"case.nii.gz: resampled scan must have at most .* field of view of .* mm; look", said), said


def test_results_are_no_scans_of_a_second_run_into_another_folder(infer, tmp_path, weights):
    assert infer(SCANS["sound"], output_dir=str(tmp_path / "scans" / "first")) is None
    scans, second = str(tmp_path / "scans"), tmp_path / "scans" / "second"
    options = {"ckpt_dir": str(weights[FNET.name]), "device": "cpu", "dataset_dir": scans}
    run(FNET, "inference.yaml", kind="infer", output_dir=str(second), **options)
    assert [path.name for path in second.glob("*.nii.gz")] == ["case_seg.nii.gz"]


@every_bundle
def test_a_series_is_segmented_to_every_format_with_one_mask_on_one_grid_under_the_same_names(
    bundle, infer, weights, tmp_path
):
    formats = ["nifti", "seg.nrrd", "rtstruct", *(["dicom_seg"] if HAS_HIGHDICOM else [])]
    assert infer(SCANS["dicom oblique"], bundle, formats=formats) is None
    out, labels = tmp_path / "out", load_record(weights[bundle.name] / "model.pt").labels
    mask = np.asarray(nib.load(check_grid(tmp_path)).dataobj)
    voxels, header, _ = read_volume(out / "case.seg.nrrd")
    np.testing.assert_array_equal(voxels[0], mask)
    affine, shape = dicom_grid(tmp_path / "scans" / "case")
    assert header.shape == shape
    np.testing.assert_allclose(header.affine, affine, atol=1e-3)
    fields = read_fields(out / "case.seg.nrrd")[0]
    names = [labels[value] for value in range(1, len(labels))]
    assert [fields[f"segment{index}_name"].removeprefix("=") for index in range(len(names))] == names
    structures = pydicom.dcmread(out / "case_rtstruct.dcm")
    assert [region.ROIName for region in structures.StructureSetROISequence] == names
    present = {
        int(region.ReferencedROINumber) for region in structures.ROIContourSequence if "ContourSequence" in region
    }
    assert present == {*np.unique(mask).tolist()} - {0}
    assert {"labels.txt", "labels.ctbl"} <= {path.name for path in out.iterdir()}
    if HAS_HIGHDICOM:
        seg = importlib.import_module("highdicom").seg.segread(out / "case_seg.dcm")
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == names
        slices = [image.ReferencedSOPInstanceUID for image in structures_images(structures)]
        frames = seg.get_pixels_by_source_instance(slices, combine_segments=True, assert_missing_frames_are_empty=True)
        np.testing.assert_array_equal(frames.T, mask)


def structures_images(structures: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return the slices that a structure set refers to, in their order."""
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    return frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence


@pytest.mark.parametrize(
    ("formats", "sentence"),
    [
        (["rtstruct"], r"case.nii.gz: must be a folder with a DICOM series for --formats rtstruct, got a file; leave"),
        (
            ["nifti", "nii"],
            r"formats must be a list of 1 or more that differ, .*, got \['nifti', 'nii'\]; write",
        ),
        ("nifti", r"formats must be a list .*, got 'nifti'; write --formats \"\['nifti','seg.nrrd'\]\""),
    ],
)
@every_bundle
def test_formats_that_cannot_be_are_refused_before_anything_is_written(bundle, formats, sentence, infer):
    said = infer(SCANS["sound"], bundle, formats=formats)
    assert said is not None and re.search(sentence, said), said


def test_every_input_has_an_outcome_and_nine_refusals_in_ten_say_what_to_do():
    assert {*REFUSED, *WARNED, *SHEARED, *SAME} == {*SCANS} and not {*REFUSED} & {*WARNED}
    told = [pattern for pattern in (*REFUSED.values(), *PICTURE_OUTCOMES.values()) if ";" in pattern]
    assert len(told) >= 0.9 * (len(REFUSED) + len(PICTURE_OUTCOMES))


# ---- labels and data lists -----------------------------------------------------------------------


def one(value: float, dtype: str = "f4"):
    """Return an edit of one voxel of the first label."""

    def edit(label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        label = label.astype(dtype)
        label[10, 9, 12] = value
        return label, affine

    return edit


MOVED = np.array([[0, 0, 0, 9]] * 3 + [[0] * 4])  # mm, of an affine
LABELS: dict[str, tuple[Any, str]] = {
    "outside the set": (
        one(5),
        r"first.nii.gz: labels must be among \[0, 1, 2, 3, 4\], got 5; name them .* --renumber",
    ),
    "255": (one(255, "u1"), r"first.nii.gz: labels must be among .*, got 255; name"),
    "negative": (one(-1, "i2"), r"first.nii.gz: labels must be among .*, got -1; name"),
    "half": (one(0.5), r"first.nii.gz: labels must be whole numbers, got 0.5; were"),
    "0.98": (one(0.98), r"first.nii.gz: labels must be whole numbers, got 0.98; were"),
    "nan": (one(np.nan), r"first.nii.gz: labels must be whole numbers, got nan; were"),
    "inf": (one(np.inf), r"first.nii.gz: labels must be whole numbers of 32 bits, got .*inf; renumber"),
    "float64 beyond float32": (one(1e300, "f8"), r"first.nii.gz: intensities must fit a 32-bit float, .*; scale"),
    "other shape": (
        lambda label, affine: (label[:-1], affine),
        r"first.nii.gz: label must have the shape .*; resample",
    ),
    "transposed": (lambda label, affine: (label.transpose(2, 1, 0), affine), r"label must have the shape .*; resample"),
    "moved": (lambda label, affine: (label, affine + MOVED), r"label .* apart; resample"),
    "half a degree": (
        lambda label, affine: (label, turned(0.5)),
        r"first.nii.gz: label .* 0.1\d+ voxels apart; resample",
    ),
    "larger voxels": (lambda label, affine: (label, affine @ np.diag([1.01, 1, 1, 1])), r"label .* apart; resample"),
    "mirrored": (lambda label, affine: (label, affine @ np.diag([-1, 1, 1, 1])), r"label .* apart; resample"),
    "two volumes": (lambda label, affine: (np.stack([label] * 2, -1), affine), r"label must have 1 channel.*; split"),
}
ODD_LABELS: dict[str, tuple[Any, str]] = {
    "0.996": (one(0.996), "first.nii.gz: labels up to 0.004 off a whole number are rounded"),
    "empty": (lambda label, affine: (0 * label, affine), "first.nii.gz: label is empty, every voxel is background"),
    "all foreground": (lambda label, affine: (0 * label + 1, affine), "first.nii.gz: label has no background"),
}


@pytest.fixture
def learn(tmp_path, quiet_hooks, capsys):
    """Return a function that trains on a data set, and returns the sentence of a refusal, or None."""

    def _learn(bundle: Path = FNET, **options) -> str | None:
        options = {
            "dataset_dir": str(tmp_path / "set"),
            "ckpt_dir": str(tmp_path / "models"),
            **scratch(bundle),
            **options,
        }
        options |= {"device": "cpu", "num_validation": 1} if bundle == PLANAR else {**FAST, **SHORT}
        warn_once.cache_clear()
        made = workflow(bundle, "train.yaml", **options)
        try:
            made.initialize()
            made.run()
        except Exception:  # what a user sees of it is looked at
            (line,) = last_words(workflow(bundle, "train.yaml", **options), capsys)
            assert not (tmp_path / "models").exists() or not [*(tmp_path / "models").rglob("*.pt")]
            return line
        made.finalize()
        return None

    return _learn


@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_is_none_of_its_image_is_refused_by_name(name, learn, tmp_path):
    edit, sentence = LABELS[name]
    write_set(tmp_path / "set", {"first": edit})
    said = learn()
    assert said is not None and re.search(sentence, said), said
    assert "first.nii.gz" in said


@pytest.mark.parametrize("name", ODD_LABELS)
def test_an_odd_label_is_learned_from_with_a_warning(name, learn, tmp_path, caplog):
    edit, sentence = ODD_LABELS[name]
    write_set(tmp_path / "set", {"first": edit})
    assert learn() is None
    assert sentence in caplog.text


@every_bundle
def test_labels_that_are_all_empty_are_refused(bundle, learn, tmp_path):
    def empty(label, affine):
        return 0 * label, affine

    write_set(tmp_path / "set", {"first": empty, "second": empty, "third": empty})
    said = learn(bundle)
    assert said is not None and re.search(r"are the labels empty\?|got none; look at the label files", said), said


def test_a_class_that_no_label_has_is_warned_of(learn, tmp_path, caplog):
    def without(label, affine):
        return np.where(label == 4, 0, label).astype("u1"), affine

    write_set(tmp_path / "set", {"first": without, "second": without, "third": without})
    assert learn() is None
    assert "has left kidney (4), so that nothing will be segmented as it" in caplog.text


def test_the_same_content_twice_is_warned_of_however_it_is_compressed(learn, tmp_path, caplog):
    write_set(tmp_path / "set", {})
    for folder in ("imagesTr", "labelsTr"):
        first, second = (tmp_path / "set" / folder / f"{name}.nii.gz" for name in ("first", "second"))
        second.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    assert learn() is None
    assert re.search(r"second.nii.gz: holds the same as .*first.nii.gz; take one off the list", caplog.text)


@every_bundle
def test_a_scan_with_nan_is_refused_by_name_in_training(bundle, learn, tmp_path):
    """Where the field of view is found, a traceback told of floats that cannot become integers."""
    write_set(tmp_path / "set", {})
    SCANS["nan"](tmp_path / "set" / "imagesTr")
    (tmp_path / "set" / "imagesTr" / "case.nii.gz").replace(tmp_path / "set" / "imagesTr" / "first.nii.gz")
    said = learn(bundle)
    assert said is not None and re.search(r"first.nii.gz: every voxel must be finite, .* --nan replace", said), said


def test_a_scan_in_other_units_than_the_others_is_warned_of(learn, tmp_path, caplog):
    def in_tenths(label, affine):
        return label, affine @ np.diag([10, 10, 10, 1])

    write_set(tmp_path / "set", {"first": in_tenths}, images=True)
    assert learn() is None
    assert re.search(r"first.nii.gz: voxels of .* mm are unlike those of the other scans, .*; look", caplog.text)


LISTS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{bad", r"dataset.json: must be JSON, got .*; mend"),
    "a list": ("[]", r"dataset.json: must be a JSON object, got a list; write"),
    "no list of cases": ({"training": None}, r"dataset.json: training must be a list, got None; write"),
    "images alone": (
        {"training": ["imagesTr/first.nii.gz"]},
        r"dataset.json: every case must have image and label, .*; write",
    ),
    "no training cases": ({"training": []}, r"must hold cases with labels, got none; look"),
    "no names of classes": ({"labels": {}}, r"labels must name the background and at least one class, got {}; name"),
    "a gap in the classes": (
        {"labels": {"0": "a", "2": "b"}},
        r"dataset.json: labels must name 0, 1, 2 .*; .*--renumber",
    ),
    "too few classes": ({"labels": {"0": "a", "1": "b"}}, r"labels must be among \[0, 1\], got 2, 3, 4; name"),
    "a misspelled key": ({"trainng": []}, r"dataset.json: the file must have known keys, got 'trainng'; did you mean"),
    "a missing image": ({"image": "imagesTr/x.nii.gz"}, r"imagesTr/x.nii.gz: must exist, got no such file .*; copy"),
    "an absolute path": (
        {"image": "/etc/hosts"},
        r"dataset.json: every file must lie inside .*, got '/etc/hosts'; name",
    ),
    "a path to outside": ({"image": "../x.nii.gz"}, r"dataset.json: every file must lie inside .*; name"),
    "a line break": ({"image": "imagesTr/x\n.nii.gz"}, r"path must be plain text in one line, .*; rename"),
    "half a character": ({"image": "imagesTr/\udc80.nii.gz"}, r"path must be plain text in one line, .*; rename"),
    "an end of text": ({"image": "imagesTr/x\0.nii.gz"}, r"path must be plain text in one line, .*; rename"),
    "a long name": ({"image": f"imagesTr/{'x' * 300}.nii.gz"}, r"name must have at most 255 bytes, got 307; correct"),
    "a case twice": (
        {"test": [{"image": "imagesTr/first.nii.gz"}]},
        r"first.nii.gz: must be listed once, got it twice; remove",
    ),
    "two channels of one": (
        {"modality": {"0": "CT", "1": "PET"}},
        r"image must hold the 2 channel\(s\) .*, got 1; list",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_data_list_that_is_wrong_is_refused(name, learn, tmp_path):
    change, sentence = LISTS[name]
    write_set(tmp_path / "set", {})
    path = tmp_path / "set" / "dataset.json"
    if isinstance(change, str):
        path.write_text(change, encoding="utf-8")
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "image" in change:
            content["training"][0] |= change
        else:
            content |= change
        write_datalist(path.parent, content)
    said = learn()
    assert said is not None and said.startswith("error: ") and re.search(sentence, said), said


# ---- as a command --------------------------------------------------------------------------------


def test_the_exit_status_tells_what_became_of_a_scan(weights, tmp_path):
    statuses = {}
    for name in ("sound", "truncated gz"):
        scans = tmp_path / name
        scans.mkdir()
        SCANS[name](scans)
        options = {"dataset_dir": scans, "output_dir": tmp_path / f"{name} out", "ckpt_dir": weights[FNET.name]}
        done = bundle_run("inference", FNET, "inference.yaml", device="cpu", **options)
        statuses[name] = done.returncode
    assert statuses == {"sound": 0, "truncated gz": 1}
    assert re.fullmatch(f"error: .*{REFUSED['truncated gz']}.*", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert {path.stem for path in (tmp_path / "truncated gz out").iterdir()} == {"report"}


def test_the_exit_status_tells_what_became_of_a_label(tmp_path):
    edit, sentence = LABELS["half"]
    write_set(tmp_path / "set", {"first": edit})
    options = {"dataset_dir": tmp_path / "set", "ckpt_dir": tmp_path / "models", "pretrained": "null", **FAST, **SHORT}
    done = bundle_run("training", FNET, "train.yaml", **options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(sentence, done.stderr.splitlines()[-1])
    assert not [*(tmp_path / "models").rglob("*.pt")]
