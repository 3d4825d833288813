"""Wilcoxon's signed-rank test of paired scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["wilcoxon_p_value"]


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
