"""Advice of a study: the arm to take, why, and the command that exports it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from tools.study.plan import SET_BY_THE_DRAW, SET_BY_THE_STUDY, Run, Study
from tools.study.report import Result
from tools.study.statistics import Test

__all__ = ["Advice", "advise", "export_command"]

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Advice:
    """Recommended arm, and the sentence that says why.

    Args:
        run: with the largest label count, in the first draw that is finished; what is exported.
    """

    arm: str
    sentence: str
    run: Run


def advise(results: Sequence[Result], arms: Sequence[str], reference: str | None, tests: Sequence[Test]) -> Advice:
    """Recommend the arm with the highest Dice at the largest label count that all finished arms have.

    Where it is told from the reference (p below .05 after Holm's correction) neither there nor, as the better one, at a
    smaller count, the quicker of the two is taken.
    """
    present = [arm for arm in arms if any(result.run.arm == arm and result.means for result in results)]
    counts = {arm: {r.run.num_labeled for r in results if r.run.arm == arm and r.means} for arm in present}
    if not present:
        raise ValueError("results must hold a case with a score, got none")
    shared = set.intersection(*counts.values())
    count = max(shared or counts[present[0]])
    present = [arm for arm in present if count in counts[arm]]
    dice = {arm: _mean(results, arm, count) for arm in present}
    best = max(present, key=lambda arm: dice[arm])
    test = next((test for test in tests if (test.arm, test.num_labeled) == (best, count)), None)
    scans = f"{count} labeled scan{'' if count == 1 else 's'}"
    is_highest = f"has the highest Dice with {scans}, {dice[best]:.3f}"
    if len(present) == 1:
        arm, reason = best, f"it is the only arm that is finished, with a Dice of {dice[best]:.3f} with {scans}"
    elif test is None:
        others = ", ".join(f"{arm} {dice[arm]:.3f}" for arm in present if arm != best)
        arm, reason = best, f"it {is_highest} ({others})"
    elif test.corrected is not None and test.corrected < _SIGNIFICANT:
        differences = test.comparison.differences
        better = sum(difference > 0 for difference in differences)
        arm, reason = (
            best,
            (
                f"it {is_highest}, {statistics.fmean(differences):+.3f} against {reference} in the same draws "
                f"(better in {better} of {len(differences)}, p = {test.corrected:.2g} after Holm)"
            ),
        )
    elif counts_better := _counts_better(tests, best):
        arm, reason = (
            best,
            (
                f"it {is_highest}, and is better than {reference} with {', '.join(map(str, counts_better))} of them "
                "(p below .05 after Holm)"
            ),
        )
    else:
        seconds = {name: _seconds(results, name) for name in (best, str(reference))}
        arm = min(seconds, key=lambda name: seconds[name])
        p_value = "no difference" if test.corrected is None else f"p = {test.corrected:.2g} after Holm"
        reason = (
            f"{best} {is_highest}, but is not told from {reference} ({p_value}), and {arm} is the quicker of the two "
            f"({_minutes(seconds[arm])} against {_minutes(max(seconds.values()))} per run)"
        )
    run = next(result.run for result in results if result.cell == (arm, count))
    return Advice(arm, f"Take {arm}: {reason}.", run)


def export_command(study: Study, advice: Advice) -> list[str]:
    """Return the command that exports a run, after writing its options into a file that the command names."""
    from common.data import write_atomically

    arm, job = study.arms[advice.arm], advice.run.training
    taken = {*SET_BY_THE_STUDY, *SET_BY_THE_DRAW, "pretrained"}
    options = {name: value for name, value in job.options.items() if name not in taken}
    if "pseudo_labels" in options:
        options["pseudo_labels"] = None  # they stay with the study
    text = f"# Options of the arm {advice.arm} of {study.name}\n{yaml.safe_dump(options, sort_keys=False)}"
    path = Path(study.output_dir).absolute() / "export" / f"{advice.arm}.yaml"
    write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    overrides = study.override_files if arm.override_files is None else arm.override_files
    pretrained = "random" if job.options.get("pretrained") == "random" else "null"
    command = ["python", "-m", "tools.export", arm.bundle or study.bundle, "--ckpt_dir", str(job.folder)]
    command += ["--override_files", ",".join([*overrides, str(path)]), "--pretrained", pretrained]
    command += ["--zero_shot"] if arm.workflow == "pretraining" else []
    return [*command, "--output", str(Path(study.output_dir) / "exported")]


def _counts_better(tests: Sequence[Test], arm: str) -> list[int]:
    """Return the label counts at which an arm is told from the reference and better; none if it is worse at another."""
    told = [test for test in tests if test.arm == arm and test.corrected is not None and test.corrected < _SIGNIFICANT]
    gains = {test.num_labeled: statistics.fmean(test.comparison.differences) for test in told}
    return [] if any(gain < 0 for gain in gains.values()) else [*gains]


def _mean(results: Sequence[Result], arm: str, count: int) -> float:
    return statistics.fmean(
        statistics.fmean(result.means.values()) for result in results if result.cell == (arm, count) and result.means
    )


def _seconds(results: Sequence[Result], arm: str) -> float:
    return statistics.fmean(
        r.training_seconds + r.pretraining_seconds + r.teacher_seconds for r in results if r.run.arm == arm
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
