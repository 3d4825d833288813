"""Test by Wilcoxon's signed ranks whether the scores of one evaluation are better than those of another.

python -m tools.experiments.wilcoxon FIRST.csv SECOND.csv [--column mean] [--alternative greater] [--class_name muscle]
    [--absolute]
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from common.cli import InputError, MissingFileError
from tools._command import run_command
from tools.study.report import wilcoxon_p_value


def wilcoxon(
    first: str,
    second: str,
    *,
    column: str = "mean",
    alternative: str = "greater",
    class_name: str | None = None,
    absolute: bool = False,
) -> str:
    """Compare two files of scores by Wilcoxon's one-sided signed-rank test.

    Args:
        first: a table with a row for each case, such as `mean_dice_raw.csv`.
        second: a table of the same cases, which pair by their file names without folder and suffix.
        column: of the scores.
        alternative: what the first scores are supposed to be: `greater` or `less` than the second ones.
        class_name: whose rows count, in a table with a row for each case and class, such as `clinical_raw.csv`.
        absolute: compare absolute values, as those of errors that have a sign.

    Returns:
        The number of pairs, the median difference and the p-value.
    """
    if alternative not in ("greater", "less"):
        raise InputError(f"alternative must be greater or less, got {alternative!r}")
    ours, theirs = (_read(Path(path), column, class_name) for path in (first, second))
    alone = sorted(ours.keys() ^ theirs.keys())
    if alone:
        path = second if alone[0] in ours else first
        raise InputError(
            f"{path}: must hold the cases of the other file, got no {alone[0]} ({len(alone)} "
            "unpaired); score both on the same cases"
        )
    values = np.array([[ours[case], theirs[case]] for case in ours]).T
    differences = np.subtract(*(np.abs(values) if absolute else values)).round(10)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise InputError(f"scores must hold a pair without NaN, got none in {len(ours)}; choose another column")
    p_value = wilcoxon_p_value(differences, alternative)
    left_out = len(ours) - len(differences)
    return (
        f"{column}{f' of {class_name}' if class_name else ''}: {len(differences)} pairs"
        f"{f' ({left_out} left out for NaN)' if left_out else ''}, median difference {np.median(differences):+.4g}, "
        f"p = {1 if p_value is None else p_value:.3g} ({first} {alternative} than {second})"
    )


def _read(path: Path, column: str, class_name: str | None) -> dict[str, float]:
    """Return the scores of a table by case."""
    from common.data import case_id

    if not path.is_file():
        raise MissingFileError(
            f"{path}: must be a table of scores, got no such file; run the workflow evaluation first"
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        names, rows = list(reader.fieldnames or []), list(reader)
    missing = {"filename", column} - set(names)
    if missing:
        raise InputError(f"{path}: must have the columns filename and {column}, got {', '.join(names)}")
    if ("class" in names) != (class_name is not None):
        wanted = "be given for" if "class" in names else "be left out for"
        raise InputError(f"class_name must {wanted} {path}, with the columns {', '.join(names)}, got {class_name!r}")
    if class_name is not None:
        classes = dict.fromkeys(row["class"] for row in rows)
        rows = [row for row in rows if row["class"] == class_name]
        if not rows:
            raise InputError(f"class_name must be one of {', '.join(classes)} in {path}, got {class_name!r}")
    scores: dict[str, float] = {}
    for row in rows:
        case = case_id(row["filename"])
        if case in scores:
            raise InputError(f"{path}: must hold every case once, got {case} twice; run the evaluation again")
        try:
            scores[case] = float(row[column])
        except (TypeError, ValueError):
            raise InputError(f"{path}: {column} of {case} must be a number, got {row[column]!r}") from None
    if not scores:
        raise InputError(f"{path}: must hold a case, got none; run the evaluation again")
    return scores


if __name__ == "__main__":
    run_command(wilcoxon)
