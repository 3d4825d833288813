"""Data lists in the form of the Medical Segmentation Decathlon: read, checked, and cut into nested subsets."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from common.cli import InputError, MissingFileError, check_choice, check_flags

from .checks import check_grids
from .files import write_atomically
from .header import check_header
from .reader import case_id

__all__ = ["Cases", "read_cases", "read_images", "without_labels", "write_datalist"]

logger = logging.getLogger(__name__)

Item = dict[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Cases:
    """Cases of one fold, each a dictionary of absolute paths.

    A case may have an `organ`, too: a mask of where its lesions may lie. One with a label may have a `t2_map`: T2 in ms
    on the grid of its image, for the clinical metrics.

    Attributes:
        name: of the data set.
        labels: names of the classes by their value, background (0) included.
        modality: name of each channel of an image, such as CT or FLAIR; one empty name when the file has none.
        training: `image` and `label` of the labeled training cases.
        validation: `image` and `label` of the cases held out in this fold.
        unlabeled: `image` of the unlabeled cases, and of the training cases whose labels stay unused.
        test: `image`, and `label` where there is one.
        normal: `image` of the training scans without a lesion, and of those that are held out in this fold.
        normal_validation: the latter.
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

    def pretraining(self, include_val_images: bool = False, num_unlabeled: int | None = None) -> list[Item]:
        """Return every training case, every unlabeled one, and the validation cases if asked to, all without labels.

        Args:
            include_val_images: take the validation cases, too.
            num_unlabeled: unlabeled cases at most, None for all.
        """
        check_flags(include_val_images=include_val_images)
        if num_unlabeled is not None and num_unlabeled < 0:
            raise InputError(f"num_unlabeled must be 0 or more, got {num_unlabeled}")
        validation = self.validation if include_val_images else []
        return without_labels([*self.training, *self.unlabeled[:num_unlabeled], *validation])

    def held_out(self) -> list[Item]:
        """Return the `image` of every validation case or, where no case has a label, of a tenth of the unlabeled ones.

        The latter are learned from, too: without labels, nothing is held out.
        """
        return without_labels(self.validation or self.unlabeled[: max(len(self.unlabeled) // 10, 1)])

    def normals(self, split: str) -> list[Item]:
        """Return the scans without a lesion of `training` or `validation`; those of a single patient serve as both."""
        check_choice("split", split, ("training", "validation"))
        if not self.normal:
            raise InputError(
                "normal must list at least one scan without a lesion in dataset.json, got none; "
                "`python -m tools.normals` cuts blocks of slices without one from labeled scans"
            )
        held_out = self.normal_validation
        return held_out if split == "validation" else [case for case in self.normal if case not in held_out] or held_out

    def labeled(self, split: str) -> list[Item]:
        """Return the cases of `training`, `validation` or `test` that have a label, for evaluation."""
        check_choice("split", split, ("training", "validation", "test"))
        cases = [case for case in getattr(self, split) if "label" in case]
        if not cases:
            raise InputError(
                f"split {split} must hold cases with labels, got none; look at training, folds and test in dataset.json"
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
) -> Cases:
    """Read `dataset.json`, refuse what is wrong with it or with the headers of its files, and choose a fold's cases.

    The list of the training cases, sorted and shuffled by `seed`, is cut into `num_folds` parts, unless the file has
    `folds`: a list, one entry per fold, of lists of case ids (file names without suffix). The part of `fold` is held
    out. The others are put into an order of their own; the first `num_labeled` keep their labels and the rest counts
    as unlabeled, so that fewer labeled cases always lie inside more. Of the scans that the file lists as `normal`, a
    part of `num_folds` is held out, too, whatever its `folds` are; those with the same `case`, the name of a patient,
    are held out together.

    Args:
        dataset_dir: folder that holds `dataset.json` and every file it lists.
        fold: from 0 to the number of folds minus 1.
        num_folds: number of parts; not used when the file has `folds`.
        num_labeled: labeled training cases, None for all.
        num_validation: validation cases at most, None for all; the others held out are not used at all.
        seed: of the folds and of the order of the training cases.
        allow_2d: take 2D images, too, and `.png` files; otherwise a 2D image is refused.

    Raises:
        FileNotFoundError: when `dataset.json` or a file that it lists is missing.
        ValueError: when the file is malformed, lists a file twice or outside of `dataset_dir`, a header is bad, a label
            or an organ is not on the grid of its image, or an argument is out of range.
    """
    path = Path(dataset_dir).expanduser().absolute() / "dataset.json"
    content = _load(path)
    training = [_item(path, case, ("image", "label")) for case in content["training"]]
    patients = _by_patient(path, content["normal"])
    test, unlabeled, normal = (_images(path, content[key]) for key in ("test", "unlabeled", "normal"))
    _check_files([*training, *test, *unlabeled, *normal])
    for case in [*training, *test, *unlabeled, *normal]:
        image = check_header(case["image"], allow_2d=allow_2d)
        for key in [key for key in ("label", "organ", "t2_map") if key in case]:
            check_grids(image, check_header(case[key], allow_2d=allow_2d), case[key], key)

    held_out = _choose_fold(path, training, content["folds"], fold, num_folds, seed) if training else []
    rest = sorted((case for case in training if case not in held_out), key=lambda case: case["image"])
    rest = [rest[index] for index in np.random.RandomState([seed, fold]).permutation(len(rest))]
    if num_labeled is not None and num_labeled not in range(1, len(rest) + 1):
        raise InputError(f"num_labeled must be between 1 and {len(rest)} in {path}, got {num_labeled}")
    if num_validation is not None and num_validation < 1:
        raise InputError(f"num_validation must be 1 or more, got {num_validation}")
    modality = content["modality"]
    return Cases(
        name=str(content["name"]),
        labels=_read_labels(path, content["labels"]),
        modality=[str(name) for name in modality.values()] if isinstance(modality, dict) else [str(modality)],
        training=rest[:num_labeled],
        validation=held_out[:num_validation],
        unlabeled=without_labels([*unlabeled, *(rest[num_labeled:] if num_labeled else [])]),
        test=test,
        normal=normal,
        normal_validation=[case for patient in _part(patients, fold, num_folds, seed) for case in patient],
    )


def read_images(dataset_dir: str | Path) -> tuple[list[str], list[str]]:
    """Read from `dataset.json` which scans have a label and which have none.

    Returns:
        Images of the training cases, of which there may be none or one, too, and of the unlabeled ones.

    Raises:
        FileNotFoundError: when `dataset.json` or a file that it lists is missing.
        ValueError: when the file is malformed, or lists a file twice or outside of `dataset_dir`.
    """
    path = Path(dataset_dir).expanduser().absolute() / "dataset.json"
    content = _load(path)
    training = [_item(path, case, ("image", "label")) for case in content["training"]]
    unlabeled = _images(path, content["unlabeled"])
    _check_files([*training, *unlabeled])
    return [case["image"] for case in training], [case["image"] for case in unlabeled]


def write_datalist(dataset_dir: str | Path, content: dict[str, Any]) -> Path:
    """Write `dataset.json` as a whole or not at all, and return its path."""
    text = json.dumps(content, indent=1) + "\n"
    return write_atomically(Path(dataset_dir) / "dataset.json", lambda path: path.write_text(text, encoding="utf-8"))


def without_labels(cases: Sequence[Item]) -> list[Item]:
    """Return the images of some cases, and their organs, to be learned from without labels."""
    return [{key: case[key] for key in ("image", "organ") if key in case} for case in cases]


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path}: must exist, got no such file; `python -m tools.datalist` writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: must be JSON, got {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object, got a {type(content).__name__}")
    for key in ("training", "test", "unlabeled", "normal", "folds"):
        if not isinstance(content.setdefault(key, []), list):
            raise InputError(f"{path}: {key} must be a list, got a {type(content[key]).__name__}")
    return {"name": path.parent.name, "labels": {}, "modality": "", **content}


def _images(path: Path, cases: list[Any]) -> list[Item]:
    """Return the absolute paths of cases that need no label; one may be the path of its image alone."""
    return [_item(path, case if isinstance(case, dict) else {"image": case}, ("image",)) for case in cases]


def _by_patient(path: Path, cases: list[Any]) -> list[list[Item]]:
    """Return the normal scans of each patient; one without a `case` is that of a patient of its own."""
    scans: dict[tuple[str, str], list[Item]] = {}
    for case, item in sorted(zip(cases, _images(path, cases), strict=True), key=lambda pair: pair[1]["image"]):
        name = case.get("case") if isinstance(case, dict) else None
        if name is not None and not (isinstance(name, str) and name):
            raise InputError(f"{path}: case of a normal scan must be the name of a patient, got {name!r}")
        scans.setdefault(("image", item["image"]) if name is None else ("case", name), []).append(item)
    return list(scans.values())


def _item(path: Path, case: Any, keys: Sequence[str]) -> Item:
    """Return the absolute paths of a case; it must have `keys`, and may have a label, an organ and a T2 map."""
    if not isinstance(case, dict) or any(key not in case for key in keys):
        raise InputError(f"{path}: every case must have {' and '.join(keys)}, got {case}")
    return {key: _locate(path, case[key]) for key in ("image", "label", "organ", "t2_map") if key in case}


def _locate(path: Path, name: Any) -> str:
    relative = PurePosixPath(name) if isinstance(name, str) else None
    if relative is None or not relative.name or relative.is_absolute() or ".." in relative.parts:
        raise InputError(f"{path}: every file must lie inside {path.parent}, got {name!r}")
    return str(path.parent / relative)


def _read_labels(path: Path, labels: Any) -> dict[int, str]:
    """Return names by value, from `{"0": "background"}` or, as nnU-Net writes it, from `{"background": 0}`."""
    try:
        if all(key.isdecimal() for key in labels):
            names = {int(value): str(name) for value, name in labels.items()}
        else:
            names = {int(value): str(name) for name, value in labels.items()}
    except (AttributeError, TypeError, ValueError):
        names = {-1: ""}
    if not isinstance(labels, dict) or sorted(names) != list(range(len(labels))):
        raise InputError(f"{path}: labels must name 0, 1, 2 and so on without a gap, got {labels}")
    return dict(sorted(names.items()))


def _choose_fold(
    path: Path, training: list[Item], folds: list[Any], fold: int, num_folds: int, seed: int
) -> list[Item]:
    """Return the cases held out in one fold."""
    num_folds = len(folds) if folds else num_folds
    if not folds and num_folds not in range(2, len(training) + 1):
        raise InputError(f"num_folds must be between 2 and {len(training)}, the cases of {path}, got {num_folds}")
    if fold not in range(num_folds):
        raise InputError(f"fold must be between 0 and {num_folds - 1} in {path}, got {fold}")
    if not folds:
        return _part(sorted(training, key=lambda case: case["image"]), fold, num_folds, seed)
    by_id = {case_id(case["image"]): case for case in training}
    if len(by_id) < len(training):
        repeated = _repeated(case_id(case["image"]) for case in training)
        raise InputError(f"{path}: file names must differ when there are folds, got {repeated[0]} twice")
    for ids in folds:
        wrong = [name for name in ids if name not in by_id] or _repeated(ids)
        if wrong:
            raise InputError(f"{path}: folds must hold ids of training cases, each once, got {wrong[0]!r}")
    return [by_id[name] for name in folds[fold]]


def _part(cases: list[_T], fold: int, num_folds: int, seed: int) -> list[_T]:
    """Return one of `num_folds` random parts of some cases, or one case when there are fewer than that."""
    num_folds = max(min(num_folds, len(cases)), 1)
    parts = np.array_split(np.random.RandomState(seed).permutation(len(cases)), num_folds)
    return [cases[index] for index in parts[fold % num_folds]]


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_files(cases: list[Item]) -> None:
    """Refuse a missing file and one listed twice; warn of images whose content is the same."""
    files = [Path(file) for case in cases for file in case.values()]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise MissingFileError(f"{missing[0]}: must exist, got no such file ({len(missing)} missing in all)")
    repeated = _repeated(file.resolve() for file in files)
    if repeated:
        raise InputError(f"{repeated[0]}: must be listed once, got it twice ({len(repeated)} such files in all)")
    seen: dict[tuple[int, str], str] = {}
    images = [case["image"] for case in cases]
    sizes = Counter(sizes_of := [Path(image).stat().st_size for image in images])
    for image, size in zip(images, sizes_of, strict=True):
        if sizes[size] > 1:
            first = seen.setdefault((size, _fingerprint(image, size)), image)
            if first != image:
                logger.warning("%s: holds the same as %s", image, first)


def _fingerprint(path: str, size: int) -> str:
    """Hash 64 kB from the middle of a file; those at its beginning are air in every CT without compression."""
    with Path(path).open("rb") as file:
        file.seek(max(size // 2 - 2**15, 0))
        return hashlib.sha256(file.read(2**16)).hexdigest()
