"""Laws of the tables of a study, and of the signed-rank test."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from monai.handlers import write_metrics_reports
from small_study import FakeRunner, plan, run, table_of

from tools.study.__main__ import collect_results
from tools.study.plan import plan_runs
from tools.study.report import compare, format_table, read_dice, wilcoxon_p_value

BETTER = np.linspace(0.01, 0.08, 8)


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_reads_what_the_metrics_saver_writes(tmp_path, delimiter):
    dice = {"mean_dice": np.array([[0.25, np.nan], [0.5, 1.0]])}
    write_metrics_reports(str(tmp_path), ["/data/a,b.nii.gz", "c"], None, dice, None, delimiter)
    read = read_dice(tmp_path / "mean_dice_raw.csv")
    assert list(read) == ["/data/a,b.nii.gz", "c"]
    assert read["/data/a,b.nii.gz"] == pytest.approx({"class0": 0.25, "class1": np.nan, "mean": 0.25}, nan_ok=True)
    assert read["c"] == {"class0": 0.5, "class1": 1.0, "mean": 0.75}


@pytest.mark.parametrize("text", ["", "filename,class0,mean\n", "case,mean\na,1\n", "filename,mean\na,1\na,1\n"])
def test_refuses_what_is_no_metrics_file(tmp_path, text):
    (tmp_path / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mean_dice_raw.csv must hold"):
        read_dice(tmp_path / "mean_dice_raw.csv")


def worked_example(arm, num_labeled, fold, seed, case):
    """Case means rise by 0.1 and 0.3 from scratch to stl, 0.1 more in fold 1; with 4 labels they are equal."""
    gain = {"a": 0.1, "b": 0.3}[case] + 0.1 * fold
    return round(0.4 + (gain if arm == "stl" and num_labeled == 2 else 0), 3)


def test_the_table_is_what_a_hand_computes(content):
    """Draw means of stl with 2 labels: 0.4 + (0.1 + 0.3) / 2 = 0.6 and 0.7; mean 0.65, deviation 0.1 / sqrt(2).

    Differences per draw: 0.2 and 0.3. Per case: 0.15 and 0.35, all positive, so p = 2 / 2^2 = 0.5.
    """
    run(content, FakeRunner(worked_example))
    table = table_of(content)
    assert "| scratch | 0.400 ± 0.000 | 0.400 ± 0.000 | 0.0 |" in table
    assert "| stl | 0.650 ± 0.071 | 0.400 ± 0.000 | 0.0 (+ 0.0 shared pretraining) |" in table
    assert "| stl | 2 | +0.250 | +0.200 to +0.300 | 2/2 | 0.5 | 2 |" in table
    assert "n = 2 cases, 4 draws" not in table
    assert "n = 2 cases, 2 draws (folds 0, 1; seeds 0)" in table
    assert "Repeat with `repeat me`" in table


def test_equal_arms_have_no_p_value(content):
    run(content, FakeRunner(worked_example))
    assert "| stl | 4 | +0.000 | +0.000 to +0.000 | 0/2 | all differences are zero | 2 |" in table_of(content)


def test_a_case_without_any_class_is_left_out(content):
    run(content, FakeRunner(lambda *draw: "nan" if draw[-1] == "b" else 0.5))
    assert "| scratch | 0.500 ± 0.000 |" in table_of(content)
    assert "1 cases hold none of the classes" in table_of(content)


def test_arms_are_compared_on_the_cases_and_draws_that_both_have(content):
    """Fold 1 of stl is missing, and so is case b of fold 0: what is left is case a of fold 0."""
    run(content, FakeRunner(lambda arm, *draw: ("nan" if draw[-1] == "b" else 0.6) if arm == "stl" else 0.5))
    plan_ = plan(content)
    results = [result for result in collect_results(plan_, plan_runs(plan_)) if result.run.num_labeled == 2]
    stl = [result for result in results if result.cell == ("stl", 2) and result.run.draw == (0, 0)]
    scratch = [result for result in results if result.cell == ("scratch", 2)]
    for ours, theirs, difference in [(stl, scratch, 0.1), (scratch, stl, -0.1)]:
        comparison = compare(ours, theirs)
        assert comparison is not None
        assert comparison.differences == [difference]
        assert comparison.num_cases == 1


def test_every_case_has_a_row(content):
    run(content, FakeRunner(worked_example))
    table_of(content)
    with Path("out/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 2
    row = next(row for row in rows if (row["arm"], row["fold"], row["case"]) == ("stl", "1", "b"))
    assert (row["num_labeled"], row["seed"], row["class0"], row["mean"]) == ("2", "0", "0.8", "0.8")
    assert float(row["pretraining_seconds"]) >= 0


def test_a_study_without_a_reference_compares_nothing(content):
    del content["reference"]
    run(content, FakeRunner())
    plan_ = plan(content)
    runs = plan_runs(plan_)
    assert "Wilcoxon p |" not in format_table(collect_results(plan_, runs), runs, "tiny", None, "")


def test_differences_that_are_all_positive_have_the_smallest_p_value():
    one_sided = 1 / 2**8  # one of 256 patterns of signs
    assert wilcoxon_p_value(BETTER, "greater") == wilcoxon_p_value(-BETTER, "less") == pytest.approx(one_sided)
    assert wilcoxon_p_value(BETTER) == wilcoxon_p_value(-BETTER) == pytest.approx(2 * one_sided)
    assert wilcoxon_p_value(BETTER, "less") == pytest.approx(1)


def test_differences_that_are_zero_up_to_rounding_have_none():
    assert wilcoxon_p_value(1e-15 * BETTER) is wilcoxon_p_value([0.0, 0.0]) is None


def test_ties_up_to_rounding_are_ties():
    assert wilcoxon_p_value([0.1, 0.1 + 1e-15, -0.1, 0.2]) == wilcoxon_p_value([0.1, 0.1, -0.1, 0.2])
