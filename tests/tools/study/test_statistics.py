"""Laws of a study's statistics: Holm's correction, and the labels that an arm saves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_study import make_results

from tools.study.statistics import holm, labels_needed, labels_saved, paired_tests


def test_holm_is_what_a_hand_computes():
    """In ascending order 4 x .005, 3 x .01, 2 x .03, and 1 x .04, which must not be below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("seed", range(5))
def test_a_corrected_p_value_keeps_its_rank_and_lies_between_the_raw_one_and_bonferronis(seed):
    raw = np.random.RandomState(seed).rand(7) ** 3
    corrected = np.array(holm(raw.tolist()))
    assert (np.diff(corrected[np.argsort(raw)]) >= 0).all()
    assert (corrected >= raw).all()
    assert (corrected <= np.minimum(1, 7 * raw)).all()


def test_a_single_test_is_not_corrected():
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("target", "labels"), [(0.1, 1), (0.2, 1), (0.3, math.sqrt(2)), (0.4, 2), (0.5, 2 * math.sqrt(2)), (0.7, math.inf)]
)
def test_a_curve_is_straight_over_the_logarithm_of_the_labels(target, labels):
    assert labels_needed([1, 2, 4], [0.2, 0.4, 0.6], target) == pytest.approx(labels)


def test_from_no_label_to_the_first_ones_a_curve_is_a_straight_line_over_the_count():
    assert labels_needed([0, 4, 8], [0.2, 0.4, 0.6], 0.3) == pytest.approx(2)
    assert labels_needed([0, 4, 8], [0.2, 0.4, 0.6], 0.5) == pytest.approx(math.sqrt(32))


def test_a_curve_that_falls_again_has_reached_its_dice_before():
    assert labels_needed([1, 2, 4, 8], [0.2, 0.6, 0.3, 0.8], 0.4) == pytest.approx(math.sqrt(2))


CURVE = {1: 0.2, 2: 0.4, 4: 0.6}


def test_an_arm_with_the_dice_of_twice_the_labels_saves_as_many_as_it_has():
    results = make_results(lambda arm, count, fold: CURVE[count] + 0.2 * (arm == "atlas"))
    first, second, third = labels_saved(results, ["scratch", "atlas"], "scratch")
    assert (first.num_labeled, first.num_draws) == (1, 5)
    assert (first.needed, first.interval) == (pytest.approx(2), pytest.approx((2, 2)))
    assert second.needed == pytest.approx(4)
    assert third.needed == math.inf
    assert third.interval == (math.inf, math.inf)


def test_an_interval_holds_its_number_and_narrows_to_it_without_spread():
    def dice(arm, count, fold):
        return CURVE[count] + (0.1 + 0.02 * (fold - 2) if arm == "atlas" else 0)

    saved = labels_saved(make_results(dice), ["scratch", "atlas"], "scratch")[0]
    assert saved.needed == pytest.approx(math.sqrt(2))
    low, high = saved.interval
    assert 1 < low < saved.needed < high < 2


def test_a_single_draw_has_no_interval():
    results = make_results(lambda arm, count, fold: CURVE[count], folds=[3])
    assert labels_saved(results, ["scratch", "atlas"], "scratch")[0].interval is None


def test_draws_without_the_whole_curve_do_not_count():
    results = make_results(lambda arm, count, fold: CURVE[count])
    results = [result for result in results if result.run.draw[0] or result.cell != ("scratch", 4)]
    assert {saved.num_draws for saved in labels_saved(results, ["scratch", "atlas"], "scratch")} == {4}


def test_a_reference_with_one_label_count_has_no_curve():
    assert labels_saved(make_results(lambda *_: 0.5, counts=[2]), ["scratch", "atlas"], "scratch") == []


def test_all_comparisons_of_a_study_are_corrected_together():
    """With 6 cases that are all better, p is 2 / 2^6 = .03125; of three such tests Holm makes three times as much."""
    results = make_results(lambda arm, count, fold: CURVE[count] + 0.1 * (arm == "atlas"))
    tests = paired_tests(results, ["scratch", "atlas"], "scratch")
    assert [test.comparison.p_value for test in tests] == pytest.approx([0.03125] * 3)
    assert [test.corrected for test in tests] == pytest.approx([0.09375] * 3)


def test_a_comparison_without_a_difference_has_no_p_value_but_counts():
    results = make_results(lambda arm, count, fold: CURVE[count] + 0.1 * (arm == "atlas" and count == 1))
    tests = paired_tests(results, ["scratch", "atlas"], "scratch")
    assert [test.corrected for test in tests] == [pytest.approx(0.09375), None, None]
