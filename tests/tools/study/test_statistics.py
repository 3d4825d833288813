"""Laws of the signed-rank test."""

from __future__ import annotations

import numpy as np
import pytest

from tools.study.statistics import wilcoxon_p_value

BETTER = np.linspace(0.01, 0.08, 8)


def test_differences_that_are_all_positive_have_the_smallest_p_value():
    one_sided = 1 / 2**8  # one of 256 patterns of signs
    assert wilcoxon_p_value(BETTER, "greater") == wilcoxon_p_value(-BETTER, "less") == pytest.approx(one_sided)
    assert wilcoxon_p_value(BETTER) == wilcoxon_p_value(-BETTER) == pytest.approx(2 * one_sided)
    assert wilcoxon_p_value(BETTER, "less") == pytest.approx(1)


def test_differences_that_are_zero_up_to_rounding_have_none():
    assert wilcoxon_p_value(1e-15 * BETTER) is wilcoxon_p_value([0.0, 0.0]) is None


def test_ties_up_to_rounding_are_ties():
    assert wilcoxon_p_value([0.1, 0.1 + 1e-15, -0.1, 0.2]) == wilcoxon_p_value([0.1, 0.1, -0.1, 0.2])
