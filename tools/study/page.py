"""Page of a study, `report.html`: one file that opens in any browser, without network and without scripts."""

from __future__ import annotations

import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from common.cli import count_text, make_code, make_page, make_section, make_table, package_versions
from tools.study.advice import Advice, advise, export_command
from tools.study.charts import arm_colors, draw_boxes, draw_curve, shown_counts
from tools.study.conduct import jobs_of, read_record
from tools.study.plan import Run, Study
from tools.study.report import Result
from tools.study.statistics import SavedLabels, Test, labels_saved, paired_tests

__all__ = ["write_page"]


def write_page(study: Study, runs: Sequence[Run], results: Sequence[Result], repeat: str) -> Path:
    """Write `report.html` into the folder of a study, and return its path.

    Args:
        runs: all of the study.
        results: of the finished ones.
        repeat: command that repeats the study.
    """
    from common.data import write_atomically

    arms = [arm for arm in study.arms if any(run.arm == arm for run in runs)]
    sections = [_no_scores(study)]
    if any(result.means for result in results):
        tests = paired_tests(results, arms, study.reference)
        sections = [
            _verdict(study, runs, results, arms, tests),
            _curve(results, arms, runs),
            _classes(results, arms),
            _tests(tests, study.reference),
            _saved(labels_saved(results, arms, study.reference), study.reference, runs),
        ]
    sections += [_cost(results, arms), _data(study, results), _commands(runs, repeat), _versions()]
    text = make_page(study.name, sections)
    path = Path(study.output_dir) / "report.html"
    return write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))


def _verdict(study: Study, runs: Sequence[Run], results: Sequence[Result], arms: Sequence[str], tests) -> str:
    advice = advise(results, arms, study.reference, tests)
    finished = [result.run for result in results]
    numbers = [
        count_text(len({run.arm for run in finished}), "arm"),
        count_text(len({run.num_labeled for run in finished}), "label count"),
        count_text(len({run.draw for run in finished}), "draw"),
    ]
    missing = len(runs) - len(results)
    partly = f" {missing} of {len(runs)} runs are not finished, and not in this report." if missing else ""
    return make_section(
        "verdict",
        "",
        f'<p class="verdict">{escape(advice.sentence)}</p>'
        f"<p>{count_text(len(results), 'run')}: {', '.join(numbers)}, scored on {study.split} cases.{partly}</p>"
        + _take_away(study, advice),
    )


def _take_away(study: Study, advice: Advice) -> str:
    """Return how to get what the recommended arm has learned."""
    fold, seed = advice.run.draw
    learned = f"what the arm has learned from {count_text(advice.run.num_labeled, 'label')} (fold {fold}, seed {seed})"
    if study.arms[advice.arm].command:
        return f"<p>Its program left {learned} in <code>{escape(str(advice.run.training.folder))}</code>.</p>"
    command = shlex.join(export_command(study, advice))
    return f"<p>This exports {learned}; train with all labels for use:</p>{make_code([command])}"


def _no_scores(study: Study) -> str:
    return make_section("verdict", "", f"<p>No {study.split} case of the finished runs holds any of the classes.</p>")


def _curve(results: Sequence[Result], arms: Sequence[str], runs: Sequence[Run]) -> str:
    counts = sorted({run.num_labeled for run in runs})
    rows = []
    for arm in arms:
        cells = []
        for count in counts:
            dice = [statistics.fmean(r.means.values()) for r in results if r.cell == (arm, count) and r.means]
            spread = f"± {statistics.stdev(dice):.3f} " if len(dice) > 1 else ""
            cells.append(f"{statistics.fmean(dice):.3f}<br><small>{spread}({len(dice)})</small>" if dice else "–")
        rows.append([_arm(arm, arms), *cells])
    caption = (
        "Mean Dice over the draws, each the mean over its cases; ± and the band are the standard deviation over draws, "
        "a dot is a draw, and the number of draws stands in parentheses."
    )
    table = make_table(["arm", *(f"{count} labeled" for count in counts)], rows, caption)
    return make_section("curve", "Dice against labels", f"<figure>{draw_curve(results, arms)}</figure>{table}")


