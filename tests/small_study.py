"""A small study: its file, a bundle that knows its ids and does nothing, and what takes the place of its runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.study.__main__ import write_report
from tools.study.conduct import conduct, jobs_of
from tools.study.plan import Study, plan_runs, read_study

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
            return 3
        if run_id == "pretraining":
            (folder / "pretrained").mkdir(exist_ok=True)
            (folder / "pretrained" / "weights.pt").touch()
        if run_id == "evaluation":
            arm = folder.name.split("_n")[0]
            numbers = [int(options[f"--{name}"]) for name in ("num_labeled", "fold", "seed")]
            rows = [f"{case}\t{self.dice(arm, *numbers, case)}\t" for case in self.cases]
            text = "\n".join(["filename\tclass0\tmean", *(row + row.split("\t")[1] for row in rows)])
            (Path(options["--evaluation_dir"]) / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
        return 0


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
