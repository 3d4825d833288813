"""Report of a study: its tables, Wilcoxon's signed-rank tests of paired scores, and its curve."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import InputError
from tools.study.plan import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Comparison",
    "Result",
    "compare",
    "format_table",
    "read_dice",
    "set_count_axis",
    "wilcoxon_p_value",
    "write_files",
]

Cell = tuple[str, int]


@dataclass(frozen=True)
class Result:
    """Dice and durations of a finished run.

    Args:
        dice: per case, the Dice of each class and their `mean`; NaN where a class is absent.
        pretraining_seconds: of the pretraining, which other runs may share.
        teacher_seconds: of its teachers' trainings, and of the pseudo-labels that they make.
        evaluation_seconds: of the evaluation.
        was_interrupted: whether the durations lack what came before an interruption.
    """

    run: Run
    dice: Mapping[str, Mapping[str, float]]
    training_seconds: float
    pretraining_seconds: float = 0.0
    teacher_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    was_interrupted: bool = False

    @property
    def means(self) -> dict[str, float]:
        """Dice of each case that has any."""
        return {case: row["mean"] for case, row in self.dice.items() if math.isfinite(row["mean"])}

    @property
    def cell(self) -> Cell:
        return self.run.arm, self.run.num_labeled


@dataclass(frozen=True)
class Comparison:
    """Paired differences between an arm and the reference, on the draws and cases that both have.

    Args:
        differences: per draw, the difference of the means over cases.
        num_cases: number of pairs in the test.
        p_value: two-sided Wilcoxon signed-rank test on the cases, averaged over draws; None if all pairs are equal.
    """

    differences: Sequence[float]
    num_cases: int
    p_value: float | None


def read_dice(path: Path) -> dict[str, dict[str, float]]:
    """Read what `monai.handlers.MetricsSaver` has written, whatever its delimiter.

    Names are not quoted there, so that only a split from the right survives a comma in one.
    """
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    delimiter = header.removeprefix("filename")[:1]
    columns = header.split(delimiter)[1:] if header.startswith("filename") and delimiter else []
    if not columns or columns[-1] != "mean" or not lines:
        raise InputError(
            f"{path} must hold filename, one column per class, mean, and a case, got {header!r}; repeat the evaluation"
        )
    dice: dict[str, dict[str, float]] = {}
    for line in lines:
        case, *values = line.rsplit(delimiter, len(columns))
        if len(values) != len(columns) or case in dice:
            raise InputError(
                f"{path} must hold {len(columns)} numbers per case, each once, got {line!r}; repeat the evaluation"
            )
        dice[case] = {column: float(value) for column, value in zip(columns, values, strict=True)}
    return dice


def _by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    return {cell: [result for result in results if result.cell == cell] for cell in {result.cell for result in results}}


def compare(results: Sequence[Result], reference: Sequence[Result]) -> Comparison | None:
    """Compare the draws of one arm with those of the reference, or return None where they share no case."""
    theirs = {result.run.draw: result.means for result in reference}
    differences = []
    pairs: dict[str, list[float]] = {}
    for result in results:
        ours, other = result.means, theirs.get(result.run.draw, {})
        cases = [case for case in ours if case in other]
        if cases:
            differences.append(round(statistics.fmean(ours[case] - other[case] for case in cases), 10))
        for case in cases:
            pairs.setdefault(case, []).append(ours[case] - other[case])
    if not pairs:
        return None
    p_value = wilcoxon_p_value([statistics.fmean(values) for values in pairs.values()])
    return Comparison(differences, len(pairs), p_value)


def wilcoxon_p_value(differences: Sequence[float] | np.ndarray, alternative: str = "two-sided") -> float | None:
    """Return the p-value of Wilcoxon's signed-rank test, or None when all differences are zero.

    Args:
        differences: first score of each pair minus the second one. They are rounded to 10 digits: ties are ties.
        alternative: what the first scores are supposed to be: `greater` or `less` than the second ones, or neither of
            them, `two-sided`.
    """
    from scipy.stats import wilcoxon

    rounded = np.round(differences, 10)
    return float(wilcoxon(rounded, alternative=alternative).pvalue) if rounded.any() else None


def write_files(
    output_dir: str | Path,
    results: Sequence[Result],
    runs: Sequence[Run],
    name: str,
    reference: str | None,
    notes: str,
    title: str,
) -> str:
    """Write `results.csv`, `table.md` and `curve.png`, and return the table; arguments are those of `format_table`.

    Args:
        title: of the curve.
    """
    from common.data import write_atomically

    table = format_table(results, runs, name, reference, notes)
    for file, text in (("results.csv", _format_csv(results)), ("table.md", table)):
        write_atomically(Path(output_dir) / file, partial(Path.write_text, data=text, encoding="utf-8"))
    figure = _draw_curve(results, list(dict.fromkeys(run.arm for run in runs)), title)
    write_atomically(Path(output_dir) / "curve.png", lambda path: figure.savefig(path, dpi=150))
    return table


def _format_csv(results: Sequence[Result]) -> str:
    """Return a CSV table with one row for each run and case."""
    classes = list(dict.fromkeys(key for result in results for row in result.dice.values() for key in row))
    classes = [*(name for name in classes if name != "mean"), "mean"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    durations = ["training_seconds", "pretraining_seconds"]
    writer.writerow(["arm", "num_labeled", "fold", "seed", "case", *classes, *durations])
    for result in results:
        seconds = [f"{result.training_seconds:.1f}", f"{result.pretraining_seconds:.1f}"]
        for case, row in result.dice.items():
            values = [row.get(name, math.nan) for name in classes]
            writer.writerow([*result.cell, *result.run.draw, case, *values, *seconds])
    return text.getvalue()


def format_table(results: Sequence[Result], runs: Sequence[Run], name: str, reference: str | None, notes: str) -> str:
    """Return a Markdown table: the mean of every arm and label count, then every arm against the reference.

    Args:
        results: finished runs.
        runs: all runs of the study.
        name: title.
        reference: arm that the others are compared with.
        notes: sentences for the caption, such as the split and the command.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    counts = sorted({run.num_labeled for run in runs})
    draws = {run.draw for run in runs}
    cells = _by_cell(results)
    lines = [f"# {name}", "", _row("Arm", *(f"{count} labeled" for count in counts), "Minutes per run")]
    lines.append("|---" * (len(counts) + 2) + "|")
    for arm in arms:
        values = [_describe(cells.get((arm, count), []), len(draws)) for count in counts]
        lines.append(_row(arm, *values, _minutes([result for result in results if result.run.arm == arm])))
    if reference is not None and len(arms) > 1:
        lines += ["", f"Against `{reference}`, paired:", ""]
        lines.append(
            _row("Arm", "Labeled", "Mean difference", "Range over draws", "Draws better", "Wilcoxon p", "n cases")
        )
        lines.append("|---" * 7 + "|")
        for arm in [arm for arm in arms if arm != reference]:
            for count in counts:
                comparison = compare(cells.get((arm, count), []), cells.get((reference, count), []))
                lines.append(_row(arm, str(count), *_verdict(comparison)))
    return "\n".join([*lines, "", _caption(results, runs), "", notes, ""])


