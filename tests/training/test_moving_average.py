"""Laws of the moving average."""

from __future__ import annotations

import pytest

from common.training import MovingAverage


def test_the_moving_average_begins_with_its_first_value():
    average = MovingAverage(0.9)
    assert [average.update(value) for value in (2.0, 1.0, 1.0)] == pytest.approx([2.0, 1.9, 1.81])
    assert average.value == pytest.approx(1.81)


@pytest.mark.parametrize("coefficient", [1.0, -0.1])
def test_a_coefficient_out_of_range_is_refused(coefficient):
    with pytest.raises(ValueError, match=rf"coefficient must be in \[0, 1\), got {coefficient}"):
        MovingAverage(coefficient)
