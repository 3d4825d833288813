"""Look at every voxel of the scans and labels of a run, as the run itself would."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.cli import InputError, collect_errors, find_cause, keep_going
from common.data import (
    Cases,
    Item,
    Record,
    check_classes,
    find_classes,
    fingerprint,
    image_files,
    make_record,
    map_threads,
    refuse_case,
)
from common.training import RefuseLearnedCases, RunPlan

__all__ = ["read_voxels"]

logger = logging.getLogger("common.check")

Files = tuple[str, ...]  # of an image, one or one for each channel
Loader = Any
_LISTS = ("training", "validation", "test", "unlabeled", "normal")


def read_voxels(config: ConfigParser, plan: RunPlan) -> int:
    """Read the scans of a run with the config's own loader, and look for leaks and for classes without any label.

    What is wrong with a scan that the run itself does not read, such as a test scan beside a training, is warned of.

    Returns:
        The number of cases that were read.
    """
    if not plan.data:
        return 0
    cases: Cases | None = config.get_parsed_content("cases") if "cases" in config.get() else None
    own = _by_files(plan.cases)
    lists = [] if cases is None or plan.workflow == "evaluation" else [getattr(cases, name) for name in _LISTS]
    others = _by_files(case for part in lists for case in part if tuple(image_files(case)) not in own)
    loaders = _make_loaders(config, plan, cases)
    classes = _read_all(own, loaders, keep_refused=plan.workflow in ("inference", "evaluation"))
    with collect_errors() as sentences:
        classes |= _read_all(others, loaders)
    for sentence in sentences:
        logger.warning(sentence)
    checksums = {}
    with collect_errors():  # each of which has been told
        for files in (*own, *others):
            with keep_going():
                checksums[files] = fingerprint(files)
    if plan.workflow == "evaluation" and cases is not None:
        guard = RefuseLearnedCases(config.get_parsed_content("record"), config.get_parsed_content("split"), cases)
        for files, case in own.items():
            try:
                guard.check(files[0], checksums.get(files, ""))
            except InputError as error:
                refuse_case(case, error)
    elif cases is not None:
        _find_leaks(cases, checksums, plan.workflow)
    if plan.workflow == "training" and cases is not None:
        labels = [classes[files] for case in cases.training if (files := tuple(image_files(case))) in classes]
        with keep_going():
            check_classes(set().union(*labels), cases.labels, len(labels))
    return len(classes)


def _by_files(cases: Iterable[Item]) -> dict[Files, Item]:
    """Return cases by the files of their image; one may stand in several lists, with its label and without."""
    found: dict[Files, Item] = {}
    for case in cases:
        files = tuple(image_files(case))
        is_there = all(Path(file).exists() for file in files)  # others have been refused
        if is_there and len(case) > len(found.get(files, {})):
            found[files] = case
    return found


def _read_all(
    cases: Mapping[Files, Item], loaders: Sequence[Loader], keep_refused: bool = False
) -> dict[Files, set[int]]:
    """Return the classes of the labels of those cases that can be read; others may be refused in their entries."""

    def read_one(case: Item) -> set[int] | None:
        try:
            return _read(case, loaders)
        except Exception as error:
            cause = find_cause(error)
            if not keep_refused or cause is None:
                raise
            refuse_case(case, cause)
            return None

    read = map_threads(read_one, cases.values(), min(os.cpu_count() or 1, 4))
    return {files: found for files, found in zip(cases, read, strict=True) if found is not None}


def _make_loaders(config: ConfigParser, plan: RunPlan, cases: Cases | None) -> list[Loader]:
    """Return the loading transforms of the first data set, with a record for which no voxel was read."""
    content = deepcopy(config.get())
    if cases is not None:
        content["cases"] = cases
    if plan.workflow in ("training", "pretraining"):
        content["record"] = _make_record(config, plan, cases)
    loading = ConfigParser(content)
    first = next(iter(plan.data))
    id = f"{first}::transform" if f"{first}::transform" in loading else f"{first}::preprocessing"
    value = loading.get(id)
    while isinstance(value, str):
        id = value.removeprefix("@")
        value = loading.get(id)
    ids = [*_find_loaders(value, id)]
    for loader in ids:
        loading[f"{loader}::allow_missing_keys"] = True
    return [loading.get_parsed_content(loader) for loader in ids]


def _find_loaders(part: Any, id: str) -> Iterator[str]:
    if isinstance(part, Mapping) and str(part.get("_target_", "")).endswith(".LoadVolumesd"):
        yield id
    entries = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    for key, value in entries:
        yield from _find_loaders(value, f"{id}::{key}")


def _make_record(config: ConfigParser, plan: RunPlan, cases: Cases | None) -> Record:
    """Return the record of a training as far as headers tell it."""
    modality: Sequence[str] = cases.modality if cases is not None else ("",)
    labels = cases.labels if cases is not None and plan.workflow == "training" else None
    data = [case for id, part in plan.data.items() if id.startswith("train") for case in part]
    with keep_going():
        return make_record(None, labels, modality, data=data, spacing=plan.spacing)
    return Record(labels=dict(labels or {}), modality=[*modality])


def _read(item: Item, loaders: Sequence[Loader]) -> set[int]:
    """Read a case, and return the classes of its label."""
    data: dict[Any, Any] = dict(item)
    for loader in loaders:
        data = loader(data)
    label = data.get("label")
    return set() if isinstance(label, str | None) else find_classes(label)


def _find_leaks(cases: Cases, checksums: Mapping[Files, str], workflow: str) -> None:
    """Refuse a training on the voxels of a test or validation scan, and warn of other scans that are the same."""
    first_of: dict[str, tuple[str, Files]] = {}
    for name in _LISTS:
        for case in getattr(cases, name):
            files = tuple(image_files(case))
            checksum = checksums.get(files)
            if checksum is None:
                continue
            first, other = first_of.setdefault(checksum, (name, files))
            if other == files:
                continue
            if workflow == "training" and first == "training" and name in ("validation", "test"):
                with keep_going():
                    raise InputError(
                        f"{files[0]}: must not hold the voxels of {other[0]}, since one is in {name} and the other in "
                        f"{first}; take one of them out of dataset.json"
                    )
            else:
                logger.warning("%s (%s): holds the voxels of %s (%s)", files[0], name, other[0], first)
