"""A small study: its file, a bundle that knows its ids and does nothing, and what takes the place of its runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.study.__main__ import write_report
from tools.study.conduct import conduct, jobs_of
from tools.study.plan import Job, Run, Study, plan_runs, read_study
from tools.study.report import Result

CONFIGS = {
    "pretrain.yaml": ["bundle_root", "dataset_dir", "ckpt_dir", "fold", "seed", "max_epochs"],
    "train.yaml": [
        *["bundle_root", "dataset_dir", "ckpt_dir", "num_labeled", "fold", "seed", "pretrained"],
        *["num_validation", "phi", "text", "sizes"],
    ],
    "evaluate.yaml": ["split", "evaluation_dir"],
}


class FakeRunner:
    """Note each command, and leave what the workflow would leave.

    Args:
        dice: takes arm, number of labels, fold, seed and case, returns the Dice of the case.
        failing: text in the `ckpt_dir` of commands that fail.
    """

    def __init__(self, dice=lambda *_: 0.5, failing=(), cases=("a", "b")):
        self.dice, self.failing, self.cases = dice, failing, cases
        self.calls = []

    def __call__(self, command, log_path):
        run_id, options = command[4], dict(zip(command[5::2], command[6::2], strict=True))
        folder = Path(options["--ckpt_dir"])
        self.calls.append(f"{folder.name} {run_id}")
        if any(text in self.calls[-1] for text in self.failing):
            log_path.write_text("a line\nloss must be finite, got nan\n\n", encoding="utf-8")
            return 3, 1.0
        if run_id == "pretraining":
            (folder / "pretrained").mkdir(exist_ok=True)
            (folder / "pretrained" / "weights.pt").touch()
        if run_id == "evaluation":
            arm = folder.name.split("_n")[0]
            numbers = [int(options[f"--{name}"]) for name in ("num_labeled", "fold", "seed")]
            rows = [f"{case}\t{self.dice(arm, *numbers, case)}\t" for case in self.cases]
            text = "\n".join(["filename\tclass0\tmean", *(row + row.split("\t")[1] for row in rows)])
            (Path(options["--evaluation_dir"]) / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
        return 0, 1.0


def plan(content) -> Study:
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_study("study.yaml")


def run(content, runner, workers=1, resume=True):
    return conduct(jobs_of(plan_runs(plan(content))), runner, workers, resume)


def table_of(content):
    write_report(plan(content), plan_runs(plan(content)), "repeat me")
    return Path("out/table.md").read_text(encoding="utf-8")


def options_of(job):
    return dict(zip(job.command[5::2], job.command[6::2], strict=True))


def make_results(dice, arms=("scratch", "atlas"), counts=(1, 2, 4), folds=range(5), cases=6) -> list[Result]:
    """Make results of finished runs.

    Args:
        dice: takes arm, number of labels and fold, returns the Dice of every case; they differ by .001 from each other.
    """
    results = []
    for arm, count, fold in [(arm, count, fold) for fold in folds for count in counts for arm in arms]:
        name = f"{arm}_n{count}_fold{fold}_seed0"
        folder = Path("out/runs", name)
        training = Job(f"{name} training", "training", folder, ("configs/train.yaml",), {"num_labeled": count})
        evaluation = Job(f"{name} evaluation", "evaluation", folder / "evaluation", (), {}, needs=(training,))
        value = dice(arm, count, fold)
        rows = {f"case_{number}": value + 0.001 * (number - (cases - 1) / 2) for number in range(cases)}
        scores = {case: {"liver": score, "left kidney": score, "mean": score} for case, score in rows.items()}
        results.append(Result(Run(arm, count, (fold, 0), training, evaluation, None), scores, training_seconds=1.0))
    return results
