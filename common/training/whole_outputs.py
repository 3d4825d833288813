"""Outputs of an earlier run that are whole, so that their cases need not be segmented again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli import find_cause
from common.data import KEPT, Item, check_header, image_files, read_volume
from common.data.container import PICTURE_SUFFIX, SUFFIXES

__all__ = ["are_whole", "keep_whole_cases"]

logger = logging.getLogger(__name__)


def keep_whole_cases(
    cases: Sequence[Item], files_of: Callable[[Item], Sequence[Path]], series: str | None = None
) -> int:
    """Note in the entries of a data list which cases have whole outputs; a `CaseLoader` leaves them out.

    Args:
        cases: entries of the data list.
        files_of: returns the files that are written for a case.
        series: UID of the DICOM series that is meant, where a folder holds several.

    Returns:
        The number of these cases.
    """
    kept = 0
    for case in cases:
        if are_whole(files_of(case), image_files(case)[0], series):
            case.update(outcome=KEPT, reason="its outputs are whole")
            kept += 1
    logger.info("skip_existing: the outputs of %d of %d case(s) are whole, these cases are left out", kept, len(cases))
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


def _is_whole(file: Path, shape: Sequence[int]) -> bool:
    name = file.name.lower()
    if name.endswith(SUFFIXES):
        return read_volume(file, allow_2d=True)[1].shape == shape
    if name.endswith(PICTURE_SUFFIX):
        check_header(file, allow_2d=True)  # reads it to its end
    return True
