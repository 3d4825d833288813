"""Learn from scans without a mask: teachers of different kinds segment them, and a student learns from what they say.

    python -m tools.self_training --dataset_dir DIR --output_dir OUT

trains the teachers, an atlas and a network, on your labels; lets both segment up to 20 unlabeled scans of your data
list; makes pseudo-labels of what they agree on; and trains the student, an F-Net, on labels and pseudo-labels. One
label is enough. The plan is a study file (see `tools.study`), `OUT/study.yaml`; a file of your own takes its place:

    python -m tools.self_training PLAN.yaml

where the last arm is the student and the first label count, fold and seed are taken. What is finished is not run again:
a command that was stopped goes on.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from common.cli import InputError, MissingFileError
from common.cli.options import POSITIVE_INT
from tools._command import run_command
from tools.study.__main__ import write_report
from tools.study.conduct import conduct, jobs_of
from tools.study.engines import ENGINES, open_runner
from tools.study.leaks import check_leaks
from tools.study.plan import Run, Study, check_known, plan_runs, read_study
from tools.study.preset import describe, fill, plan_path, read_facts

__all__ = ["self_training"]

_PRESET = "few_labels"
_EPOCHS = 64  # of 25 steps, where few labels saturate


def self_training(
    plan_file: str = "",
    *,
    dataset_dir: str = "",
    output_dir: str = "",
    num_labeled: int | None = None,
    fold: int = 0,
    num_unlabeled: int = 20,
    rounds: int = 1,
    epochs: int = _EPOCHS,
    workers: int | None = None,
    engine: str = "local",
    dry_run: bool = False,
) -> None:
    """Train teachers, let them segment unlabeled scans, and train a student.

    Args:
        plan_file: study file in place of the other options; its last arm is the student.
        dataset_dir: folder with dataset.json, which lists labeled and unlabeled scans.
        output_dir: folder for all that is made; self_training_<name of the data's folder> if not given.
        num_labeled: training cases whose labels are used; all if not given.
        fold: of the labeled cases, held out for the scores, where there are two or more.
        num_unlabeled: unlabeled scans that are learned from, at most.
        rounds: of self-training: the student of a round is a teacher in the next one.
        epochs: of 25 steps, of each network.
        workers: number of runs at a time: 1 if not given, or with `ray` as many as its cluster has room for.
        engine: `local` for this machine, or `ray` for a cluster whose machines share the folders (docs/many_gpus.md).
        dry_run: only print the commands.
    """
    if plan_file and (dataset_dir or output_dir):
        raise InputError(f"dataset_dir and output_dir must stand in {plan_file}, got them beside it; leave them out")
    check_known(engine, ENGINES, "engine")
    counts = {"num_unlabeled": num_unlabeled, "rounds": rounds, "epochs": epochs}
    for name, value in (counts if workers is None else counts | {"workers": workers}).items():
        POSITIVE_INT.check(name, value)
    plan = read_study(plan_file) if plan_file else None
    if plan is None:
        if not dataset_dir or not Path(dataset_dir).is_dir():
            raise MissingFileError(f"dataset_dir must be a folder, got {dataset_dir or 'none'}; pass --dataset_dir")
        output_dir = output_dir or f"self_training_{Path(dataset_dir).absolute().name}"
        plan = _make_plan(dataset_dir, output_dir, num_labeled, fold, num_unlabeled, rounds, epochs)
    plan = replace(plan, num_labeled=plan.num_labeled[:1], folds=plan.folds[:1], seeds=plan.seeds[:1])
    *_, student = runs = plan_runs(plan)
    if not plan.arms[student.arm].teachers:
        raise InputError(f"the last arm must have teachers, got {student.arm} without; add the key teachers to it")
    is_scored = _is_scored(plan)
    jobs = jobs_of(runs) if is_scored else [job for job in jobs_of(runs) if job.run_id != "evaluation"]
    if dry_run:
        print("\n".join(shlex.join(job.command) for job in jobs))
        return
    check_leaks(plan)
    try:
        with open_runner(Path(plan.output_dir), engine, workers) as runner:
            lost = conduct(jobs, runner, runner.workers, resume=True)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    if lost:
        sys.exit(f"error: {len(lost)} jobs failed or were skipped: {', '.join(lost)}")
    if is_scored:
        command = ["python", "-m", "tools.self_training", plan_file or str(plan_path(output_dir))]
        write_report(plan, runs, shlex.join(command))
    _tell(plan, student)


def _make_plan(
    dataset_dir: str, output_dir: str, num_labeled: int | None, fold: int, num_unlabeled: int, rounds: int, epochs: int
) -> Study:
    """Write the study file that follows from the data, unless it is there, and read it."""
    from common.data import read_cases, write_atomically

    facts = read_facts(dataset_dir, needs_fold=False)
    cases = read_cases(dataset_dir, fold, num_labeled=num_labeled)
    if not cases.unlabeled:
        raise InputError(
            f"{dataset_dir}: must have scans without a label, got none; list scans as unlabeled in dataset.json"
        )
    has_test = any("label" in case for case in cases.test)
    values: dict[str, Any] = describe(facts) | {
        "name": f"self-training: {facts.name}",
        "dataset_dir": str(Path(dataset_dir).expanduser().absolute()),
        "output_dir": str(Path(output_dir).absolute()),
        "num_labeled": [len(cases.training)],
        "folds": [fold],
        "num_validation": 1 if has_test else max(len(cases.validation), 1),
        "epochs": epochs,
        "has_unlabeled": True,
    }
    content = fill(_PRESET, values)
    content["split"] = "test" if has_test else "validation"
    *_, student = content["arms"]
    content["arms"][student]["num_unlabeled"] = num_unlabeled
    for number in range(2, rounds + 1):
        teachers = [content["arms"][student]["teachers"][0], student if number == 2 else f"{student}_{number - 1}"]
        content["arms"][f"{student}_{number}"] = {**content["arms"][student], "teachers": teachers, "pooling": {}}
    text = yaml.safe_dump(content, sort_keys=False, width=110)
    path = plan_path(output_dir)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{path}: self-training must go on with the same options, got others; pass another --output_dir"
        )
    write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return read_study(path)


def _is_scored(plan: Study) -> bool:
    """Tell whether there are labeled cases that no arm learns from."""
    from common.data import read_cases

    cases = read_cases(plan.dataset_dir, plan.folds[0], num_labeled=plan.num_labeled[0])
    scored = cases.test if plan.split == "test" else cases.validation
    return any("label" in case and case not in cases.training for case in scored)


def _tell(plan: Study, student: Run) -> None:
    """Say where the student is, and how it segments."""
    arm = plan.arms[student.arm]
    bundle = Path(arm.bundle or plan.bundle)
    files = [str(bundle / "configs" / "inference.yaml"), *(str(bundle / name) for name in arm.override_files or ())]
    files = [file for file in files if not file.endswith("self_train.yaml")]
    command = ["python", "-m", "monai.bundle", "run", "inference", "--config_file", json.dumps(files)]
    command += ["--bundle_root", str(bundle), "--ckpt_dir", str(student.training.folder)]
    print(f"student: {student.training.folder / 'model.pt'}; it segments by\n  {shlex.join(command)} --dataset_dir NEW")


if __name__ == "__main__":
    run_command(self_training)
