"""Outputs of an earlier run that are whole and up to date, so that their cases need not be segmented again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from common.cli import find_cause
from common.data import (
    KEPT,
    Item,
    case_id,
    case_name,
    check_header,
    hash_file,
    image_files,
    is_whole_object,
    name_full_disk,
    read_volume,
)
from common.data.container import PICTURE_SUFFIX, SUFFIXES

__all__ = ["NoteOrigins", "are_whole", "keep_whole_cases"]

logger = logging.getLogger(__name__)


class NoteOrigins:
    """Note which weights and options the outputs of a case come from, as soon as they are written.

    The file has a line of JSON for each case: its name, and the checksum of its origin. The last line of a case counts.

    Args:
        path: file, which is added to.
        weights: file of the weights.
        settings: options of the run by name, as far as results depend on them.
    """

    def __init__(self, path: str | Path, weights: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.weights = Path(weights)
        self.settings = settings or {}
        self._origin: str | None = None

    @property
    def origin(self) -> str:
        """Checksum of the weights and the options."""
        if self._origin is None:
            text = hash_file(self.weights) + repr(sorted(self.settings.items()))
            self._origin = hashlib.sha256(text.encode()).hexdigest()
        return self._origin

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def read(self) -> dict[str, str]:
        """Return the origins that are noted, by the names of the cases; lines that are cut short are left out."""
        origins = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ():
            try:
                entry = json.loads(line)
                origins[str(entry["case"])] = str(entry["origin"])
            except (ValueError, LookupError, TypeError):
                continue
        return origins

    def _note(self, engine: Engine) -> None:
        with name_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            for output in engine.state.output:
                file.write(json.dumps({"case": case_name(output["pred"].meta), "origin": self.origin}) + "\n")


def keep_whole_cases(
    cases: Sequence[Item],
    files_of: Callable[[Item], Sequence[Path]],
    notes: NoteOrigins,
    series: str | None = None,
) -> int:
    """Note in the entries of a data list which cases have whole outputs; a `CaseLoader` leaves them out.

    These outputs must come from the weights and the options of this run, and be younger than their scan.

    Args:
        cases: entries of the data list.
        files_of: returns the files that are written for a case.
        notes: of the origins of outputs, with the weights and the options of this run.
        series: UID of the DICOM series that is meant, where a folder holds several.

    Returns:
        The number of these cases.
    """
    if not notes.weights.is_file():  # which is refused when they are loaded
        return 0
    kept, others = 0, 0
    origins = notes.read()
    for case in cases:
        files = files_of(case)
        name = case.get("case_id") or case_id(case["image"])
        if origins.get(name) != notes.origin:
            others += any(file.is_file() for file in files)
        elif _are_younger(files, image_files(case)) and are_whole(files, image_files(case)[0], series):
            case.update(outcome=KEPT, reason="its outputs are whole")
            kept += 1
    logger.info("skip_existing: the outputs of %d of %d case(s) are whole, these cases are left out", kept, len(cases))
    if others:
        logger.info("skip_existing: those of %d case(s) come from other weights or options, and are made again", others)
    return kept


def are_whole(files: Sequence[Path], scan: str | Path, series: str | None = None) -> bool:
    """Tell whether all files are there and readable to their end, images of volumes with the shape of their scan.

    Args:
        files: of one case.
        scan: file, or folder of a DICOM series.
        series: see `keep_whole_cases`.
    """
    if not files or not all(file.is_file() and file.stat().st_size for file in files):
        return False
    try:
        shape = check_header(scan, True, series).shape
        return all(_is_whole(file, shape) for file in files)
    except Exception as error:
        if find_cause(error) is None:
            raise
        return False


def _are_younger(files: Sequence[Path], scan: Sequence[str]) -> bool:
    """Tell whether all files were written after the files, or the folder, of a scan."""
    oldest = min((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)
    return all(Path(part).stat().st_mtime_ns <= oldest for part in scan if Path(part).exists())


def _is_whole(file: Path, shape: Sequence[int]) -> bool:
    name = file.name.lower()
    if name.endswith(SUFFIXES):
        return read_volume(file, allow_2d=True)[1].shape == shape
    if name.endswith(PICTURE_SUFFIX):
        check_header(file, allow_2d=True)  # reads it to its end
    return is_whole_object(file) if name.endswith(".dcm") else True
