"""Laws of cases that several processes share."""

from __future__ import annotations

import pytest

from common.data import DistributedSampler


@pytest.mark.parametrize(("num_cases", "processes"), [(7, 2), (7, 3), (4, 4), (1, 1)])
def test_the_shares_put_together_are_the_data_set(deal, num_cases, processes):
    shares = deal(lambda: list(DistributedSampler(range(num_cases))), processes)
    assert [case for share in shares for case in share] == list(range(num_cases))
    sizes = deal(lambda: len(DistributedSampler(range(num_cases))), processes)
    assert sizes == [len(share) for share in shares] and max(sizes) - min(sizes) <= 1


def test_all_take_all_cases_when_they_are_fewer_than_the_processes(deal):
    """Their mean is the same, and nobody waits for a process that has nothing to evaluate."""
    assert deal(lambda: list(DistributedSampler(range(2))), 3) == [[0, 1]] * 3


def test_one_process_takes_all_cases():
    assert list(DistributedSampler(range(3))) == [0, 1, 2]
