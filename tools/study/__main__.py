"""Run a study: compare ways to train over label counts, folds and seeds.

    python -m tools.study STUDY.yaml --workers 2

A study file names a data set, a bundle, and the arms to compare:

    name: head_neck_stl
    dataset_dir: ../shared/data/head_neck_ct  # paths are relative to the current folder
    output_dir: studies/head_neck_stl
    bundle: bundles/fnet_wtacae_stl
    override_files: [configs/small.yaml]  # relative to the bundle, given after the workflow's own file
    num_labeled: [2, 4, 8]
    folds: [0, 1, 2, 3, 4]
    seeds: [0]
    options: {num_validation: 4}  # for every run; a pretraining gets those that its config has
    pretrainings:
      wta: {weights: pretrained/wta_autoencoders.pt, options: {max_epochs: 40}, per_fold: false}
    arms:  # pretrainings and arms may have a bundle and override_files of their own
      # in an option that is text, {fold} and {seed} are those of the draw
      scratch: {options: {pretrained: null}}
      stl: {pretraining: wta, options: {phi: 1.0}}
    reference: scratch  # the arm that the others are tested against
    split: test  # or validation
    scores: mean_dice_raw.csv  # what an evaluation leaves in its evaluation_dir

It leaves `results.csv`, `table.md` and `curve.png` in `output_dir`. What is finished is not run again, so that a
study that was stopped goes on with the same command.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import InputError, MissingFileError
from tools._command import run_command
from tools.study.conduct import Runner, conduct, is_finished, jobs_of, read_record
from tools.study.plan import Run, Study, plan_runs, read_study
from tools.study.report import Result, read_dice, write_files

__all__ = ["collect_results", "study", "write_report"]


def study(
    study_file: str,
    *,
    workers: int = 1,
    resume: bool = True,
    dry_run: bool = False,
    report_only: bool = False,
    dataset_dir: str | None = None,
) -> None:
    """Run a study and report it.

    Args:
        study_file: YAML file; `tools/study/__main__.py` begins with one.
        workers: number of runs at a time; the cores are shared among them.
        resume: keep what is finished; otherwise move it aside and run everything again.
        dry_run: only print the commands.
        report_only: only report the runs that are finished.
        dataset_dir: data set to use in place of the one in the file.
    """
    if type(workers) is not int or workers < 1:
        raise InputError(f"workers must be a whole number from 1, got {workers!r}")
    plan = read_study(study_file, dataset_dir)
    runs = plan_runs(plan)
    if dry_run:
        _print_commands(runs, resume)
        return
    try:
        lost = [] if report_only else _run(plan, runs, workers, resume)
        repeat = f"python -m tools.study {shlex.quote(study_file)}"
        if dataset_dir is not None:
            repeat += f" --dataset_dir {shlex.quote(dataset_dir)}"
        write_report(plan, runs, repeat)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    if lost:
        sys.exit(f"error: {len(lost)} jobs failed or were skipped: {', '.join(lost)}")


def collect_results(plan: Study, runs: Sequence[Run]) -> list[Result]:
    """Read the runs that are finished."""
    dataset_dir = Path(plan.dataset_dir).resolve()
    results = []
    for run in runs:
        if not is_finished(run.evaluation) or run.evaluation.product is None:
            continue
        records = [read_record(job.done_path) for job in (run.training, run.pretraining) if job is not None]
        dice = {
            str(path.relative_to(dataset_dir)) if path.is_relative_to(dataset_dir) else case: row
            for case, row in read_dice(run.evaluation.product).items()
            for path in [Path(case).resolve()]
        }
        results.append(
            Result(
                run,
                dice,
                training_seconds=records[0]["seconds"],
                pretraining_seconds=sum(record["seconds"] for record in records[1:]),
                was_interrupted=any(record["starts"] > 1 for record in records),
            )
        )
    return results


def write_report(plan: Study, runs: Sequence[Run], repeat: str) -> None:
    """Write `results.csv`, `table.md` and `curve.png` of all runs, finished or not.

    Args:
        repeat: command that repeats the study.
    """
    results = collect_results(plan, runs)
    if not results:
        raise InputError(f"{plan.output_dir} must hold a finished run to report, got none; run the study first")
    notes = [f"Data: `{plan.dataset_dir}`, {plan.split} cases."]
    for name in dict.fromkeys(arm.pretraining for arm in plan.arms.values() if arm.pretraining is not None):
        once = "per fold" if plan.pretrainings[name].per_fold else "for all folds"
        notes.append(f"Pretraining `{name}` ran once {once}.")
    notes.append(f"Repeat with `{repeat}`.")
    title = f"{plan.name}, {plan.split} cases"
    table = write_files(plan.output_dir, results, runs, plan.name, plan.reference, " ".join(notes), title)
    print(f"{table}\n{plan.output_dir}: results.csv, table.md, curve.png", flush=True)


def _run(plan: Study, runs: Sequence[Run], workers: int, resume: bool) -> list[str]:
    if not Path(plan.dataset_dir).is_dir():
        raise MissingFileError(f"dataset_dir must be a folder, got {plan.dataset_dir}; pass --dataset_dir")
    output_dir = Path(plan.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    num_threads = max(1, len(os.sched_getaffinity(0)) // workers)
    with (output_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"output_dir must not be in use by another study or its runs, got {output_dir}; wait "
                "for it, or use another"
            ) from error
        handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return conduct(jobs_of(runs), Runner(num_threads, lock.fileno()), workers, resume)
        finally:
            signal.signal(signal.SIGTERM, handler)


def _print_commands(runs: Sequence[Run], resume: bool) -> None:
    for job in jobs_of(runs):
        prefix = f"# {job.name} is finished: " if resume and is_finished(job) else ""
        print(prefix + shlex.join(job.command))


if __name__ == "__main__":
    run_command(study)
