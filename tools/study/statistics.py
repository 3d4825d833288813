"""Statistics of a study: Holm's correction of its tests, and the labels that an arm saves.

S. Holm: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6, 1979,
https://www.jstor.org/stable/4615733
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.study.report import Comparison, Result, compare

__all__ = ["SavedLabels", "Test", "holm", "labels_needed", "labels_saved", "paired_tests"]

_NUM_SAMPLES = 2000  # of the bootstrap
_TAILS = (0.025, 0.975)  # of an interval of 95 %


@dataclass(frozen=True)
class Test:
    """Comparison of an arm with the reference at one label count.

    Args:
        corrected: p-value after Holm's correction over all tests of the study; None where all differences are zero.
    """

    __test__ = False  # not one of pytest's

    arm: str
    num_labeled: int
    comparison: Comparison
    corrected: float | None


@dataclass(frozen=True)
class SavedLabels:
    """Labels that the reference needs for the Dice of an arm, read off its curve.

    Args:
        dice: of the arm, mean over the draws that both have.
        needed: labels; the smallest count of the study stands for fewer, too, and infinity for more than the largest.
        interval: of 95 %, by bootstrap over the draws; None for a single draw.
        num_draws: that both have, the reference with every label count.
    """

    arm: str
    num_labeled: int
    dice: float
    needed: float
    interval: tuple[float, float] | None
    num_draws: int


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's method, in the order that they were given in."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def paired_tests(results: Sequence[Result], arms: Sequence[str], reference: str | None) -> list[Test]:
    """Compare every arm with the reference at every label count, and correct the p-values over all of them.

    A comparison without any difference counts as a test whose p-value is 1.
    """
    found = []
    for arm in arms if reference is not None else ():
        for count in sorted({result.run.num_labeled for result in results}):
            ours, theirs = ([r for r in results if r.cell == (name, count)] for name in (arm, reference))
            comparison = compare(ours, theirs) if arm != reference else None
            if comparison is not None:
                found.append((arm, count, comparison))
    corrected = holm([1.0 if pair.p_value is None else pair.p_value for _, _, pair in found])
    return [
        Test(arm, count, pair, None if pair.p_value is None else value)
        for (arm, count, pair), value in zip(found, corrected, strict=True)
    ]


def labels_needed(counts: Sequence[int], dice: Sequence[float], target: float) -> float:
    """Return the fewest labels at which a learning curve reaches a Dice.

    Between two label counts the curve is a straight line over the logarithm of the count, or over the count from 0 on.

    Args:
        counts: label counts, ascending.
        dice: of the curve at each of them.
        target: Dice to reach.

    Returns:
        Labels; the first count where the curve begins at or above the target, infinity where it stays below.
    """
    if dice[0] >= target:
        return float(counts[0])
    for index in range(1, len(counts)):
        below, above = dice[index - 1], dice[index]
        if above >= target:
            share = (target - below) / (above - below)
            if counts[index - 1] == 0:
                return float(counts[index] * share)
            return float(counts[index - 1] * (counts[index] / counts[index - 1]) ** share)
    return math.inf


def labels_saved(results: Sequence[Result], arms: Sequence[str], reference: str | None) -> list[SavedLabels]:
    """Read off the curve of the reference how many labels it needs for the Dice of every arm at every label count.

    The interval comes from draws that are drawn again, with replacement, for the arm and the reference alike.
    """
    means = {
        (*result.cell, result.run.draw): statistics.fmean(result.means.values()) for result in results if result.means
    }
    counts = sorted({count for arm, count, _ in means if arm == reference})
    draws = sorted({draw for _, _, draw in means})
    found = []
    for arm in arms if len(counts) > 1 else ():
        for count in counts if arm != reference else ():
            names = [(arm, count), *((str(reference), other) for other in counts)]
            table = np.array(
                [values for draw in draws if None not in (values := [means.get((*name, draw)) for name in names])],
                dtype=float,
            )
            if len(table):
                found.append(_save(arm, count, counts, table))
    return found


def _save(arm: str, count: int, counts: Sequence[int], table: np.ndarray) -> SavedLabels:
    """Return the labels saved, from the Dice of each draw: that of the arm, then those of the reference."""

    def needed(rows: np.ndarray) -> float:
        target, *curve = rows.mean(axis=0).round(10).tolist()  # ties are ties
        return labels_needed(counts, curve, target)

    interval = None
    if len(table) > 1:
        samples = np.random.RandomState(0).randint(len(table), size=(_NUM_SAMPLES, len(table)))
        values = [needed(table[rows]) for rows in samples]
        low, high = np.quantile(values, _TAILS[0], method="lower"), np.quantile(values, _TAILS[1], method="higher")
        interval = (float(low), float(high))  # ends are values that were found, since infinity has no interpolation
    return SavedLabels(arm, count, float(table[:, 0].mean()), needed(table), interval, len(table))
