"""Laws of cases that several processes share."""

from __future__ import annotations

import pytest

from common.data import DistributedSampler, split_labeled


@pytest.mark.parametrize(("num_cases", "processes"), [(7, 2), (7, 3), (4, 4), (1, 1)])
def test_the_shares_put_together_are_the_data_set(deal, num_cases, processes):
    shares = deal(lambda: list(DistributedSampler(range(num_cases))), processes)
    assert [case for share in shares for case in share] == list(range(num_cases))
    sizes = deal(lambda: len(DistributedSampler(range(num_cases))), processes)
    places = deal(
        lambda: (DistributedSampler(range(num_cases)).first, DistributedSampler(range(num_cases)).total), processes
    )
    assert places == [(sum(sizes[:rank]), num_cases) for rank in range(processes)]
    assert sizes == [len(share) for share in shares] and max(sizes) - min(sizes) <= 1


def test_all_take_all_cases_when_they_are_fewer_than_the_processes(deal):
    """Their mean is the same, and nobody waits for a process that has nothing to evaluate."""
    assert deal(lambda: list(DistributedSampler(range(2))), 3) == [[0, 1]] * 3


def test_one_process_takes_all_cases():
    assert list(DistributedSampler(range(3))) == [0, 1, 2]


# ---- labeled cases beside others -----------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "share"), [(0.5, 4), (0.3, 3), (0.01, 1), (0.9, 8)])
def test_labeled_cases_have_at_least_their_share_of_a_minibatch(fraction, share):
    expected = [([0, 2], share), ([1, 3, 4], 8 - share)]
    assert split_labeled(5, [1, 3, 4], 8, fraction) == [stream for stream in expected if stream[1]]


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, [([1, 3, 4], 8)]), (1.0, [([0, 2], 8)])])
def test_a_share_of_nothing_is_no_stream(fraction, expected):
    assert split_labeled(5, [1, 3, 4], 8, fraction) == expected


@pytest.mark.parametrize(("pseudo_labeled", "fraction"), [([1, 3], None), ([], 0.5), ([0, 1, 2, 3, 4], 0.5)])
def test_without_a_share_or_with_cases_of_one_kind_there_is_one_stream(pseudo_labeled, fraction):
    assert split_labeled(5, pseudo_labeled, 8, fraction) == [([0, 1, 2, 3, 4], 8)]
