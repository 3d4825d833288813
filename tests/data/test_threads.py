"""Laws of files that are looked at side by side."""

from __future__ import annotations

import threading

import pytest

from common.cli import InputError, collect_errors
from common.data import map_threads


def refuse_odd(number: int) -> int:
    if number % 2:
        raise InputError(f"{number} must be even")
    return 10 * number


def test_results_have_the_order_of_the_items():
    assert map_threads(lambda number: number**2, range(50)) == [number**2 for number in range(50)]


def test_items_are_looked_at_at_the_same_time():
    barrier = threading.Barrier(3, timeout=10)  # breaks unless three wait for one another
    assert len(map_threads(lambda item: barrier.wait(), range(3))) == 3


def test_the_first_error_is_raised():
    with pytest.raises(ValueError, match="1 must be even"):
        map_threads(refuse_odd, range(5))


def test_all_errors_are_noted_where_errors_are_collected():
    with collect_errors() as errors:
        assert map_threads(refuse_odd, range(5)) == [0, None, 20, None, 40]
    assert errors == ["1 must be even", "3 must be even"]


def test_an_error_that_nobody_foresaw_is_raised_in_any_case():
    with collect_errors() as errors, pytest.raises(ZeroDivisionError):
        map_threads(lambda number: 1 / number, range(2))
    assert errors == []
