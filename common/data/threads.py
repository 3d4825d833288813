"""Threads in which many files are looked at side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.cli import keep_going

__all__ = ["map_threads"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_threads(function: Callable[[_T], _R], items: Iterable[_T], num_threads: int = 8) -> list[_R | None]:
    """Return what a function makes of each item, in their order.

    The first error is raised, once all items were tried; where errors are collected, see `common.cli.keep_going`, all
    are noted, and the items have None.
    """
    with ThreadPoolExecutor(num_threads) as threads:
        futures = [threads.submit(function, item) for item in items]
    results: list[_R | None] = [None] * len(futures)
    for index, future in enumerate(futures):
        with keep_going():
            results[index] = future.result()
    return results
