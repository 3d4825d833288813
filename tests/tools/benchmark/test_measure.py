"""Laws of what times two sides and prints their rows."""

from functools import partial

import pytest
import torch

from tools.benchmark.measure import Timer, compare, format_table, peak_memory


def test_sides_take_turns_after_a_warm_up():
    calls = []
    seconds = Timer("cpu", 2).time([lambda: calls.append("a"), lambda: calls.append("b")])
    assert "".join(calls) == "ab" * 3
    assert [len(taken) for taken in seconds] == [2, 2]


def test_ratio_tells_how_many_times_better_the_first_side_is():
    times = ([1.0, 2.0, 3.0], [4.0, 4.0, 24.0])
    row = compare("x", ("a", "b"), times)
    assert (row.median_a, row.median_b, row.ratio, row.spread, row.repeats) == (2, 4, 2, (2, 8), 3)
    row = compare("x", ("a", "b"), times, "voxels/s", amounts=(30, 20))
    assert (row.median_a, row.median_b, row.ratio, row.spread) == (15, 5, 3, (3, 12))


def test_steps_are_compared_by_name_and_do_the_same_amount():
    calls = []
    steps = {name: partial(calls.append, name) for name in ("first", "second")}
    row = Timer("cpu", 2).compare("x", steps, "voxels/s", 30)
    assert calls == ["first", "second"] * 3
    assert (row.side_a, row.side_b, row.unit, row.repeats) == ("first", "second", "voxels/s", 2)
    assert row.ratio == pytest.approx(row.median_a / row.median_b)
    assert Timer("cpu", 1).compare("x", steps).unit == "s"


def test_peak_memory_on_a_cpu_is_that_of_a_process_of_its_own():
    """The peak of the process that starts it was counted, too, and hid that of the step."""
    torch.ones(2**28, dtype=torch.uint8)
    assert peak_memory(partial, (str.zfill, "", 2**26), "cpu") == pytest.approx(64, rel=0.2)


def test_table_shows_every_row_and_its_notes():
    row = compare("decoder", ("sparse", "dense"), ([0.5], [50.0]), notes={"largest difference": 2e-10})
    text = format_table([row])
    assert all(part in text for part in ("decoder", "sparse", "dense", "100x", "largest difference: 2.0e-10"))
