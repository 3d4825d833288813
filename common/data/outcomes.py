"""Outcomes of cases that are neither segmented nor scored, as entries of a data list and as rows of a report."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from common.cli import find_cause, root_cause

from .dataset_file import Item, image_files
from .reader import case_id

__all__ = ["FAILED", "KEPT", "REFUSED", "LeftOutCase", "leave_out", "printable", "refuse_case", "row_of"]

REFUSED = "refused"  # its files, or what they hold, are no valid input
FAILED = "failed"  # an error that nobody foresaw
KEPT = "kept"  # its outputs are whole already


class LeftOutCase:
    """Case that is not evaluated, which a loader gives in place of its minibatch.

    Args:
        row: of the report, see `row_of`.
        error: because of which it is left out; None where that is known from the data list.
        trace: traceback of an error that nobody foresaw.

    Attributes:
        row: see above.
        error: likewise.
        trace: likewise.
    """

    def __init__(self, row: dict[str, Any], error: Exception | None = None, trace: str = "") -> None:
        self.row = row
        self.error = error
        self.trace = trace


def leave_out(case: Mapping[str, Any], error: Exception) -> LeftOutCase:
    """Return the outcome of a case in which an error was raised: refused where the error was foreseen, else failed.

    What is returned can be handed from a worker process to another one.
    """
    cause = find_cause(error)
    if cause is not None:
        return LeftOutCase(row_of(case, REFUSED, _in_one_line(cause)), cause)
    root, trace = root_cause(error), "".join(traceback.format_exception(error))
    return LeftOutCase(row_of(case, FAILED, f"{type(root).__name__}: {_in_one_line(root)}"), RuntimeError(trace), trace)


def row_of(case: Mapping[str, Any], outcome: str, reason: str) -> dict[str, Any]:
    """Return the row of a case in a report: `case`, its name, `image`, its first file, `outcome` and `reason`.

    Of a case that was kept, it has the `findings` of its entry, too.
    """
    name, image = case.get("case_id") or case_id(case["image"]), image_files(case)[0]
    row = {"case": printable(str(name)), "image": printable(image), "outcome": outcome, "reason": reason}
    return {**row, **case.get("findings", {})}


def refuse_case(case: Item, error: Exception) -> None:
    """Note in an entry of a data list that a foreseen error was found in the case, which a `CaseLoader` leaves out."""
    case.update(outcome=REFUSED, reason=_in_one_line(error))


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """Return a text without control characters, as which a name is shown in one line."""
    return text if text.isprintable() else repr(text)[1:-1]