def _classes(results: Sequence[Result], arms: Sequence[str]) -> str:
    counts = ", ".join(map(str, shown_counts(results)))
    caption = (
        f"Dice of every case, averaged over the draws that score it, at {counts} labeled: median, quartiles, "
        "whiskers of 1.5 times the interquartile range, and what lies beyond."
    )
    figure = f"<figure>{draw_boxes(results, arms)}<figcaption>{caption}</figcaption></figure>"
    return make_section("classes", "Class by class", figure)


def _tests(tests: Sequence[Test], reference: str | None) -> str:
    if not tests:
        return make_section(
            "tests", "Paired tests", "<p>There is no other arm than the reference to compare with it.</p>"
        )
    rows = []
    for test in tests:
        differences = test.comparison.differences
        rows.append(
            [
                escape(test.arm),
                str(test.num_labeled),
                _signed(statistics.fmean(differences)),
                f"{_signed(min(differences))} to {_signed(max(differences))}",
                f"{sum(difference > 0 for difference in differences)} of {len(differences)}",
                str(test.comparison.num_cases),
                "–" if test.comparison.p_value is None else f"{test.comparison.p_value:.2g}",
                "–" if test.corrected is None else _emphasize(f"{test.corrected:.2g}", test.corrected < 0.05),
            ]
        )
    caption = (
        "Two-sided Wilcoxon signed-rank test on the cases, each averaged over the draws that both arms have; the last "
        f"column is corrected by Holm's method over {count_text(len(tests), 'comparison')}, bold below .05. With n "
        "cases no p-value is below 2^(1 − n). Cases of one data set and arms of one draw are not independent: take p "
        "as a guide."
    )
    head = ["arm", "labels", "difference", "over draws", "draws better", "cases", "p", "p (Holm)"]
    return make_section("tests", f"Paired tests against {reference}", make_table(head, rows, caption))


def _saved(saved: Sequence[SavedLabels], reference: str | None, runs: Sequence[Run]) -> str:
    if not saved:
        text = "It takes a reference with two label counts or more, and a draw that has all of them."
        return make_section("saved", "Labels saved", f"<p>{text}</p>")
    counts = sorted({run.num_labeled for run in runs if run.arm == reference})
    rows = []
    for row in saved:
        ends = "–"
        if row.interval is not None:
            ends = " to ".join(dict.fromkeys(_labels(end, counts) for end in row.interval))
        gain = _signed(row.needed - row.num_labeled, 1)
        if math.isinf(row.needed):
            gain = f"more than {counts[-1] - row.num_labeled}"
        rows.append(
            [
                escape(row.arm),
                str(row.num_labeled),
                f"{row.dice:.3f}",
                _labels(row.needed, counts),
                ends,
                gain,
                str(row.num_draws),
            ]
        )
    caption = (
        f"How many labels {escape(str(reference))} needs for the Dice of an arm, read off its curve, which is straight "
        "between two counts over the logarithm of the count; 95 % interval by bootstrap over the draws that have all "
        f"counts. The curve tells nothing below {counts[0]} and above {counts[-1]}."
    )
    head = ["arm", "labels", "Dice", f"labels {reference} needs", "95 % interval", "saved", "draws"]
    return make_section("saved", "Labels saved", make_table(head, rows, caption))


def _labels(needed: float, counts: Sequence[int]) -> str:
    if math.isinf(needed):
        return f"&gt; {counts[-1]}"
    return f"≤ {counts[0]}" if needed <= counts[0] else f"{needed:.1f}"


