"""File `dataset.json`: the forms of the Medical Segmentation Decathlon, of nnU-Net and of MONAI, read into one."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from common.cli import InputError, MissingFileError

from .container import PICTURE_SUFFIX, SUFFIXES
from .reader import case_id, check_name

__all__ = ["Case", "DatasetFile", "Item", "image_files", "list_channels", "read_dataset_file", "read_names"]

Item = dict[str, Any]

logger = logging.getLogger(__name__)

_LISTS = ("training", "validation", "test", "unlabeled", "normal", "folds")
_USED = (
    *(*_LISTS, "testing", "labels", "ignore", "name", "modality", "channel_names", "file_ending", "numTraining"),
    "renumbered",
)
_CASE_USED = ("image", "label", "classes", "organ", "t2_map", "patient", "case", "fold")
_METADATA = (
    *("authors", "citation", "comment", "converted_by", "date", "description", "license", "licence", "reference"),
    *("regions_class_order", "relase", "release", "source", "tensorImageSize", "url", "version"),
    "overwrite_image_reader_writer",
)  # `relase` stands in some files of the Decathlon
_CASE_METADATA = ("case_id", "comment", "description", "id", "name", "source")
_OTHER_WORDS = {
    "channels": "modality",
    "mask": "label",
    "masks": "label",
    "modalities": "modality",
    "seg": "label",
    "segmentation": "label",
    "subject": "patient",
    "subject_id": "patient",
    "train": "training",
    "val": "validation",
    "valid": "validation",
}
_SIMILAR = 0.8  # ratio of difflib, from which on another key is meant
_IGNORE = "ignore"  # the key, and nnU-Net's label of voxels that are not labeled
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """Case of a data list.

    Attributes:
        item: absolute path of each of its files; that of `image` is a list where each channel has a file of its own.
            Beside them stand `ignore`, the value of voxels of the label that are not labeled, and `classes`, those
            that are labeled where not all are; see `LoadVolumesd`.
        patient: name of the patient, if any is given.
        fold: fold in which it is held out, if the file says so.
    """

    item: Item
    patient: str | None = None
    fold: int | None = None


@dataclass(frozen=True)
class DatasetFile:
    """Content of a `dataset.json`, in one form whatever form it had.

    Attributes:
        name: of the data set.
        labels: names of the classes by their value.
        ignore: value of voxels that are not labeled, in the label files; None: all are.
        modality: name of each channel of an image.
        folds: ids of the cases held out in each fold; empty when the file has none.
        unused: names of its keys that mean nothing here.
        training: cases, also of the other lists.
    """

    name: str
    labels: dict[int, str]
    ignore: int | None
    modality: list[str]
    folds: list[list[str]]
    unused: list[str]
    training: list[Case]
    validation: list[Case]
    test: list[Case]
    unlabeled: list[Case]
    normal: list[Case]


def read_dataset_file(path: Path) -> DatasetFile:
    """Read a `dataset.json`; no other file is opened.

    Where nnU-Net wrote it, without a list of cases, they are found by nnU-Net's names: `imagesTr/<case>_0000.nii.gz`
    and so on for each channel, and `labelsTr/<case>.nii.gz`.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is malformed, has a key that is close to a known one, or lists a file outside its folder.
    """
    content = _read_json(path)
    unused = _find_unused(path, "the file", content, _USED, _METADATA)
    modality = _read_modality(path, content)
    if "testing" in content:
        if content.get("test"):
            raise InputError(f"{path}: test cases must stand in test or in testing, got both; keep one list")
        content["test"] = content["testing"]
    for key in _LISTS:
        if not isinstance(content.get(key, []), list):
            raise InputError(f"{path}: {key} must be a list, got {content[key]!r:.80}; write [] where there is none")
    if "training" not in content and isinstance(content.get("dataset"), dict):
        raise InputError(f"{path}: cases must be listed as training, got nnU-Net's dataset; list them as training")
    if "training" not in content and ("file_ending" in content or content.get("numTraining")):
        content |= _find_cases(path, content, len(modality))
    number = content.get("numTraining", len(content.get("training", [])))
    if number != len(content.get("training", [])):
        logger.warning("%s: numTraining is %s, training lists %d cases", path, number, len(content.get("training", [])))
    labels, ignore = _read_labels(path, content.get("labels", {})), _read_ignore(path, content)
    reader = _CaseReader(path, modality, labels, ignore)
    cases = {key: reader.read(key, content.get(key, [])) for key in _LISTS if key != "folds"}
    for scored in (cases["training"] + cases["validation"], cases["test"]):
        _tell_apart(path, scored)
    return DatasetFile(
        name=str(content.get("name", path.parent.name)),
        labels=labels,
        ignore=ignore,
        modality=modality,
        folds=_read_folds(path, content.get("folds", [])),
        unused=unused + reader.unused,
        **cases,
    )


def read_names(path: Path) -> tuple[dict[int, str], list[str]]:
    """Return the names of the classes by their value, and those of the channels, that a `dataset.json` has."""
    content = _read_json(path)
    return _read_labels(path, content.get("labels", {})), _read_modality(path, content)


def image_files(item: Mapping[str, Any]) -> list[str]:
    """Return the files of the image of a case, one or one for each channel."""
    image = item["image"]
    return [image] if isinstance(image, str) else list(image)


def list_channels(files: Iterable[Path], num_channels: int | None = None) -> dict[str, list[Path]]:
    """Return the files of each case in the order of its channels, by nnU-Net's names `<case>_0000`, `<case>_0001`.

    Args:
        files: of images.
        num_channels: that each case must have; None: as many as the first one.

    Raises:
        ValueError: when a name has no number of a channel, or a case lacks a channel or has one more.
    """
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(files):
        match = _CHANNEL.fullmatch(case_id(file))
        if match is None:
            raise InputError(f"{file}: name must end in the number of its channel, such as _0000, got none; add it")
        case, channel = match[1], int(match[2])
        if channel in found.setdefault(case, {}):
            raise InputError(f"{file}: must be the only file of its channel, got also {found[case][channel].name}")
        found[case][channel] = file
    for channels in found.values():
        num_channels = num_channels or len(channels)
        if sorted(channels) != list(range(num_channels)):
            first = next(iter(channels.values()))
            names = ", ".join(f"_{channel:04d}" for channel in sorted(channels))
            raise InputError(
                f"{first}: its case must have the channels _0000 to _{num_channels - 1:04d}, got {names}; add or "
                "remove files"
            )
    return {case: [channels[channel] for channel in sorted(channels)] for case, channels in found.items()}


class _CaseReader:
    """Reader of lists of cases.

    Attributes:
        unused: names of keys of cases that mean nothing here.
    """

    def __init__(self, path: Path, modality: Sequence[str], labels: Mapping[int, str], ignore: int | None) -> None:
        self.path = path
        self.modality = modality
        self.labels = labels
        self.ignore = ignore
        self.unused: list[str] = []

    def read(self, key: str, cases: Sequence[Any]) -> list[Case]:
        """Return the cases of a list; one that needs no label may be its image alone."""
        needed = ("image", "label") if key in ("training", "validation") else ("image",)
        found = []
        for case in cases:
            if needed == ("image",) and not isinstance(case, dict):
                case = {"image": case}
            if not isinstance(case, dict):
                raise InputError(
                    f"{self.path}: every case must have {' and '.join(needed)}, got {case!r:.80}; write "
                    '{"image": ..., "label": ...}'
                )
            known = [name for name in _CASE_USED if name not in _useless(key)]
            for name in _find_unused(self.path, f"a case of {key}", case, _CASE_USED, _CASE_METADATA, known):
                if (said := f"{name} (of a case of {key})") not in self.unused:
                    self.unused.append(said)
            if any(name not in case for name in needed):
                raise InputError(
                    f"{self.path}: every case must have {' and '.join(needed)}, got {case}; add what is missing, or "
                    "list the image as unlabeled"
                )
            files = {name: case[name] for name in ("label", "organ", "t2_map") if name in case and name in known}
            item: Item = {"image": self._locate_image(case["image"])}
            item |= {name: _locate(self.path, file) for name, file in files.items()}
            if "label" in item and self.ignore is not None:
                item["ignore"] = self.ignore
            if "label" in item and "classes" in case:
                item["classes"] = self._read_classes(case["classes"])
            found.append(Case(item, self._read_patient(key, case), self._read_fold(key, case)))
        return found

    def _locate_image(self, image: Any) -> str | list[str]:
        """Return the file of an image, or those of its channels where there are several."""
        if not isinstance(image, list):
            return _locate(self.path, image)
        files = [_locate(self.path, file) for file in image]
        if not files:
            raise InputError(f"{self.path}: image must name a file, or one for each channel, got an empty list")
        if len(files) != len(self.modality):
            raise InputError(
                f"{self.path}: modality must name each of the {len(files)} channels of {files[0]}, got "
                f'{self.modality}; write {{"0": "FLAIR", "1": "T1w"}}'
            )
        return files[0] if len(files) == 1 else files

    def _read_patient(self, key: str, case: Mapping[str, Any]) -> str | None:
        """Return the name of the patient of a case; that of a normal scan may be called `case`."""
        word = "case" if key == "normal" and "patient" not in case else "patient"
        name = case.get(word)
        if name is not None and not (isinstance(name, str) and name.strip()):
            where = "of a normal scan " if word == "case" else ""
            raise InputError(
                f"{self.path}: {word} {where}must be the name of a patient, got {name!r}; write it as text"
            )
        return name

    def _read_classes(self, classes: Any) -> list[int]:
        """Return the classes that a case is labeled with, background included; they stand as values or as names."""
        values: dict[Any, int] = {name: value for value, name in self.labels.items()}
        values |= {value: value for value in self.labels}
        listed = classes if isinstance(classes, list) else [None]
        found = [values.get(name) for name in listed if isinstance(name, int | str) and not isinstance(name, bool)]
        if None in found or len(found) < len(listed) or not any(found):
            raise InputError(
                f"{self.path}: classes of a case must be a list of classes that it is labeled with, got {classes!r}; "
                f"name some of {', '.join(name for value, name in self.labels.items() if value)}"
            )
        return sorted({0, *(value for value in found if value)})

    def _read_fold(self, key: str, case: Mapping[str, Any]) -> int | None:
        fold = case.get("fold") if key == "training" else None
        if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool) or fold < 0):
            raise InputError(f"{self.path}: fold of a case must be a whole number from 0, got {fold!r}")
        return fold


def _useless(key: str) -> tuple[str, ...]:
    """Return the keys of cases that mean nothing in a list."""
    return {
        "training": ("case",),
        "validation": ("case", "fold"),
        "test": ("case", "fold"),
        "unlabeled": ("case", "classes", "fold", "label", "t2_map"),
        "normal": ("classes", "fold", "label", "t2_map"),
    }[key]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path}: must exist, got no such file; `python -m tools.datalist` writes one")

    def unite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if repeated:
            raise InputError(f"{path}: each key must stand once, got {repeated[0]!r} twice; keep one")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unite)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: must be JSON, got {error}; mend it, or write it by python -m tools.datalist"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: must be a JSON object, got a {type(content).__name__}; write it by python -m tools.datalist"
        )
    return content


def _find_unused(
    path: Path,
    where: str,
    keys: Iterable[str],
    words: Sequence[str],
    metadata: Sequence[str],
    used: Sequence[str] | None = None,
) -> list[str]:
    """Return the keys that mean nothing, but for harmless ones; refuse one that is close to one of `words`."""
    unused = []
    for key in keys:
        if key in (words if used is None else used) or key in metadata or re.fullmatch("num[A-Z].*|_.*", key):
            continue
        plain = key.casefold()
        close = difflib.get_close_matches(plain, words, 1, _SIMILAR) if key not in words else []
        meant = _OTHER_WORDS.get(plain, close[0] if close else None)
        if meant in words:
            raise InputError(f"{path}: {where} must have known keys, got {key!r}; did you mean {meant!r}?")
        unused.append(key)
    return unused


def _locate(path: Path, name: Any) -> str:
    relative = PurePosixPath(name) if isinstance(name, str) else None
    if relative is None or not relative.name or relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{path}: every file must lie inside {path.parent}, got {name!r}; name it relative to this folder, or put "
            "a link there"
        )
    check_name(path.parent / relative)
    return str(path.parent / relative)


def _read_modality(path: Path, content: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels, from `modality` or nnU-Net's `channel_names`."""
    found = {key: _name_channels(path, key, content[key]) for key in ("modality", "channel_names") if key in content}
    if len({tuple(names) for names in found.values()}) > 1:
        raise InputError(f"{path}: modality and channel_names must be the same, got {found}; remove one")
    return next(iter(found.values()), [""])


