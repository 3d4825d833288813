"""Checks at the start of a run: its cases, where it writes, and whether disk and memory suffice."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import ID_SEP_KEY

from common.cli import InputError, is_collecting, keep_going, running_config
from common.cli.command_line import read_command_line
from common.data import (
    Item,
    check_format,
    check_packages,
    format_size,
    free_memory,
    image_files,
    is_main_process,
    refuse_case,
)

from .checkpoint import Conditions, finished_epoch
from .plan import RunPlan, case_files, components, plan_run, workflow_of

__all__ = ["check_run", "free_disk"]

logger = logging.getLogger(__name__)

_OPTIONS = {"evaluation": "evaluation_dir", "inference": "output_dir"}  # of the folder, if not ckpt_dir
_TEMPORARY = len(".partial.")  # bytes, in front of the name of a file until it is whole


def check_run(config: ConfigParser | None = None) -> RunPlan:
    """Refuse what would end a run after much of its work, before any voxel is read; warn where memory may not suffice.

    In an inference or an evaluation, what is wrong with a case is noted in its entry of the data list.
    A training that has ended before is not begun again: the process ends.

    Args:
        config: of the run; that of which this is a component, if not given.

    Raises:
        FileNotFoundError, ImportError, ValueError: when the data list or a header is refused, a package is missing that
            a format of the segmentations needs, a folder cannot be written to, a name is too long, or the disk is too
            full.
    """
    if config is None:
        config = running_config()
        if read_command_line() is not None:  # whoever trains otherwise, such as MONAI Label, asks for it
            _end_if_finished(config)
    plan = plan_run(config)
    with keep_going():
        check_packages(_formats(config))
    option = _OPTIONS.get(plan.workflow, "ckpt_dir")
    if plan.workflow in _OPTIONS:
        _check_cases(config, plan)
    for file in plan.files:
        with keep_going():
            _check_name(file)
    for folder in dict.fromkeys(file.parent for file in plan.files):
        with keep_going():
            _check_folder(folder, option)
            if folder == plan.files[0].parent:
                _check_disk(plan, option)
    _check_memory(plan)
    if is_main_process():
        sizes = format_size(sum(plan.memory.values())), format_size(plan.disk)
        logger.info("%s of %d case(s): about %s of memory and %s of disk", plan.workflow, len(plan.cases), *sizes)
    return plan


def _formats(config: ConfigParser) -> Sequence[str]:
    """Return the formats of segmentations that a run writes, by its option."""
    return config.get_parsed_content("formats") if "formats" in config else []


def _end_if_finished(config: ConfigParser) -> None:
    """End a run whose training has ended before, and refuse one that would overwrite another training."""
    content = config.get()
    if workflow_of(content) not in ("pretraining", "training") or not config.get_parsed_content("resume"):
        return
    for id, part in components(content["train"], "train"):
        if str(part["_target_"]).endswith(".TrainingHandlers"):
            epoch = _finished_epoch(config, id, part)
            if epoch is not None:
                logger.info("has ended after epoch %d before: nothing to do; --resume False trains anew", epoch)
                sys.exit(0)


def _finished_epoch(config: ConfigParser, id: str, part: Mapping[str, Any]) -> int | None:
    """Return the last epoch of the training that the handlers of a config find finished, if they do."""
    checkpoint = part.get("checkpoint", "training.ckpt")
    has_own = checkpoint.startswith("@")  # a handler that has what is compared itself
    if has_own:
        id = checkpoint.removeprefix("@")

    def argument(name: str) -> Any:
        return config.get_parsed_content(f"{id}{ID_SEP_KEY}{name}")

    path = Path(argument("path")) if has_own else Path(argument("save_dir")) / checkpoint
    return finished_epoch(path, Conditions(argument("settings"), argument("data")), "data" if has_own else "")


def free_disk(plan: RunPlan) -> int:
    """Return the free bytes where the first file of a run is written."""
    return shutil.disk_usage(_existing(plan.files[0].parent)).free


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


def _check_cases(config: ConfigParser, plan: RunPlan) -> None:
    """Refuse the cases whose results would have names that are too long or taken, or a format that they cannot have."""
    owners: dict[Path, Item] = {}
    for case in plan.cases:
        files = case_files(config, plan.workflow, case)
        try:
            check_format(_formats(config), image_files(case)[0])
            for file in files:
                _check_name(file)
                owner = image_files(owners.setdefault(file, case))[0]
                if owner != image_files(case)[0]:
                    raise InputError(
                        f"{image_files(case)[0]}: results must have names of their own, got {file.name}, which {owner} "
                        "has, too; rename one of the two"
                    )
        except InputError as error:
            refuse_case(case, error)
            plan.files = [file for file in plan.files if file not in files or owners.get(file, case) is not case]
    if plan.refused and not is_collecting():
        count = sum(map(len, plan.data.values()))
        logger.warning("%d of %d case(s) are refused, the others are done:", len(plan.refused), count)
        for case in plan.refused:
            logger.warning(case["reason"])


def _check_folder(folder: Path, option: str) -> None:
    """Refuse a folder in which no file can be made."""
    place = _existing(folder)
    if not place.is_dir():
        raise InputError(
            f"{place}: must be a folder, since results are written there, got a file; pass another --{option}"
        )
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise InputError(
            f"{folder}: must be a folder that can be written to, got {error.strerror or error}; change its rights, or "
            f"pass another --{option}"
        ) from None


def _check_name(file: Path) -> None:
    """Refuse a name that would be too long for the file system."""
    place = _existing(file.parent)
    limit = os.pathconf(place, "PC_NAME_MAX") - _TEMPORARY if hasattr(os, "pathconf") else 255 - _TEMPORARY
    size = len(os.fsencode(file.name))
    if size > limit:
        raise InputError(f"{file}: name of a result must have at most {limit} bytes, got {size}; rename the scan")


def _check_disk(plan: RunPlan, option: str) -> None:
    """Refuse a disk that is too full."""
    if (free := free_disk(plan)) < plan.disk:
        raise InputError(
            f"{plan.files[0].parent}: must have {format_size(plan.disk)} of free disk for what is written, got "
            f"{format_size(free)}; make room, or pass another --{option}"
        )


def _check_memory(plan: RunPlan) -> None:
    """Warn of a memory that is too small."""
    for device, size in plan.memory.items():
        free = free_memory(device)
        if free is not None and free < size:
            logger.warning(
                "%s: about %s of memory are needed for the volumes, and %s are free; close other programs, or take "
                "fewer scans or larger voxels",
                device,
                format_size(size),
                format_size(free),
            )