def _cost(results: Sequence[Result], arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        own = [result for result in results if result.run.arm == arm]
        if own:
            training, teachers, pretraining, evaluation = (
                [getattr(result, f"{name}_seconds") for result in own]
                for name in ("training", "teacher", "pretraining", "evaluation")
            )
            means = [f"{statistics.fmean(seconds):.1f}" for seconds in (training, teachers, pretraining, evaluation)]
            rows.append([_arm(arm, arms), str(len(own)), *means, f"{sum(training + evaluation) / 60:.1f}"])
    interrupted = sum(result.was_interrupted for result in results)
    caption = (
        "Seconds of wall time, mean per run. Teachers are what comes before a training on pseudo-labels: trainings of "
        "other arms, and their segmentations; these and a pretraining may be shared by runs, and are not in the last "
        "column."
    )
    if interrupted:
        caption += f" {count_text(interrupted, 'run')} went on after an interruption, and count the last start only."
    head = ["arm", "runs", "training, s", "teachers, s", "pretraining, s", "evaluation, s", "all runs, min"]
    return make_section("cost", "Cost", make_table(head, rows, caption))


def _data(study: Study, results: Sequence[Result]) -> str:
    facts = [f"<code>{escape(study.dataset_dir)}</code>, scored on its {study.split} cases"]
    path = Path(study.dataset_dir).expanduser().absolute() / "dataset.json"
    if path.is_file():
        from common.data import read_dataset_file

        listed = read_dataset_file(path)
        numbers = {
            "with labels": len(listed.training) + len(listed.validation),
            "without": len(listed.unlabeled),
            "test": len(listed.test),
        }
        names = ", ".join(name for value, name in sorted(listed.labels.items()) if value)
        facts.append(f"{escape(listed.name)}: {', '.join(f'{number} {name}' for name, number in numbers.items())}")
        facts.append(f"classes: {escape(names)}; {escape(', '.join(filter(None, listed.modality)) or 'no modality')}")
    rows = []
    for fold, seed in sorted({result.run.draw for result in results}):
        own = [result for result in results if result.run.draw == (fold, seed)]
        scored = list(dict.fromkeys(case for result in own for case in result.dice))
        largest = max(own, key=lambda result: result.run.num_labeled)
        rows.append([str(fold), str(seed), _names(_learned_from(largest.run)), f"{_names(scored)}"])
    caption = "Fewer labels are the first of these; all arms of a draw share them. Scored cases are never learned from."
    head = ["fold", "seed", "labeled scans, at most", "scored cases"]
    items = "".join(f"<li>{fact}</li>" for fact in facts)
    return make_section("data", "Data", f"<ul>{items}</ul>{make_table(head, rows, caption, 'names')}")


def _learned_from(run: Run) -> list[str]:
    """Return the names of the scans that a run was trained on, from the record beside its weights."""
    path = run.training.folder / "record.json"
    return [*read_record(path).get("learned_from", {})][: run.num_labeled] if path.is_file() else []


def _names(cases: Sequence[str]) -> str:
    from common.data import case_id

    names = ", ".join(escape(case_id(case)) for case in cases)
    return f"<details><summary>{len(cases)}</summary>{names}</details>" if cases else "–"


def _commands(runs: Sequence[Run], repeat: str) -> str:
    jobs = jobs_of(runs)
    lines = [shlex.join(["python", *job.command[1:]]) for job in jobs]
    return make_section(
        "commands",
        "Commands",
        f"<p>The whole study; given again, it goes on, and repeats nothing that is finished:</p>{make_code([repeat])}"
        f"<details><summary>All {len(jobs)} commands that it runs, in <code>{escape(str(Path.cwd()))}</code></summary>"
        f"{make_code(lines)}</details>",
    )


def _versions() -> str:
    rows = [[name, escape(found)] for name, found in package_versions().items()]
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    rows.append(["machine", escape(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")])
    rows.append(["OMP_NUM_THREADS", escape(threads)])
    return make_section(
        "versions", "Versions", make_table(["", f"when this report was made, by {Path(sys.executable).name}"], rows)
    )


def _arm(arm: str, arms: Sequence[str]) -> str:
    return f'<span class="dot" style="background: {arm_colors(arms)[arm]}"></span>{escape(arm)}'


def _emphasize(text: str, is_strong: bool) -> str:
    return f"<strong>{text}</strong>" if is_strong else text


def _signed(number: float, digits: int = 3) -> str:
    return f"{number:+.{digits}f}".replace("-", "−")
