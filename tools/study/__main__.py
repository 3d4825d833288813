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

It leaves `results.csv`, `table.md`, `curve.png` and `report.html` in `output_dir`. What is finished is not run again,
so that a study that was stopped goes on with the same command.

    python -m tools.study --preset few_labels --dataset_dir DIR --minutes 30

makes a study of your own data list, cross-validated on its labels: its file, `study.yaml`, follows from the data and
from the minutes, and is made once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.cli import InputError, MissingFileError
from tools._command import run_command
from tools.study.budget import check_minutes, conduct_within, set_aside
from tools.study.conduct import conduct, is_finished, jobs_of, read_record
from tools.study.engines import ENGINES, open_runner
from tools.study.leaks import check_leaks
from tools.study.page import write_page
from tools.study.plan import Job, Run, Study, check_known, plan_runs, read_study
from tools.study.preset import list_presets, make_plan, plan_path
from tools.study.report import Result, read_dice, write_files

__all__ = ["collect_results", "study", "write_report"]

_MINUTES = 30.0  # of a preset


def study(
    study_file: str = "",
    *,
    preset: str = "",
    minutes: float | None = None,
    workers: int | None = None,
    engine: str = "local",
    resume: bool = True,
    dry_run: bool = False,
    report_only: bool = False,
    dataset_dir: str | None = None,
    output_dir: str = "",
) -> None:
    """Run a study and report it.

    Args:
        study_file: YAML file; `tools/study/__main__.py` begins with one.
        preset: in place of a file: few_labels, a study that is made of your data.
        minutes: in which runs are begun; those of one label count and draw are finished. Given again, the command goes
            on. A preset has 30 if not given, and its first command fits the study into them.
        workers: number of runs at a time; the cores are shared among them, unless OMP_NUM_THREADS is set. If not given,
            1, or with `ray` as many as its cluster has room for.
        engine: `local` for this machine, or `ray` for a cluster whose machines share the folders (docs/many_gpus.md).
        resume: keep what is finished; otherwise move it aside and run everything again.
        dry_run: only print the commands.
        report_only: only report the runs that are finished.
        dataset_dir: data set to use in place of the one in the file.
        output_dir: (preset) folder of the study; studies/<preset>_<name of the data's folder> if not given.
    """
    check_known(engine, ENGINES, "engine")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise InputError(f"workers must be a whole number from 1, got {workers!r}")
    check_minutes(minutes)
    repeat = ["python", "-m", "tools.study"]
    if preset:
        minutes = _MINUTES if minutes is None else minutes
        repeat += ["--preset", preset, "--dataset_dir", str(dataset_dir), "--minutes", f"{minutes:g}"]
        repeat += ["--output_dir", output_dir] if output_dir else []
        output_dir = _check_preset(preset, study_file, dataset_dir, output_dir)
        is_new = not plan_path(output_dir).is_file() or not resume
        if is_new and (dry_run or report_only):
            raise MissingFileError(f"{plan_path(output_dir)}: must be there for this, got none; run the study first")
        if is_new:
            _make(preset, str(dataset_dir), output_dir, minutes, engine, workers, resume)
        plan, resume = _read_made(str(dataset_dir), output_dir), True
    else:
        repeat += [study_file, *(["--dataset_dir", dataset_dir] if dataset_dir is not None else [])]
        if not study_file or output_dir:
            raise InputError(
                f"study_file must be given, and output_dir stand in it, got {study_file!r} and {output_dir!r}; or pass "
                f"--preset {' or '.join(list_presets())} --dataset_dir DIR"
            )
        plan = read_study(study_file, dataset_dir)
    runs = plan_runs(plan)
    if dry_run:
        _print_commands(runs, resume)
        return
    try:
        lost = [] if report_only else _run(plan, runs, engine, workers, resume, minutes)
        write_report(plan, runs, shlex.join(repeat))
    except KeyboardInterrupt:
        _end_interrupted()
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
                teacher_seconds=sum(read_record(job.done_path)["seconds"] for job in _teaching(run)),
                evaluation_seconds=read_record(run.evaluation.done_path)["seconds"],
                was_interrupted=any(record["starts"] > 1 for record in records),
            )
        )
    return results


def _teaching(run: Run) -> list[Job]:
    """Return the jobs that come before a training, but for its pretraining: its teachers, and what they segment."""
    jobs = jobs_of([run])
    taken = {job.name for job in (run.training, run.evaluation, run.pretraining) if job is not None}
    return [job for job in jobs if job.name not in taken]


def write_report(plan: Study, runs: Sequence[Run], repeat: str) -> None:
    """Write `results.csv`, `table.md`, `curve.png` and `report.html` of all runs, finished or not.

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
    page = write_page(plan, runs, results, repeat)
    print(f"{table}\n{plan.output_dir}: results.csv, table.md, curve.png, {page.name}", flush=True)


def _check_preset(preset: str, study_file: str, dataset_dir: str | None, output_dir: str) -> str:
    """Return the output folder of a preset, and refuse what does not fit one."""
    check_known(preset, list_presets(), "preset")
    if study_file:
        raise InputError(f"study_file must not be given beside --preset, got {study_file!r}; leave one of them out")
    if dataset_dir is None or not Path(dataset_dir).is_dir():
        raise MissingFileError(f"dataset_dir must be a folder, got {dataset_dir}; pass --dataset_dir")
    return output_dir or str(Path("studies", f"{preset}_{Path(dataset_dir).absolute().name}"))


def _make(
    preset: str, dataset_dir: str, output_dir: str, minutes: float, engine: str, workers: int | None, resume: bool
) -> None:
    """Make the study file of a preset, for which its arms are timed."""

    def run(timing: Study) -> bool:
        return conduct(jobs_of(plan_runs(timing)), runner, 1, resume=True) == []

    try:
        with open_runner(Path(output_dir), engine, workers) as runner:
            if not resume:
                set_aside(output_dir)
            make_plan(preset, dataset_dir, output_dir, minutes, runner.workers, run)
    except KeyboardInterrupt:
        _end_interrupted()


def _read_made(dataset_dir: str, output_dir: str) -> Study:
    """Read the study file that a preset has left, and refuse that of other data."""
    plan, wanted = read_study(plan_path(output_dir)), Path(dataset_dir).expanduser().absolute()
    if Path(plan.dataset_dir).resolve() != wanted.resolve():
        raise InputError(
            f"{plan_path(output_dir)}: study must be of {wanted}, got {plan.dataset_dir}; pass another "
            "--output_dir, or --resume False"
        )
    return plan


def _end_interrupted() -> None:
    print("interrupted: the same command goes on from here", file=sys.stderr)
    sys.exit(130)


def _run(
    plan: Study, runs: Sequence[Run], engine: str, workers: int | None, resume: bool, minutes: float | None
) -> list[str]:
    if not Path(plan.dataset_dir).is_dir():
        raise MissingFileError(f"dataset_dir must be a folder, got {plan.dataset_dir}; pass --dataset_dir")
    check_leaks(plan)
    with open_runner(Path(plan.output_dir), engine, workers) as runner:
        if minutes is not None and not resume:
            set_aside(plan.output_dir)
            resume = True
        run = partial(conduct, runner=runner, workers=runner.workers, resume=resume)
        return conduct_within(runs, run, None if minutes is None else 60 * minutes)


def _print_commands(runs: Sequence[Run], resume: bool) -> None:
    for job in jobs_of(runs):
        prefix = f"# {job.name} is finished: " if resume and is_finished(job) else ""
        print(prefix + shlex.join(job.command))


if __name__ == "__main__":
    run_command(study)
