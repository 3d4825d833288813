"""Data lists: read, checked, and cut into nested subsets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.cli import (
    BundleError,
    InputError,
    MissingFileError,
    check_choice,
    check_flags,
    is_scratch,
    keep_going,
)

from .checks import check_grids
from .dataset_file import Case, DatasetFile, Item, image_files, read_dataset_file
from .dicom import is_dicom
from .files import write_atomically
from .header import check_header
from .outcomes import refuse_case
from .pseudo_labels import read_pseudo_labels
from .reader import case_id
from .threads import map_threads

__all__ = ["Cases", "read_cases", "read_images", "without_labels", "write_datalist"]

logger = logging.getLogger(__name__)

_GZIP_END = 8  # bytes

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cases:
    """Cases of one fold, each a dictionary of absolute paths; an `image` is a list where each channel has its own file.

    A case may have an `organ`, too: a mask of where its lesions may lie. One with a label may have a `t2_map`: T2 in ms
    on the grid of its image, for the clinical metrics.

    Attributes:
        name: of the data set.
        labels: names of the classes by their value, background (0) included.
        modality: name of each channel of an image, such as CT or FLAIR; one empty name when the file has none.
        training: `image` and `label` of the labeled training cases; where several files of the list have one name, a
            `case_id`, too, with the folder in front, by which they are told apart. What their labels leave open is told
            by `ignore` and `classes`, see `LoadVolumesd`.
        validation: `image` and `label` of the cases held out in this fold; those of a single patient serve as both.
        unlabeled: `image` of the unlabeled cases, and of the training cases whose labels stay unused.
        test: `image`, and `label` where there is one.
        normal: `image` of the training scans without a lesion, and of those that are held out in this fold.
        normal_validation: the latter.
        unlabeled_validation: `image` of the unlabeled cases whose patients are held out in this fold.
        pseudo_labeled: `image`, `label` and `confidence` of the unlabeled cases that have a pseudo-label.
    """

    name: str
    labels: dict[int, str]
    modality: list[str]
    training: list[Item]
    validation: list[Item]
    unlabeled: list[Item]
    test: list[Item]
    normal: list[Item] = field(default_factory=list)
    normal_validation: list[Item] = field(default_factory=list)
    unlabeled_validation: list[Item] = field(default_factory=list)
    pseudo_labeled: list[Item] = field(default_factory=list)

    def pretraining(self, include_val_images: bool = False, num_unlabeled: int | None = None) -> list[Item]:
        """Return every training case, every unlabeled one, and the validation cases if asked to, all without labels.

        Where there is none, the validation cases or the scans without a lesion take their place.

        Args:
            include_val_images: take the validation cases, too.
            num_unlabeled: unlabeled cases at most, None for all.
        """
        check_flags(include_val_images=include_val_images)
        if num_unlabeled is not None and num_unlabeled < 0:
            raise InputError(f"num_unlabeled must be 0 or more, got {num_unlabeled}")
        if not self.training and not self.unlabeled:
            instead = [*self.validation, *self.unlabeled_validation]
            return without_labels(instead or (self.normals("training") if self.normal else []))
        held_out = [*self.validation, *self.unlabeled_validation] if include_val_images else []
        new = [case for case in held_out if case not in self.training]
        return without_labels([*self.training, *self.unlabeled[:num_unlabeled], *new])

    def held_out(self) -> list[Item]:
        """Return the `image` of every validation case or, where no case has a label, of a tenth of the others.

        The latter are learned from, too: without labels, nothing is held out.
        """
        if self.validation:
            return without_labels(self.validation)
        if not self.training and not self.unlabeled and self.normal:
            return without_labels(self.normals("validation"))
        others = self.unlabeled or self.training
        return without_labels(others[: max(len(others) // 10, 1)])

    def scans(self, split: str) -> list[Item]:
        """Return the `image` of every case of `test` or `validation`, for what is evaluated without labels."""
        check_choice("split", split, ("test", "validation"))
        cases = [*self.test] if split == "test" else [*self.validation, *self.unlabeled_validation]
        if not cases:
            raise InputError(f"split {split} must hold cases, got none; list scans as {split} in dataset.json")
        return without_labels(cases)

    def normals(self, split: str) -> list[Item]:
        """Return the scans without a lesion of `training` or `validation`; those of a single patient serve as both."""
        check_choice("split", split, ("training", "validation"))
        if not self.normal:
            raise InputError(
                "normal must list at least one scan without a lesion in dataset.json, got none; "
                "`python -m tools.normals` cuts blocks of slices without one from labeled scans"
            )
        held_out = self.normal_validation or self.normal
        return held_out if split == "validation" else [case for case in self.normal if case not in held_out] or held_out

    def supervised(self) -> list[Item]:
        """Return what a network is trained on: the labeled training cases, and then those with pseudo-labels."""
        return [*(self.labeled("training") if self.training or not self.pseudo_labeled else []), *self.pseudo_labeled]

    def labeled(self, split: str) -> list[Item]:
        """Return the cases of `training`, `validation` or `test` that have a label, for evaluation.

        Where no validation case has one, a tenth of those with pseudo-labels take their place.
        """
        check_choice("split", split, ("training", "validation", "test"))
        cases = [case for case in getattr(self, split) if "label" in case]
        if not cases and split == "validation" and self.pseudo_labeled:
            logger.warning(
                "no validation case has a label: the score compares with pseudo-labels, so decide nothing by it"
            )
            share = self.pseudo_labeled[: max(len(self.pseudo_labeled) // 10, 1)]
            cases = [{key: value for key, value in case.items() if key != "confidence"} for case in share]
        if not cases:
            others = [name for name in ("validation", "training") if getattr(self, name) and split == "test"]
            instead = f", or pass --split {others[0]}" if others else ""
            if split == "training" and self.unlabeled:
                instead = ", or pass --pseudo_labels (docs/self_training.md)"
            raise InputError(
                f"split {split} must hold cases with labels, got none; look at training, folds and test in "
                f"dataset.json{instead}"
            )
        return cases


def read_cases(
    dataset_dir: str | Path,
    fold: int = 0,
    num_folds: int = 5,
    num_labeled: int | None = None,
    num_validation: int | None = None,
    seed: int = 0,
    allow_2d: bool = False,
    is_pretraining: bool = False,
    pseudo_labels: str | Path | None = None,
    keep_refused: bool = False,
) -> Cases:
    """Read `dataset.json`, refuse what is wrong with it or with the headers of its files, and choose a fold's cases.

    The list of the training cases, sorted and shuffled by `seed`, is cut into `num_folds` parts, or into as many as
    there are cases when these are fewer, and the part of `fold` is held out. A single case serves for training and for
    validation. The file may hold out cases by itself: by `validation`, a list of cases; by a `fold` of each training
    case; or by `folds`, a list, one entry per fold, of lists of case ids (file names without suffix; with the folder in
    front, as `patient_1_image`, where several have one name).

    The other training cases are put into an order of their own; the first `num_labeled` keep their labels and the rest
    counts as unlabeled, so that fewer labeled cases always lie inside more. Of the scans that the file lists as
    `normal`, a part of `num_folds` is held out, too, whatever its `folds` are.

    Cases with the same `patient` stay together. They are in training, in validation or in test, also those without
    labels. Of the order of the training cases, the first patient is always taken, and the next ones for as long as
    they have no more than `num_labeled` scans in all; so it is with `num_validation`.

    Args:
        dataset_dir: folder that holds `dataset.json` and every file it lists.
        fold: from 0 to the number of folds minus 1.
        num_folds: number of parts at most; not used when the file holds out cases by itself.
        num_labeled: labeled training cases, None for all; with 0, a training has pseudo-labels alone.
        num_validation: validation cases at most, None for all; the others held out are not used at all.
        seed: of the folds and of the order of the training cases.
        allow_2d: take 2D images, too, and `.png` files; otherwise a 2D image is refused.
        is_pretraining: no label is learned from: `fold` may be any of `num_folds`, however few cases have a label.
        pseudo_labels: folder of those of unlabeled cases, see `read_pseudo_labels`; none if not given.
        keep_refused: a case with a bad header or a missing file stays in its list, with `outcome` and `reason`, and a
            `CaseLoader` leaves it out; otherwise the error is raised.

    Raises:
        FileNotFoundError: when `dataset.json` or a file that it lists is missing.
        ValueError: when the file is malformed, lists a file twice or outside of `dataset_dir`, has a patient on both
            sides, a header is bad, a channel, label or organ is not on the grid of its image, or an argument is out of
            range.
    """
    path = _find_file(dataset_dir)
    listed = _read_listed(path, keep_refused)
    items = [item for item in _items(_all_cases(listed)) if not any(map(_is_missing, _files(item)))]
    map_threads(lambda item: _look_at(path, item, listed.modality, allow_2d, keep_refused), items)

    patients = _by_patient(sorted(listed.training, key=_name))
    way = _own_way(path, listed)
    held_out = _hold_out(path, listed, way, patients, fold, num_folds, seed, is_pretraining)
    is_shared = way is None and len(patients) == 1
    if is_shared and not is_pretraining:
        logger.warning(
            "%s: has labels of one %s, so training and validation share them, and the validation score tells nothing "
            "of new scans; label another one",
            path,
            "case" if len(held_out) == 1 else "patient",
        )
    training = held_out if is_shared else [case for case in listed.training if case not in held_out]
    _check_patients(path, listed, training, [] if is_shared else held_out)
    patients = _by_patient(sorted(training, key=_name))
    patients = [patients[index] for index in np.random.RandomState([seed, fold]).permutation(len(patients))]
    if num_labeled is not None and num_labeled not in range(len(training) + 1):
        left = f"between 0 and {len(training)} in {path}, the labels that fold {fold} leaves" if training else "null"
        where = "" if training else f", since {path} has no label to train on"
        raise InputError(f"num_labeled must be {left}, got {num_labeled}{where}; null takes all")
    if num_validation is not None and num_validation < 1:
        raise InputError(f"num_validation must be 1 or more, got {num_validation}; null takes all")
    labeled, rest = _take(patients, num_labeled, "num_labeled")
    rest = [case for case in rest if case not in held_out]
    validation, _ = _take(_by_patient(held_out), num_validation, "num_validation")

    away = set() if is_shared else {case.patient for case in held_out} - {None}
    normal_away = _hold_out_normals(listed, {case.patient for case in training} - {None}, away, fold, num_folds, seed)
    unlabeled = [case for case in listed.unlabeled if case.patient not in away]
    cases = Cases(
        name=listed.name,
        labels=listed.labels,
        modality=listed.modality,
        training=_items(labeled),
        validation=_items(validation),
        unlabeled=without_labels(_items([*unlabeled, *rest])),
        test=_items(listed.test),
        normal=_items(listed.normal),
        normal_validation=_items(normal_away),
        unlabeled_validation=_items(case for case in listed.unlabeled if case.patient in away),
    )
    if is_scratch(pseudo_labels):
        return cases
    others = {"labeled": cases.training, "validation": _items(held_out), "test": cases.test}
    pseudo = read_pseudo_labels(str(pseudo_labels), path.parent, cases.labels, cases.unlabeled, others)
    return dataclasses.replace(cases, pseudo_labeled=pseudo)


def read_images(dataset_dir: str | Path) -> tuple[list[Any], list[Any]]:
    """Read from `dataset.json` which scans have a label and which have none.

    Returns:
        Images of the training and validation cases, of which there may be none or one, too, and of the unlabeled ones;
        one that has a file for each channel is a list.

    Raises:
        FileNotFoundError: when `dataset.json` or a file that it lists is missing.
        ValueError: when the file is malformed, or lists a file twice or outside of `dataset_dir`.
    """
    listed = read_dataset_file(_find_file(dataset_dir))
    labeled, unlabeled = _items([*listed.training, *listed.validation]), _items(listed.unlabeled)
    _check_files([*labeled, *unlabeled])
    return [case["image"] for case in labeled], [case["image"] for case in unlabeled]


def write_datalist(dataset_dir: str | Path, content: dict[str, Any]) -> Path:
    """Write `dataset.json` as a whole or not at all, and return its path."""
    text = json.dumps(content, indent=1) + "\n"
    return write_atomically(Path(dataset_dir) / "dataset.json", lambda path: path.write_text(text, encoding="utf-8"))


def without_labels(cases: Sequence[Item]) -> list[Item]:
    """Return the images of some cases, and their organs, to be learned from without labels."""
    return [{key: case[key] for key in ("image", "organ") if key in case} for case in cases]


def _find_file(dataset_dir: str | Path) -> Path:
    return Path(dataset_dir).expanduser().absolute() / "dataset.json"


def _read_listed(path: Path, is_kept: bool) -> DatasetFile:
    """Read the file, say which of its keys are not used, and refuse files that are missing or listed twice.

    Args:
        path: of the file.
        is_kept: note in the entry of a case that a file of it is missing, in place of an error.
    """
    listed = read_dataset_file(path)
    if listed.unused:
        logger.warning("%s: these keys mean nothing here and are not used: %s", path, ", ".join(listed.unused))
    _check_files(_items(_all_cases(listed)), is_kept)
    return listed


def _all_cases(listed: DatasetFile) -> list[Case]:
    return [*listed.training, *listed.validation, *listed.test, *listed.unlabeled, *listed.normal]


def _items(cases: Iterable[Case]) -> list[Item]:
    return [case.item for case in cases]


def _name(case: Case) -> str:
    return image_files(case.item)[0]


def _by_patient(cases: Iterable[Case]) -> list[list[Case]]:
    """Return the cases of each patient, in the order of the first ones; one without a name is a patient alone."""
    patients: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        key = ("image", _name(case)) if case.patient is None else ("patient", case.patient)
        patients.setdefault(key, []).append(case)
    return list(patients.values())


def _take(patients: list[list[Case]], number: int | None, name: str) -> tuple[list[Case], list[Case]]:
    """Return the cases of the first patients, of whom there are `number` cases at most, and those of the others."""
    if number == 0:
        return [], [case for patient in patients for case in patient]
    first: list[Case] = []
    others: list[Case] = []
    for patient in patients:
        fits = number is None or len(first) + len(patient) <= number
        (first if not first or (fits and not others) else others).extend(patient)
    if number is not None and (len(first) > number or (others and len(first) < number)):
        logger.warning(
            "%s: %d asked for, %d used, since the scans of a patient stay together", name, number, len(first)
        )
    return first, others


def _look_at(path: Path, item: Item, modality: Sequence[str], allow_2d: bool, is_kept: bool) -> None:
    """Refuse a case whose headers are bad: raise the error, or keep it in the entry of the case."""
    try:
        _check_headers(path, item, modality, allow_2d)
    except (BundleError, OSError) as error:
        if not is_kept:
            raise
        refuse_case(item, error)


def _check_headers(path: Path, item: Item, modality: Sequence[str], allow_2d: bool) -> None:
    """Refuse a case unless all its files have a good header and lie on one grid."""
    files = image_files(item)
    image, *channels = (check_header(file, allow_2d=allow_2d) for file in files)
    for file, header in zip(files, (image, *channels), strict=True):
        if len(files) > 1 and header.channels != 1:
            raise InputError(
                f"{file}: file of one channel must hold one number per voxel, got {header.channels}; list one file "
                "alone where it holds all channels"
            )
        check_grids(image, header, file, "channel", channels=None)
    if len(files) == 1 and image.channels != len(modality) and not image.is_2d:
        what = "list one file for each channel" if image.channels == 1 else f"name all {image.channels} in modality"
        raise InputError(
            f"{files[0]}: image must hold the {len(modality)} channel(s) that modality names in {path}, got "
            f"{image.channels}; {what}"
        )
    for key in [key for key in ("label", "organ", "t2_map") if key in item]:
        check_grids(image, check_header(item[key], allow_2d=allow_2d), item[key], key)


def _own_way(path: Path, listed: DatasetFile) -> str | None:
    """Return the key by which the file itself holds out cases, if it does."""
    with_fold = [case for case in listed.training if case.fold is not None]
    ways = {"validation": listed.validation, "folds": listed.folds, "fold": with_fold}
    used = [name for name, value in ways.items() if value]
    if len(used) > 1:
        raise InputError(f"{path}: cases must be held out in one way, got {' and '.join(used)}; keep one")
    if with_fold and len(with_fold) < len(listed.training):
        raise InputError(
            f"{path}: every training case must have a fold, or none, got {len(with_fold)} of {len(listed.training)}; "
            "add the others"
        )
    return used[0] if used else None


def _hold_out(
    path: Path,
    listed: DatasetFile,
    way: str | None,
    patients: list[list[Case]],
    fold: int,
    num_folds: int,
    seed: int,
    is_pretraining: bool,
) -> list[Case]:
    """Return the cases held out in one fold."""
    if way is None:
        if num_folds < 2:
            raise InputError(f"num_folds must be 2 or more, got {num_folds}; of a single labeled scan, pass nothing")
        number = min(num_folds, len(patients)) if patients and not is_pretraining else num_folds
        if number < num_folds:
            logger.info("%s: num_folds is %d, the number of labeled cases or patients", path, number)
        _check_fold(path, fold, range(number), f"{len(patients)} labeled cases or patients")
        return [case for patient in _part(patients, fold, number, seed) for case in patient]
    if way == "validation":
        _check_fold(path, fold, range(1), "a list of validation cases")
        return listed.validation
    if way == "fold":
        _check_fold(
            path, fold, sorted({case.fold for case in listed.training if case.fold is not None}), "a fold of each"
        )
        return [case for patient in patients for case in patient if case.fold == fold]
    _check_fold(path, fold, range(len(listed.folds)), "folds of its own")
    by_id = {case.item.get("case_id", case_id(case.item["image"])): case for case in listed.training}
    for ids in listed.folds:
        wrong = [name for name in ids if name not in by_id] or _repeated(ids)
        if wrong:
            raise InputError(f"{path}: folds must hold ids of training cases, each once, got {wrong[0]!r}; correct it")
    return [by_id[name] for name in listed.folds[fold]]


def _check_fold(path: Path, fold: int, allowed: Sequence[int], reason: str) -> None:
    if fold not in allowed:
        is_gapless = [*allowed] == list(range(len(allowed)))
        numbers = f"between 0 and {len(allowed) - 1}" if is_gapless else f"among {', '.join(map(str, allowed))}"
        raise InputError(f"fold must be {numbers} in {path}, which has {reason}, got {fold}; pass another --fold")


def _check_patients(path: Path, listed: DatasetFile, training: list[Case], held_out: list[Case]) -> None:
    """Refuse a patient who is trained and validated with, or who is learned from and tested with."""
    learned = [*listed.training, *listed.validation, *listed.unlabeled, *listed.normal]
    for first, second, names in (
        (training, held_out, "training and validation"),
        (learned, listed.test, "test and another list"),
    ):
        shared = {case.patient for case in first} & {case.patient for case in second} - {None}
        if shared:
            raise InputError(
                f"{path}: scans of a patient must stay together, got patient {min(map(str, shared))} in {names}; move "
                "them to one of the two"
            )


def _hold_out_normals(
    listed: DatasetFile, trained: set[str | None], away: set[str | None], fold: int, num_folds: int, seed: int
) -> list[Case]:
    """Return the normal scans held out: those of patients held out, and a part of those of patients without a label."""
    patients = _by_patient(sorted(listed.normal, key=_name))
    free = [patient for patient in patients if patient[0].patient not in trained | away]
    followers = [patient for patient in patients if patient[0].patient in away]
    return [case for patient in [*followers, *_part(free, fold, num_folds, seed)] for case in patient]


def _part(cases: list[_T], fold: int, num_folds: int, seed: int) -> list[_T]:
    """Return one of `num_folds` random parts of some cases, or one case when there are fewer than that."""
    num_folds = max(min(num_folds, len(cases)), 1)
    parts = np.array_split(np.random.RandomState(seed).permutation(len(cases)), num_folds)
    return [cases[index] for index in parts[fold % num_folds]]


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_files(cases: list[Item], is_kept: bool = False) -> None:
    """Refuse a missing file and one listed twice; warn of images whose content is the same.

    Args:
        cases: entries of a data list.
        is_kept: see `_read_listed`.
    """
    files = [file for case in cases for file in _files(case)]
    missing = [(case, file) for case in cases for file in _files(case) if _is_missing(file)]
    for case, file in missing:
        what, advice = _tell_missing(file)
        error = MissingFileError(f"{file}: {what} ({len(missing)} missing in all); {advice}")
        if is_kept:
            refuse_case(case, error)
            continue
        with keep_going():
            raise error
    first_of: dict[Path, Path] = {}
    for file in files:
        first = first_of.setdefault(file.resolve(), file)
        if first is not file:
            other = f", also as {first}" if first != file else ""
            with keep_going():
                raise InputError(f"{file}: must be listed once, got it twice{other}; remove one")
    seen: dict[str, str] = {}
    images = [file for case in cases for file in image_files(case) if Path(file).is_file()]
    counts = Counter(marks := [_mark(Path(image)) for image in images])
    for image, mark in zip(images, marks, strict=True):
        if counts[mark] > 1:
            content = f"{mark} {_fingerprint(image, mark)}" if isinstance(mark, int) else mark.hex()
            first_image = seen.setdefault(content, image)
            if first_image != image:
                logger.warning("%s: holds the same as %s; take one off the list", image, first_image)


def _files(item: Item) -> list[Path]:
    """Return all files of a case, and folders of DICOM series."""
    others = [item[key] for key in item if key not in ("image", "case_id", "classes", "ignore", "outcome", "reason")]
    return [Path(file) for file in (*image_files(item), *others)]


def _is_missing(file: Path) -> bool:
    return not file.is_file() and not (file.is_dir() and is_dicom(file))


def _tell_missing(file: Path) -> tuple[str, str]:
    """Return what is wrong with a file that is not there, and what to do: it may be a broken link, or lie below one."""
    for place in (file, *file.parents):
        if place.is_symlink() and not place.exists():
            where = "" if place == file else f"{place} "
            return f"must exist, {where}is a link to {place.readlink()}, which does not exist", "mend the link"
    if file.is_dir():
        return "must be a file or hold a DICOM series, got another folder", "name the file in it"
    name = case_id(file)
    of_nnunet = file.with_name(f"{name}_0000{file.name[len(name) :]}")
    advice = f"list {of_nnunet.name}, which is there" if of_nnunet.is_file() else "copy it there, or unlist it"
    return "must exist, got no such file", "write / between folders" if "\\" in file.name else advice


def _mark(path: Path) -> int | bytes:
    """Return the checksum and the length of what a gzip file holds, however compressed; of others the size."""
    size = path.stat().st_size
    if not path.name.lower().endswith(".gz") or size < _GZIP_END:
        return size
    with path.open("rb") as file:
        file.seek(-_GZIP_END, 2)
        return file.read()


def _fingerprint(path: str, size: int) -> str:
    """Hash 64 kB from the middle of a file; those at its beginning are air in every CT without compression."""
    with Path(path).open("rb") as file:
        file.seek(max(size // 2 - 2**15, 0))
        return hashlib.sha256(file.read(2**16)).hexdigest()
