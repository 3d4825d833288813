"""Laws of a study's budget: runs are begun until its time is over, and comparisons are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import FakeRunner, plan

from tools.study.budget import check_minutes, conduct_within, set_aside
from tools.study.conduct import conduct
from tools.study.plan import plan_runs


def conduct_for(content, seconds, per_block=10.0):
    """Conduct a study whose every comparison takes ten seconds; return the calls of the runs."""
    runner, now = FakeRunner(), [0.0]

    def run(jobs):
        num_calls = len(runner.calls)
        lost = conduct(jobs, runner, 1, resume=True)
        now[0] += per_block if len(runner.calls) > num_calls else 0
        return lost

    assert conduct_within(plan_runs(plan(content)), run, seconds, clock=lambda: now[0]) == []
    return runner.calls


def test_no_comparison_begins_when_the_time_is_over_and_the_same_time_again_goes_on(content, capsys):
    content["arms"]["scratch"], content["arms"]["stl"] = {}, {}
    first = conduct_for(content, seconds=15)
    assert sorted(first) == sorted(
        f"{arm}_n{count}_fold0_seed0 {run_id}"
        for arm in ("scratch", "stl")
        for count in (2, 4)
        for run_id in ("training", "evaluation")
    )
    assert "the time is over: 4 of 8 runs are finished; the same command goes on" in capsys.readouterr().out
    second = conduct_for(content, seconds=25)
    assert len(second) == 8 and not {*first} & {*second}
    assert conduct_for(content, seconds=1) == []


def test_without_a_limit_everything_runs(content):
    assert len(conduct_for(content, seconds=None)) == 17


def test_a_repetition_keeps_what_was_there(content):
    conduct_for(content, seconds=None)
    set_aside("out")
    assert Path("out/runs.old1").is_dir()
    assert len(conduct_for(content, seconds=None)) == 17
    set_aside("out")
    assert Path("out/runs.old2").is_dir()


@pytest.mark.parametrize("minutes", [0, -1, True, "ten", float("nan")])
def test_minutes_are_a_number_above_0(minutes):
    with pytest.raises(ValueError, match="minutes must be a number above 0"):
        check_minutes(minutes)
