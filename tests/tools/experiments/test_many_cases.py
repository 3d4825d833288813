"""Laws of the costs of many cases: what grows is seen, and what the network takes is not counted."""

from __future__ import annotations

import re

import pytest

from tools.experiments.many_cases import Costs


def test_the_growth_is_that_after_the_tenth_case():
    before = [100 * number for number in range(1, 10)]
    assert Costs(memory=[*before, 1000, 1000, 990]).growth == 0
    assert Costs(memory=[*before, 1000, 1100, 990]).growth == pytest.approx(0.1)
    assert Costs(memory=[1, 2]).growth == 0


def test_the_first_case_does_not_count_in_the_mean_where_there_are_others():
    assert Costs(others=[9.0, 1.0, 3.0]).mean_other == 2
    assert Costs(others=[9.0]).mean_other == 9


@pytest.mark.slow
def test_cases_are_segmented_and_their_costs_told(run_tool):
    said, _ = run_tool("tools.experiments.many_cases", "context_restoration_unet", "--num_cases=3", "--size=32")
    assert re.search(r"context_restoration_unet, 3 cases: \d+ MB .* growth 0.0%; .* s beside the network", said)