def _name_channels(path: Path, key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    names: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        names = {str(channel): name for channel, name in enumerate(value)}
    numbers = {int(number): name for number, name in names.items() if number.isdecimal()}
    is_known = isinstance(value, dict | list) and len(numbers) == len(names)
    if (
        not is_known
        or sorted(numbers) != list(range(len(names)))
        or not all(isinstance(n, str) for n in names.values())
    ):
        raise InputError(
            f'{path}: {key} must name the channels of an image by their number, as {{"0": "CT"}}, got {value}'
        )
    return [numbers[number] for number in sorted(numbers)] or [""]


def _read_labels(path: Path, labels: Any) -> dict[int, str]:
    """Return names by value, from `{"0": "background"}` or, as nnU-Net writes it, from `{"background": 0}`."""
    if isinstance(labels, dict) and any(isinstance(value, list) for value in labels.values()):
        region = next(name for name, value in labels.items() if isinstance(value, list))
        raise InputError(
            f"{path}: labels must have one value each, got the region {region!r} of {labels[region]}; name each value "
            "of the label files"
        )
    try:
        if all(key.isdecimal() for key in labels):
            names = {int(value): str(name) for value, name in labels.items()}
        else:
            labels = {name: value for name, value in labels.items() if name != _IGNORE}
            names = {_whole(value): str(name) for name, value in labels.items()}
    except (AttributeError, TypeError):
        names = {-1: ""}
    if not isinstance(labels, dict) or sorted(names) != list(range(len(labels))):
        raise InputError(
            f"{path}: labels must name 0, 1, 2 and so on without a gap, got {labels}; `python -m tools.datalist "
            "--renumber` maps other values"
        )
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: labels must have different names, got {repeated[0]!r} twice; rename one")
    return dict(sorted(names.items()))


def _read_ignore(path: Path, content: Mapping[str, Any]) -> int | None:
    """Return the value of voxels that are not labeled: `ignore`, or nnU-Net's label of that name."""
    labels = content.get("labels")
    of_nnunet = labels.get(_IGNORE) if isinstance(labels, dict) else None
    value = content.get(_IGNORE, of_nnunet)
    if value is None:
        return None
    classes = _read_labels(path, labels)
    if not isinstance(value, int) or isinstance(value, bool) or value in classes or (of_nnunet not in (None, value)):
        raise InputError(
            f"{path}: ignore must be the value of voxels that are not labeled, a whole number that is no class, got "
            f"{value!r}; 255 is usual"
        )
    return value


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _read_folds(path: Path, folds: Any) -> list[list[str]]:
    for ids in folds:
        if not isinstance(ids, list):
            raise InputError(f"{path}: folds must be a list of lists of case ids, one for each fold, got {ids!r} in it")
    return folds


def _texts(value: Any) -> list[str]:
    """Return every text in nested lists and mappings."""
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _tell_apart(path: Path, cases: Sequence[Case]) -> None:
    """Give cases whose files have one name a `case_id` with the folder in front: what is written of them has it."""
    counts = Counter(case_id(case.item["image"]).lower() for case in cases)
    names: dict[str, str] = {}
    for case in cases:
        first = Path(image_files(case.item)[0])
        name = case_id(case.item["image"])
        if counts[name.lower()] > 1:
            name = case.item["case_id"] = "_".join((*first.relative_to(path.parent).parent.parts, name))
        if names.setdefault(name.lower(), str(first)) != str(first):
            raise InputError(f"{first}: files must have different names, got also {names[name.lower()]}; rename one")


def _find_cases(path: Path, content: Mapping[str, Any], num_channels: int) -> dict[str, list[Item]]:
    """Return the lists of training and test cases of nnU-Net's folders, but for files that another list names."""
    ending, folder = content.get("file_ending"), path.parent
    if ending not in (*SUFFIXES, PICTURE_SUFFIX):
        raise InputError(
            f"{path}: file_ending must be one of {', '.join((*SUFFIXES, PICTURE_SUFFIX))} where no training cases are "
            f"listed, got {ending!r}"
        )
    listed = {PurePosixPath(name).as_posix() for key in _LISTS for name in _texts(content.get(key, []))}

    def files(name: str) -> list[Path]:
        if not (folder / name).is_dir():
            return []
        found = sorted(file for file in (folder / name).iterdir() if file.name.endswith(ending))
        return [file for file in found if not file.name.startswith(".") and f"{name}/{file.name}" not in listed]

    def pair(split: str, is_labeled: bool) -> list[Item]:
        images = list_channels(files(f"images{split}"), num_channels)
        labels = {case_id(file): file for file in files(f"labels{split}")}
        for case in [*images, *labels]:
            if case not in images or (is_labeled and case not in labels):
                file, what = (images[case][0], "a label") if case in images else (labels[case], "an image")
                where = f"{'labels' if case in images else 'images'}{split}"
                raise InputError(
                    f"{file}: must have {what} in {where}, got none; add it, or list the image as unlabeled"
                )
        cases = []
        for case, channels in images.items():
            names = [file.relative_to(folder).as_posix() for file in channels]
            label = {"label": labels[case].relative_to(folder).as_posix()} if case in labels else {}
            cases.append({"image": names[0] if len(names) == 1 else names, **label})
        return cases

    training = pair("Tr", is_labeled=True)
    number = content.get("numTraining", len(training))
    if number != len(training):
        raise InputError(
            f"{path}: numTraining must be the number of cases in imagesTr, {len(training)}, got {number}; correct it, "
            "or look for what is missing"
        )
    found = {"training": training}
    return found if content.get("test") else {**found, "test": pair("Ts", is_labeled=False)}
