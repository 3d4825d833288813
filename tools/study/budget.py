"""Budget of a study: it starts no new run when its minutes are over, and leaves whole comparisons."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from common.cli import InputError
from tools.study.conduct import is_finished, jobs_of
from tools.study.plan import Job, Run

__all__ = ["check_minutes", "conduct_within", "set_aside"]


def check_minutes(minutes: float | None) -> None:
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0):
        raise InputError(f"minutes must be a number above 0, got {minutes!r}; leave it out for no limit")


def conduct_within(
    runs: Sequence[Run], conduct: Callable[[list[Job]], list[str]], seconds: float | None, clock=time.monotonic
) -> list[str]:
    """Conduct runs until a time is over: no comparison is begun then, and one that has begun is finished.

    A comparison is all arms with one label count in one draw.

    Args:
        runs: all of the study.
        conduct: runs jobs, and returns the names of those that were lost.
        seconds: to begin in; None for no limit.
        clock: seconds that go by.

    Returns:
        Names of the jobs that failed or were skipped.
    """
    if seconds is None:
        return conduct(jobs_of(runs))
    end, lost = clock() + seconds, []
    for _, group in groupby(runs, key=lambda run: (run.draw, run.num_labeled)):
        block = [*group]
        is_new = not all(is_finished(job) for job in jobs_of(block))
        if is_new and clock() >= end:
            finished = sum(is_finished(run.evaluation) for run in runs)
            print(
                f"the time is over: {finished} of {len(runs)} runs are finished; the same command goes on", flush=True
            )
            break
        fold, seed = block[0].draw
        print(f"fold {fold}, seed {seed}, {block[0].num_labeled} labeled:", flush=True)
        lost += conduct(jobs_of(block))
    return lost


def set_aside(output_dir: str | Path) -> None:
    """Rename what an earlier study has left in a folder, so that everything is run again."""
    for name in ("runs", "pretraining", "unlabeled", "pseudo_labels", "timing", "study.yaml"):
        path = Path(output_dir) / name
        number = 1
        while (aside := path.with_name(f"{name}.old{number}")).exists():
            number += 1
        if path.exists():
            path.rename(aside)
