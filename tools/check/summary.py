"""Summary of what was found out about a run, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.data import format_size

from .examine import Findings

__all__ = ["summarize"]

_FEW = 8


def summarize(findings: Findings, verbose: bool = False) -> Iterator[str]:
    """Yield the lines of a summary: what would be done, and at its end what is wrong.

    Args:
        findings: to be told.
        verbose: name every case and every file.
    """
    plan = findings.plan
    configs = ", ".join(Path(file).name for file in findings.config_files)
    yield f"{findings.bundle} {findings.workflow} ({configs}) on {findings.device or 'no device'}"
    for name, cases in findings.cases.items():
        with_label = f", {findings.labeled[name]} with a label" if name != "scans" else ""
        yield _row(name, f"{len(cases)} cases{with_label}{_list(cases, verbose)}")
    if plan is not None:
        for id, data in plan.data.items():
            yield _row("reads", f"{len(data)} cases as {id.replace('::', ' ')}")
    for line in findings.weights:
        yield _row("weights", line)
    if plan is not None:
        for device, size in plan.memory.items():
            free = _free(findings.free_memory.get(device))
            yield _row("memory", f"about {format_size(size)} on {device} for volumes{free}")
        if plan.disk:
            yield _row("disk", f"about {format_size(plan.disk)}{_free(findings.free_disk)}")
        for folder in dict.fromkeys(file.parent for file in plan.files):
            names = [file.name for file in plan.files if file.parent == folder]
            yield _row("writes", f"{folder}/: {', '.join(names if verbose else names[:_FEW])}{_more(names, verbose)}")
    if findings.num_read:
        yield _row("voxels", f"of {findings.num_read} cases were read")
    for warning in findings.warnings:
        yield _row("warning", warning)
    for reason in findings.refused:
        yield _row("refused", reason)
    for problem in findings.problems:
        yield _row("problem", problem)
    number, refused = len(findings.problems), len(findings.refused)
    end = f"would not start: {number} problem{'s'[: number != 1]}" if number else "would start"
    if plan is not None and refused and not number:
        end += f" and leave out {refused} of {sum(map(len, plan.data.values()))} cases"
    yield f"{end}, {len(findings.warnings)} warning{'s'[: len(findings.warnings) != 1]} ({findings.seconds:.1f} s)"


def _row(name: str, text: str) -> str:
    return f"{name:<10} {text}"


def _list(names: Sequence[str], verbose: bool) -> str:
    return f": {', '.join(names)}" if verbose else ""


def _more(names: Sequence[str], verbose: bool) -> str:
    return "" if verbose or len(names) <= _FEW else f" and {len(names) - _FEW} more"


def _free(size: int | None) -> str:
    return "" if size is None else f"; {format_size(size)} are free"