def _draw_curve(results: Sequence[Result], arms: Sequence[str], title: str) -> Figure:
    """Draw Dice against label count: a line through the means, a dot for each draw."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    colors = colormaps["tab10" if len(arms) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    cells = _by_cell(results)
    for index, arm in enumerate(arms):
        scores = {count: _draw_means(cells[name, count]) for name, count in cells if name == arm}
        scores = {count: scores[count] for count in sorted(scores) if scores[count]}
        if not scores:
            continue
        color, shift = colors[index % len(colors)], 1.03 ** (index - (len(arms) - 1) / 2)
        for count, values in scores.items():
            axes.plot([count * shift] * len(values), values, ".", color=color, markersize=4, alpha=0.5)
        means = [statistics.fmean(values) for values in scores.values()]
        axes.plot([*scores], means, "o-", color=color, markersize=5, label=arm)
    counts = sorted({count for _, count in cells})
    set_count_axis(axes, counts)
    axes.set(xlabel="labeled scans", ylabel="Dice", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def set_count_axis(axes: Axes, counts: Sequence[int]) -> None:
    """Make the x-axis one of label counts, ascending: logarithmic, and linear from 0 to 1."""
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.15 if counts[0] else -0.15, max(counts[-1] * 1.15, 0.15))


def _row(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def _draw_means(results: Sequence[Result]) -> list[float]:
    return [statistics.fmean(result.means.values()) for result in results if result.means]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe(results: Sequence[Result], num_draws: int) -> str:
    values = _draw_means(results)
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.3f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.3f}"
    return text if len(values) == num_draws else f"{text} ({len(values)}/{num_draws} draws)"


def _minutes(results: Sequence[Result]) -> str:
    if not results:
        return "–"
    text = f"{statistics.fmean(result.training_seconds for result in results) / 60:.1f}"
    pretraining = statistics.fmean(result.pretraining_seconds for result in results) / 60
    return f"{text} (+ {pretraining:.1f} shared pretraining)" if pretraining else text


def _verdict(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["–"] * 5
    differences = comparison.differences
    return [
        f"{statistics.fmean(differences):+.3f}",
        f"{min(differences):+.3f} to {max(differences):+.3f}",
        f"{sum(difference > 0 for difference in differences)}/{len(differences)}",
        "all differences are zero" if comparison.p_value is None else f"{comparison.p_value:.2g}",
        str(comparison.num_cases),
    ]


def _caption(results: Sequence[Result], runs: Sequence[Run]) -> str:
    cases = {case for result in results for case in result.dice}
    unscored = cases - {case for result in results for case in result.means}
    folds, seeds = ({run.draw[axis] for run in runs} for axis in (0, 1))
    sentences = [
        f"Dice: mean over draws of the mean over cases, ± the standard deviation over draws; n = {len(cases)} cases, "
        f"{_count(len(folds) * len(seeds), 'draw')} (folds {_join(folds)}; seeds {_join(seeds)}).",
        "p: two-sided Wilcoxon signed-rank test on the cases, each averaged over the draws that both arms have; "
        "not corrected for the number of comparisons, and never below 2^(1 - n).",
    ]
    if len(results) < len(runs):
        sentences.append(f"Partial: {len(results)} of {len(runs)} runs.")
    if unscored:
        sentences.append(f"{len(unscored)} cases hold none of the classes and are left out.")
    if interrupted := sum(result.was_interrupted for result in results):
        sentences.append(f"{interrupted} runs were interrupted; their minutes count the last start only.")
    return " ".join(sentences)


def _join(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
