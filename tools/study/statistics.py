"""Whether one set of scores is better than another, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

__all__ = ["WilcoxonResult", "one_sided_wilcoxon"]


class WilcoxonResult(NamedTuple):
    """Outcome of a signed-rank test.

    Attributes:
        num_pairs: pairs without a NaN.
        median_difference: of the first score minus the second.
        p_value: probability of such differences, or clearer ones, when neither set is better.
    """

    num_pairs: int
    median_difference: float
    p_value: float


def one_sided_wilcoxon(first: Sequence[float], second: Sequence[float], alternative: str = "greater") -> WilcoxonResult:
    """Test whether the first scores are `greater` (or `less`) than the second ones, by Wilcoxon's signed ranks.

    Args:
        first: one score for each case.
        second: scores of the same cases, in the same order. Cases in which either score is NaN do not count.
        alternative: `greater` or `less`.

    Raises:
        ValueError: when the numbers of scores differ, all have a NaN, or the alternative is unknown.
    """
    if alternative not in ("greater", "less"):
        raise ValueError(f"alternative must be greater or less, got {alternative!r}")
    if len(first) != len(second):
        raise ValueError(f"scores must be of the same cases, got {len(first)} and {len(second)}")
    differences = np.round(np.subtract(np.asarray(first, float), np.asarray(second, float)), 10)  # ties are ties
    differences = differences[~np.isnan(differences)]
    if not differences.size:
        raise ValueError(f"scores must hold a pair without NaN, got none in {len(first)}")
    p_value = float(wilcoxon(differences, alternative=alternative).pvalue) if differences.any() else 1.0
    return WilcoxonResult(len(differences), float(np.median(differences)), p_value)
