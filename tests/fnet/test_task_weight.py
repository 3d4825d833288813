"""Laws of gamma: balanced over the first iterations, and then fixed."""

from __future__ import annotations

import pytest
import torch

from common.fnet import TaskWeight


def losses(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_gamma_is_the_ratio_of_the_moving_averages_and_then_fixed():
    weight = TaskWeight("balance", num_iterations=3, coefficient=0.5)
    assert weight.update(*losses(4.0, 1.0)) == 4.0
    assert weight.update(*losses(2.0, 2.0)) == 3.0 / 1.5
    assert weight.update(*losses(1.0, 0.5)) == 2.0 / 1.0
    assert weight.update(*losses(9.0, 0.1)) == 2.0


def test_balanced_losses_weigh_the_same():
    weight = TaskWeight("balance", num_iterations=50)
    for _ in range(60):
        gamma = weight.update(*losses(1.2, 0.3))
    assert gamma * 0.3 == pytest.approx(1.2)


@pytest.mark.parametrize("gamma", [0, 0.25, 3])
def test_a_number_stays(gamma):
    weight = TaskWeight(gamma)
    assert weight.update(*losses(1.0, 7.0)) == gamma


def test_the_state_goes_on_where_it_was():
    series = [(3.0, 1.0), (2.0, 1.5), (2.5, 0.4), (1.0, 0.2), (5.0, 5.0)]
    whole, first, second = (TaskWeight(num_iterations=4) for _ in range(3))
    expected = [whole.update(*losses(*pair)) for pair in series]
    found = [first.update(*losses(*pair)) for pair in series[:2]]
    second.load_state_dict(first.state_dict())
    assert second.value == first.value
    assert found + [second.update(*losses(*pair)) for pair in series[2:]] == expected


def test_processes_have_the_same_gamma(monkeypatch):
    """Each adds the other's losses to its own before it divides."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    found = []
    for own, other in (((1.0, 1.0), (3.0, 1.0)), ((3.0, 1.0), (1.0, 1.0))):
        total = torch.tensor(other, dtype=torch.float64)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, total=total: tensor.add_(total))
        found.append(TaskWeight().update(*losses(*own)))
    assert found == [2.0, 2.0]


def test_a_reconstruction_without_error_gives_no_infinite_gamma():
    assert TaskWeight().update(*losses(0.0, 0.0)) == 0.0


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf"), "equal", True, None])
def test_a_gamma_that_means_nothing_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma must be a number from 0, or balance, got"):
        TaskWeight(gamma)


def test_a_balance_needs_an_iteration():
    with pytest.raises(ValueError, match=r"num_iterations must be at least 1, got 0"):
        TaskWeight(num_iterations=0)
