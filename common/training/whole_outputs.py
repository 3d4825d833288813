"""Outputs of an earlier run that are whole and up to date, so that their cases need not be segmented again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from common.cli import BundleError, find_cause
from common.data import (
    KEPT,
    Item,
    Record,
    case_id,
    case_name,
    check_header,
    hash_file,
    image_files,
    is_whole_object,
    name_full_disk,
    read_volume,
)
from common.data.container import PICTURE_SUFFIX, SUFFIXES, half_of_pair, voxel_file
from common.data.dicom import list_dicom

__all__ = ["NoteOrigins", "are_whole", "keep_whole_cases"]

logger = logging.getLogger(__name__)

_FINDINGS = ("labels", "warnings", "picture")  # what a report tells of a case beside its outcome


class NoteOrigins:
    """Note from what the outputs of a case come, and what was found in them, as soon as they are written.

    The file has a line of JSON for each case: its name; the checksum of its origin, which is that of the weights, of
    their record, of the settings and of its scan; and the `labels` and `warnings` that `InferenceReport` has found, and
    the `picture`. The last line of a case counts, and outputs that are about to be replaced have no origin.

    Args:
        path: file, which is added to.
        weights: file of the weights.
        settings: of the run, see `check_options`.
        record: of the weights.
        data: entries of the data list.
    """

    def __init__(
        self,
        path: str | Path,
        weights: str | Path,
        settings: Mapping[str, Any] | None = None,
        record: Record | None = None,
        data: Sequence[Item] = (),
    ) -> None:
        self.path = Path(path)
        self.weights = Path(weights)
        self.settings = dict(settings or {})
        self.record = record or Record()
        self.data = data
        self.origins: dict[str, str | None] = {}
        self.noted: set[str] = set()
        self._run: str | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def origin(self, case: Item) -> str | None:
        """Return the checksum of what the outputs of a case would come from; None where its scan cannot be read."""
        if self._run is None:
            record = {item.name: getattr(self.record, item.name) for item in fields(Record) if item.compare}
            self._run = _hash([hash_file(self.weights), record, self.settings])
        try:
            stats = [(file.absolute(), file.stat()) for file in _scan_files(case)]
        except (OSError, BundleError):  # who loads it tells
            return None
        return _hash([self._run, [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]])

    def read(self) -> dict[str, dict[str, Any]]:
        """Return what is noted, by the names of the cases; lines that are cut short are left out."""
        notes = {}
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                note = json.loads(line)
                notes[str(note["case"])] = dict(note)
            except (ValueError, LookupError, TypeError):
                continue
        return notes

    def _start(self, engine: Engine) -> None:
        """Look at the scans before they are read: one that is replaced meanwhile is of another origin."""
        self.origins = {_name(case): self.origin(case) for case in self.data if "outcome" not in case}
        self.noted = {*self.read()}

    def _begin(self, engine: Engine) -> None:
        """Take back what is noted of the outputs that this iteration replaces, in case that it is interrupted."""
        meta = getattr(engine.state.batch["image"], "meta", {})
        names = ensure_tuple(meta.get("case_id", ()))
        self._write([{"case": name, "origin": None} for name in names if name in self.noted])

    def _note(self, engine: Engine) -> None:
        findings, pictures = (getattr(engine.state, name, {}) for name in ("findings", "pictures"))
        for output in engine.state.output:
            name = case_name(output["pred"].meta)
            picture = pictures[name].name if name in pictures else None
            found = {**findings.get(name, {}), "picture": picture}
            self._write([{"case": name, "origin": self.origins.get(name), **found}])

    def _write(self, notes: Sequence[Mapping[str, Any]]) -> None:
        """Add lines, each at once, since other processes may do so, too, and behind one that was cut short."""
        for note in notes:
            line = json.dumps(note, allow_nan=False).encode() + b"\n"
            with name_full_disk(self.path), self.path.open("ab") as file:
                file.write(line if _ends_with_line(self.path) else b"\n" + line)


def keep_whole_cases(
    cases: Sequence[Item],
    files_of: Callable[[Item], Sequence[Path]],
    notes: NoteOrigins,
    series: str | None = None,
) -> int:
    """Note in the entries of a data list which cases have whole outputs; a `CaseLoader` leaves them out.

    These outputs must have the origin that they would have in this run. What was found in them is noted, too.

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
    noted = notes.read()
    for case in cases:
        files = files_of(case)
        note = noted.get(_name(case), {})
        if note.get("origin") is None or note["origin"] != notes.origin(case):
            others += any(file.is_file() for file in files)
        elif are_whole(files, image_files(case)[0], series):
            findings = {name: note[name] for name in _FINDINGS if name in note}
            case.update(outcome=KEPT, reason="its outputs are whole", findings=findings)
            kept += 1
    logger.info("skip_existing: the outputs of %d of %d case(s) are whole, these cases are left out", kept, len(cases))
    if others:
        logger.info(
            "skip_existing: those of %d case(s) come from other scans, weights or options, and are made again", others
        )
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


def _name(case: Item) -> str:
    return str(case.get("case_id") or case_id(case["image"]))


def _scan_files(case: Item) -> Iterator[Path]:
    """Yield the files that are read of a case: its scan, and the mask of its organ, where it has one."""
    for path in map(Path, [*image_files(case), *ensure_tuple(case.get("organ", ()))]):
        name = path.name.lower()
        if path.is_dir():
            yield from list_dicom(path)
        elif name.endswith((".hdr", ".img")):
            yield from (half_of_pair(path, suffix) for suffix in (".hdr", ".img"))
        else:
            yield path
            if name.endswith((".mhd", ".nrrd")) and (voxels := voxel_file(path)[0]) != path:
                yield voxels


def _hash(content: Any) -> str:
    """Return the checksum of a value, which other types than those of JSON are told in by their text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def _ends_with_line(path: Path) -> bool:
    """Tell whether a file is empty, or whole to the end of its last line."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _is_whole(file: Path, shape: Sequence[int]) -> bool:
    name = file.name.lower()
    if name.endswith(SUFFIXES):
        return read_volume(file, allow_2d=True)[1].shape == shape
    if name.endswith(PICTURE_SUFFIX):
        check_header(file, allow_2d=True)  # reads it to its end
    return is_whole_object(file) if name.endswith(".dcm") else True
