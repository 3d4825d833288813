"""Cut blocks of slices without a tumor from scans, and write a data set that lists them as normal.

python -m tools.normals DATASET_DIR --output_dir DIR [--min_slices 4] [--axis 2]
    [--tumor_slices TABLE.csv] [--tumor_labels 2 [--organ_labels 1,2]] [--organ brain] [--extent 240,240,140]
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from common.cli import InputError, MissingFileError, check_choice
from common.cli.options import POSITIVE, POSITIVE_INT
from common.data import Item, case_id, check_gzip, check_label, read_cases, write_datalist, write_folder
from common.layers import ORGAN_FINDERS
from tools._command import run_command

_KEYS = ("image", "label", "organ", "t2_map")
_FOLLOWING = ("patient", "fold")  # what a case keeps besides its files
_LISTS = ("training", "validation", "test", "unlabeled")
_SUFFIXES = (".nii", ".nii.gz")


def normals(
    dataset_dir: str,
    output_dir: str,
    *,
    min_slices: int = 4,
    axis: int = 2,
    tumor_slices: str | None = None,
    tumor_labels: int | Sequence[int] | None = None,
    organ_labels: int | Sequence[int] | None = None,
    organ: str | None = None,
    extent: Sequence[float] | None = None,
) -> str:
    """Write a copy of a data set whose normal scans are blocks of slices of its labeled scans, or of those in a table.

    A block is a run of slices without a tumor; where the scan has an organ, `min_slices` of them must hold a part of
    it. Slices with voxels that are not labeled (`ignore` of dataset.json) count as slices with a tumor. A scan and its
    blocks name its `patient`, so that they are held out together; it is called as its file where dataset.json does not
    say. All channels of a scan are cut alike. Files that stay as they are become hard links where the disk allows it,
    so do not edit them in place.

    Args:
        dataset_dir: folder with a dataset.json; all its files are NIfTI.
        output_dir: folder to make; it may exist when it is empty.
        min_slices: of a block.
        axis: of the voxel array of the files, to which the slices are perpendicular.
        tumor_slices: CSV file with the columns `image`, `first` and `last`, a row for each run of slices with a tumor,
            from 0, both ends included: no label is needed then. `image` is a file of dataset.json, or its name without
            suffix. A scan without any tumor has a row without numbers. Only scans with a row are cut, whatever their
            labels.
        tumor_labels: values that are a tumor, separated by commas: these become 1 in the labels, and all else 0. All
            values above 0 are, and the labels stay as they are, if not given.
        organ_labels: with `tumor_labels`, values that are inside the organ, tumors included, separated by commas: a
            mask of these is written for each labeled scan.
        organ: `brain` (MR) or `body` (CT): a mask of it is found in the first channel of each whole scan, and written,
            where none is listed.
        extent: mm that each volume has along its three axes, separated by commas, where the voxel sizes in the files
            are not the true ones.
    """
    POSITIVE_INT.check("min_slices", min_slices)
    check_choice("axis", axis, range(3))
    tumors, organs = _read_values("tumor_labels", tumor_labels), _read_values("organ_labels", organ_labels)
    if organs and not tumors:
        raise InputError(f"tumor_labels must be given with organ_labels, got none with {organs}; pass --tumor_labels")
    if organs and not {*tumors} <= {*organs}:
        raise InputError(f"organ_labels must include tumor_labels {tumors}, got {organs}; add them")
    if organ is not None:
        check_choice("organ", organ, ORGAN_FINDERS)
    if organ and organs:
        raise InputError(f"organ must not be given with organ_labels, got {organ!r} and {organs}; leave out one")
    if extent is not None:
        POSITIVE.list.check("extent", extent)
        if len(extent) != 3:
            raise InputError(f"extent must be three lengths in mm, got {extent!r}")
    content = _read(Path(dataset_dir), tumors + organs, tumor_slices is None)
    table = None if tumor_slices is None else _read_table(Path(tumor_slices), content)
    if organs and any("organ" in case for name in _LISTS[:3] for case in content[name]):
        raise InputError("organ_labels must not be given for a data set that lists organs, got both; leave it out")
    for key, value in [item for name in _LISTS for case in content[name] for item in case.items()]:
        for file in _files(value) if key in _KEYS else ():
            if not file.lower().endswith(_SUFFIXES):
                raise InputError(f"{file}: {key} must be a {' or '.join(_SUFFIXES)} file; convert it")

    blocks: list[Item] = []

    def write(root: Path) -> None:
        source = Path(dataset_dir)
        for name in ("training", "validation", "test"):
            content[name] = [_take_case(source, root, case, tumors, organs, extent) for case in content[name]]
        content["unlabeled"] = [_take_case(source, root, case, (), (), extent) for case in content["unlabeled"]]
        for case in [case for name in _LISTS for case in content[name] if organ and "organ" not in case]:
            case["organ"] = _find_organ(root, _files(case["image"])[0], str(organ))
        scans = [*content["training"], *(content["unlabeled"] if table else [])]
        ids = Counter(case_id(case["image"]) for case in scans)
        for case in scans:
            name = case_id(case["image"])
            case.setdefault("patient", name if ids[name] == 1 else _files(case["image"])[0])
            if table is None:
                has_tumor = _slices_with_label(root, case["label"], axis)
            elif name in table:
                has_tumor = _slices_in(table[name], _open(root / _files(case["image"])[0]).shape[axis], name)
            else:
                continue
            blocks.extend(_cut(root, case, has_tumor, min_slices, axis))
        if not blocks:
            raise InputError(
                f"{source}: a scan must have {min_slices} slices without a tumor in a row, got none; lower min_slices"
            )
        labels = {"0": "background", "1": "tumor"} if tumors else content["labels"]
        write_datalist(root, {**content, "labels": labels, "normal": blocks})

    folder = write_folder(output_dir, write)
    origin = f"{len(content['training'])} training scans" if table is None else f"{len(table)} scans of {tumor_slices}"
    return f"{folder}: {len(blocks)} blocks without a tumor, of {origin}"


def _read_values(name: str, values: Any) -> tuple[int, ...]:
    """Return label values from what the command line delivers: one number, several, or none."""
    values = () if values is None else values if isinstance(values, list | tuple) else (values,)
    POSITIVE_INT.list.check(name, values)
    return tuple(values)


def _read_table(path: Path, content: Mapping[str, Any]) -> dict[str, list[tuple[int, int]]]:
    """Return the runs of slices with a tumor, first and last, of each scan of a table, by its name."""
    if not path.is_file():
        raise MissingFileError(f"{path}: tumor_slices must be a file, got none; write a table image,first,last")
    known = [case_id(case["image"]) for name in ("training", "unlabeled") for case in content[name]]
    twice = sorted(name for name, count in Counter(known).items() if count > 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file, skipinitialspace=True)]
    if not rows or not {"image", "first", "last"} <= rows[0].keys():
        raise InputError(f"{path}: must have the columns image, first and last and a row, got {[*(rows or [{}])[0]]}")
    table: dict[str, list[tuple[int, int]]] = {}
    for number, row in enumerate(rows, start=2):
        name, ends = case_id(str(row["image"]).strip()), [str(row[end] or "").strip() for end in ("first", "last")]
        if name not in known or name in twice:
            kind = "the name of one scan" if name in twice else "a training or an unlabeled scan"
            raise InputError(f"{path}, line {number}: image must be {kind} of dataset.json, got {row['image']!r}")
        if any(ends) and not all(end.isdecimal() for end in ends):
            raise InputError(f"{path}, line {number}: first and last must be whole numbers from 0, got {ends}")
        runs = table.setdefault(name, [])
        if any(ends):
            runs.append((int(ends[0]), int(ends[1])))
    return table


def _slices_in(runs: Sequence[tuple[int, int]], num_slices: int, name: str) -> np.ndarray:
    """Return which slices lie in runs of them."""
    has_tumor = np.zeros(num_slices, bool)
    for first, last in runs:
        if not first <= last < num_slices:
            raise InputError(
                f"{name}: tumor_slices must be runs within 0 to {num_slices - 1}, got {first} to {last}; look at axis"
            )
        has_tumor[first : last + 1] = True
    return has_tumor


def _read(dataset_dir: Path, values: Sequence[int], needs_labels: bool) -> dict[str, Any]:
    """Return what `dataset.json` says, each case as a dictionary, once `read_cases` has found it right."""
    path = dataset_dir / "dataset.json"
    cases = read_cases(dataset_dir, is_pretraining=True)
    raw = json.loads(path.read_text(encoding="utf-8-sig"))
    labels = cases.labels
    scored = [*cases.training, *cases.validation, *cases.test]
    open_keys = [key for key in ("classes", *(["ignore"] if values else [])) if any(key in case for case in scored)]
    if open_keys:
        raise InputError(
            f"{path}: labels must be whole, so that no tumor is missed, got {open_keys[0]}; list the scans that are "
            "labeled whole"
        )
    if needs_labels and not raw.get("training"):
        raise InputError(
            f"{path}: training must list at least 1 labeled scan, got none; `python -m tools.datalist` lists "
            "those of folders, or pass --tumor_slices"
        )
    if "testing" in raw:
        raw["test"] = raw.pop("testing")
    if raw.get("normal"):
        raise InputError(
            f"{path}: must list no normal scans yet, got {len(raw['normal'])}; give the data set as it was before"
        )
    foreign = sorted(value for value in values if labels and value not in labels)
    if foreign:
        raise InputError(f"tumor_labels and organ_labels must be among {sorted(labels)}, got {foreign}")
    lists = {
        name: [case if isinstance(case, dict) else {"image": case} for case in raw.get(name, [])] for name in _LISTS
    }
    return {"labels": {}, **raw, **lists}


def _take_case(
    source: Path, root: Path, case: Item, tumors: Sequence[int], organs: Sequence[int], extent: Sequence[float] | None
) -> Item:
    """Put the files of a case into the new folder under their old names, and return the case with its new organ."""
    taken = {key: case[key] for key in _KEYS if key in case}
    for key, name in [(key, name) for key, value in taken.items() for name in _files(value)]:
        check_gzip(source / name)
        if key == "label" and tumors:
            _write_mask(source / name, root / name, tumors)
        else:
            _link(source / name, root / name)
        if extent:
            _set_extent(root / name, extent)
    if "label" in taken and organs:
        taken["organ"] = f"organs/{Path(taken['label']).as_posix()}"
        _write_mask(source / taken["label"], root / taken["organ"], organs)
        if extent:
            _set_extent(root / taken["organ"], extent)
    return taken | {key: case[key] for key in _FOLLOWING if key in case}


def _files(value: str | Sequence[str]) -> list[str]:
    """Return the files of an image, one or one for each channel, or that of another volume."""
    return [value] if isinstance(value, str) else [*value]


def _set_extent(path: Path, extent: Sequence[float]) -> None:
    """Replace a file by one whose voxels are so large that the volume has this extent; its directions stay."""
    scan = _open(path)
    affine = scan.affine.copy()
    edges = np.asarray(extent) / scan.shape[:3]
    affine[:3, :3] *= edges / np.linalg.norm(affine[:3, :3], axis=0)
    voxels = np.asanyarray(scan.dataobj)
    path.unlink()  # it may be a link to the file of the input
    _save(
        nib.Nifti1Image(voxels, affine, dtype=voxels.dtype),
        voxels.dtype if voxels.dtype.kind in "iu" else np.float32,
        path,
    )


def _find_organ(root: Path, image: str, organ: str) -> str:
    """Write the mask of an organ that is found in a scan, and return its name."""
    scan = _open(root / image)
    canonical: Any = nib.as_closest_canonical(scan)
    array = np.asanyarray(canonical.dataobj)
    first = array.reshape(*array.shape[:3], -1)[..., 0]
    mask = ORGAN_FINDERS[organ](first, canonical.header.get_zooms()[:3]).astype(np.uint8)
    if not mask.any():
        raise InputError(
            f"{image}: {organ} must be found in the scan, got an empty mask; choose another organ, or "
            "pass --organ_labels"
        )
    back = ornt_transform(io_orientation(canonical.affine), io_orientation(scan.affine))
    name = f"organs/{image}"
    _save(nib.Nifti1Image(apply_orientation(mask, back), scan.affine), np.uint8, root / name)
    return name


def _link(source: Path, target: Path) -> None:
    _make_room(target)
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _write_mask(source: Path, target: Path, values: Sequence[int]) -> None:
    """Write 1 where a label map has one of some values."""
    label = _open(source)
    mask = np.isin(_read_label(label, source), values).astype(np.uint8)
    _save(nib.Nifti1Image(mask, label.affine, label.header), np.uint8, target)


def _slices_with_label(root: Path, name: str, axis: int) -> np.ndarray:
    """Return which slices of a label have a value above 0."""
    others = tuple(other for other in range(3) if other != axis)
    return np.asarray((_read_label(_open(root / name), name) > 0).any(axis=others))


def _cut(root: Path, case: Item, has_tumor: np.ndarray, min_slices: int, axis: int) -> Iterator[Item]:
    """Write the blocks of a scan, and yield what `dataset.json` says of each."""
    others = tuple(other for other in range(3) if other != axis)
    images = _files(case["image"])
    has_organ: Any = np.full(len(has_tumor), True)
    if "organ" in case:
        organ = _open(root / case["organ"])
        has_organ = (np.asanyarray(organ.dataobj) > 0).reshape(organ.shape[:3]).any(axis=others)
    for is_free, run in groupby(range(len(has_tumor)), key=lambda index: not has_tumor[index]):
        slices = list(run)
        if not is_free or has_organ[slices].sum() < min_slices:
            continue
        window = [slice(None)] * 3
        window[axis] = slice(slices[0], slices[-1] + 1)
        names = [Path(image).with_name(f"{case_id(image)}_{slices[0]:04d}.nii.gz").as_posix() for image in images]
        parts = {f"normal/{name}": image for name, image in zip(names, images, strict=True)}
        block: Item = {"image": [*parts] if len(parts) > 1 else next(iter(parts))}
        if "organ" in case:
            block["organ"] = f"normal_organs/{names[0]}"
            parts[block["organ"]] = case["organ"]
        for name, file in parts.items():
            part = _open(root / file).slicer[tuple(window)]  # moves the affine
            voxels = np.asanyarray(part.dataobj)
            _save(part, voxels.dtype if voxels.dtype.kind in "iu" else np.float32, root / name)
        yield {**block, "patient": case["patient"]}


def _open(path: Path) -> Any:  # nibabel's annotation is that of any file
    return nib.load(path)


def _read_label(label: Any, path: str | Path) -> np.ndarray:
    array = np.asanyarray(label.dataobj)
    return check_label(array.reshape(array.shape[:3]), path)


def _make_room(path: Path) -> None:
    """Make the folder of a new file. What is there already may be a link to a file of the input."""
    if path.exists():
        raise InputError(
            f"{path.parent.name}/{path.name}: only one file must have this name, got one of the data "
            "set, too; rename it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def _save(image: nib.Nifti1Image, dtype: Any, path: Path) -> None:
    _make_room(path)
    image.set_data_dtype(dtype)  # values that a file scales would else be rounded another time
    nib.save(image, path)


if __name__ == "__main__":
    run_command(normals)
