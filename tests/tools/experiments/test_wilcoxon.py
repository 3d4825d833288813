"""Laws of the command that compares two files of scores."""

from __future__ import annotations

import csv

import pytest

from tools.experiments.wilcoxon import wilcoxon


@pytest.fixture
def write(tmp_path):
    def _write(name, rows, header=("filename", "liver", "mean")):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return str(tmp_path / name)

    return _write


def scores(offset, folder="", cases=range(6)):
    return [[f"{folder}c{case}.nii.gz", case / 10, case / 10 + offset * (case + 1)] for case in cases]


def test_cases_pair_by_name_whatever_their_order_and_folder(write):
    first, second = write("a.csv", scores(0.01, "/x/")), write("b.csv", scores(0, "/y/")[::-1])
    said = wilcoxon(first, second)
    assert said == f"mean: 6 pairs, median difference +0.035, p = 0.0156 ({first} greater than {second})"
    assert "p = 1 " in wilcoxon(first, second, column="liver")
    assert "p = 1 " in wilcoxon(first, second, alternative="less")


def test_one_class_of_a_clinical_table_is_compared_and_its_sign_left_out_when_asked_to(write):
    header = ("filename", "class", "volume_mm3_percent_error")
    tables = [
        [[f"c{case}.nii", name, sign * (case + 1) * scale] for case in range(6) for name in ("fat", "muscle")]
        for scale, sign in ((3, -1), (1, 1))
    ]
    tables[0][1][2] = "nan"
    first, second = write("a.csv", tables[0], header), write("b.csv", tables[1], header)
    options = {"column": header[2], "class_name": "muscle"}
    assert "of muscle: 5 pairs (1 left out for NaN), median difference -16, p = 1 " in wilcoxon(
        first, second, **options
    )
    assert "median difference +8, p = 0.0312" in wilcoxon(first, second, absolute=True, **options)
    for name, message in (
        (None, r"class_name must be given for .*a.csv, .*, got None"),
        ("bone", r"class_name must be one of fat, muscle in .*a.csv, got 'bone'"),
    ):
        with pytest.raises(ValueError, match=message):
            wilcoxon(first, second, column=header[2], class_name=name)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (scores(0, cases=range(5)), {}, r"b.csv: must hold the cases of the other file, got no c5 \(1 unpaired\)"),
        (scores(0, cases=range(7)), {}, r"a.csv: must hold the cases of the other file, got no c6"),
        ([*scores(0), *scores(0, "z/", [3])], {}, r"b.csv: must hold every case once, got c3 twice"),
        ([*scores(0, cases=range(5)), ["c5.nii", 0, "high"]], {}, "b.csv: mean of c5 must be a number, got 'high'"),
        ([], {}, "b.csv: must hold a case, got none"),
        (scores(0), {"column": "dice"}, "a.csv: must have the columns filename and dice, got filename, liver, mean"),
        (scores(0), {"class_name": "liver"}, "class_name must be left out for .*a.csv"),
        (scores(0), {"alternative": "two-sided"}, "alternative must be greater or less, got 'two-sided'"),
        ([[f"c{case}", 0, "nan"] for case in range(6)], {}, "scores must hold a pair without NaN, got none in 6"),
    ],
)
def test_what_does_not_pair_is_refused(write, rows, options, message):
    with pytest.raises(ValueError, match=message):
        wilcoxon(write("a.csv", scores(0.01)), write("b.csv", rows), **options)


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv: must be a table of scores, got no such file"):
        wilcoxon("nowhere.csv", "nowhere.csv")


def test_the_command_says_it_in_one_line(write, run_tool):
    arguments = [write("1.csv", scores(0.01)), write("2.csv", scores(0)), "--column", "mean"]
    assert run_tool("tools.experiments.wilcoxon", *arguments).out.count("\n") == 1
