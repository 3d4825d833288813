"""Laws of teachers' probabilities as one, and of the thresholds of each class."""

from __future__ import annotations

import numpy as np
import pytest

from common.self_training import class_thresholds, pool_probabilities, steadiness_weights


@pytest.fixture
def teachers():
    rng = np.random.default_rng(0)
    return [rng.dirichlet(np.ones(4), size=(5, 6)).transpose(2, 0, 1) for _ in range(3)]


def test_one_teacher_stays_what_it_is_but_for_the_floor(teachers):
    assert np.abs(pool_probabilities(teachers[:1], floor=1e-6) - teachers[0]).max() < 1e-5


def test_probabilities_sum_to_one_in_any_order_of_the_teachers(teachers):
    pooled = pool_probabilities(teachers)
    assert np.allclose(pooled.sum(axis=0), 1, atol=1e-6)
    assert np.allclose(pooled, pool_probabilities(teachers[::-1]), atol=1e-6)


def test_two_teachers_are_multiplied():
    one, two = np.array([[0.7], [0.3]]), np.array([[0.4], [0.6]])
    assert np.allclose(pool_probabilities([one, two], floor=0), [[0.28 / 0.46], [0.18 / 0.46]], atol=1e-6)


def test_no_teacher_alone_rules_out_a_class():
    sure, others = np.array([[1.0], [0.0]]), np.array([[0.01], [0.99]])
    assert pool_probabilities([sure, *3 * [others]])[:, 0].argmax() == 1


def test_a_weight_is_as_many_equal_teachers_and_zero_is_none(teachers):
    one, two, _ = teachers
    assert np.allclose(pool_probabilities([one, two], [2, 1]), pool_probabilities([one, one, two]), atol=1e-6)
    assert np.allclose(pool_probabilities([one, two], [1, 0]), pool_probabilities([one]), atol=1e-6)


def test_a_weight_of_each_class_is_that_of_the_teacher_where_all_are_alike(teachers):
    one, two, _ = teachers
    alike = pool_probabilities([one, two], [np.full(4, 0.3), np.full(4, 2.0)])
    assert np.allclose(alike, pool_probabilities([one, two], [0.3, 2.0]), atol=1e-6)
    first, second = np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 0])
    pooled = pool_probabilities([one, two], [first, second], floor=0)
    expected = np.concatenate([two[:2], one[2:]])
    assert np.allclose(pooled, expected / expected.sum(axis=0), atol=1e-6), "each class as its own teacher sees it"


# ---- weights of teachers -------------------------------------------------------------------------


def volumes(spread: float, share: float = 1.0, scale: float = 1.0, num_scans: int = 400) -> list[dict[int, float]]:
    """Return volumes of an organ in some scans, of which it is found in a share."""
    rng = np.random.default_rng(0)
    sizes = scale * np.exp(rng.normal(3, spread, num_scans))
    return [{1: size} if index < share * num_scans else {} for index, size in enumerate(sizes)]


def test_a_teacher_counts_by_the_inverse_variance_of_the_volumes_that_it_finds():
    weights = steadiness_weights([volumes(0.2), volumes(0.4), volumes(0.8)], 2)
    assert np.allclose(weights[:, 1] / weights[0, 1], [1, 1 / 4, 1 / 16], rtol=0.2)
    assert np.allclose(weights.sum(axis=0), 1) and np.allclose(weights[:, 0], weights[:, 1])


def test_teachers_that_are_alike_count_alike_whatever_size_they_find():
    assert np.allclose(steadiness_weights([volumes(0.3), volumes(0.3, scale=2.0)], 2), 0.5, atol=0.02)


def test_to_find_nothing_in_most_scans_is_not_steady():
    for share in (0.4, 0.0):
        (sound, blind) = steadiness_weights([volumes(0.5), volumes(0.01, share)], 2)[:, 1]
        assert blind < 0.05 < 0.95 < sound


def test_a_class_that_nobody_finds_is_no_reason_to_fail():
    assert np.allclose(steadiness_weights([[{}, {}], [{}, {}]], 3), 0.5)


def test_teachers_of_other_grids_or_without_a_weight_are_refused(teachers):
    with pytest.raises(ValueError, match="probabilities of one shape"):
        pool_probabilities([teachers[0], teachers[1][:, :4]])
    with pytest.raises(ValueError, match="got 1 weights"):
        pool_probabilities(teachers[:2], [1.0])


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_each_class_keeps_its_share_however_sure_it_is(keep):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=3000)
    confidences = rng.uniform(0.4 + 0.2 * labels, 0.6 + 0.2 * labels)  # classes that are easy and hard to find
    thresholds = class_thresholds([confidences[:1000], confidences[1000:]], [labels[:1000], labels[1000:]], 4, keep)
    for label in range(3):
        assert (confidences[labels == label] >= thresholds[label]).mean() == pytest.approx(keep, abs=0.01)
    assert thresholds[3] == 0  # of which there is none


def test_all_of_them_are_kept_also_those_below_the_sample():
    assert class_thresholds([np.full(5, 0.4)], [np.ones(5)], 2, 1.0).tolist() == [0, 0]


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="keep must be from 0 to 1, got 80"):
        class_thresholds([np.ones(1)], [np.ones(1)], 2, 80)
