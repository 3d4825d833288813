"""Laws of the one-sided signed-rank test."""

from __future__ import annotations

import numpy as np
import pytest

from tools.study.statistics import one_sided_wilcoxon

WORSE = np.linspace(0.5, 0.9, 8)


def test_scores_that_are_always_better_have_the_smallest_p_value():
    better = WORSE + np.linspace(0.01, 0.08, 8)
    result = one_sided_wilcoxon(better, WORSE)
    assert (result.num_pairs, result.p_value) == (8, pytest.approx(1 / 2**8))  # one of 256 patterns of signs
    assert result.median_difference == pytest.approx(0.045)
    assert one_sided_wilcoxon(better, WORSE, "less").p_value == pytest.approx(1)
    assert one_sided_wilcoxon(WORSE, better, "less").p_value == result.p_value


def test_pairs_with_a_nan_do_not_count():
    better = [*(WORSE + np.linspace(0.01, 0.08, 8)), 0.1, np.nan]
    assert one_sided_wilcoxon(better, [*WORSE, np.nan, 0.9]) == one_sided_wilcoxon(better[:8], WORSE)


def test_equal_scores_speak_for_nothing_even_up_to_rounding():
    assert one_sided_wilcoxon(WORSE, WORSE * (1 + 1e-15)) == (8, 0, 1)


@pytest.mark.parametrize(
    ("first", "second", "alternative", "message"),
    [
        ([1, 2], [1], "greater", "scores must be of the same cases, got 2 and 1"),
        ([np.nan], [1], "greater", "scores must hold a pair without NaN, got none in 1"),
        ([1], [2], "two-sided", "alternative must be greater or less, got 'two-sided'"),
    ],
)
def test_what_cannot_be_tested_is_refused(first, second, alternative, message):
    with pytest.raises(ValueError, match=message):
        one_sided_wilcoxon(first, second, alternative)
