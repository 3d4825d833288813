"""Laws of the moving average, and of the learning-rate and stopping rules."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from common.training import MovingAverage, MovingAveragePlateau, ScheduleLR, StopOnPlateau, registered_states


def test_the_moving_average_begins_with_its_first_value():
    average = MovingAverage(0.9)
    assert [average.update(value) for value in (2.0, 1.0, 1.0)] == pytest.approx([2.0, 1.9, 1.81])
    assert average.value == pytest.approx(1.81)


@pytest.mark.parametrize("coefficient", [1.0, -0.1])
def test_a_coefficient_out_of_range_is_refused(coefficient):
    with pytest.raises(ValueError, match=rf"coefficient must be in \[0, 1\), got {coefficient}"):
        MovingAverage(coefficient)


def make_optimizer(*learning_rates):
    return torch.optim.Adam([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in learning_rates])


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def test_every_learning_rate_falls_when_the_loss_has_not_fallen_for_longer_than_the_patience():
    optimizer = make_optimizer(1e-2, 1e-3)
    scheduler = MovingAveragePlateau(optimizer, factor=0.8, patience=3, threshold=0.1, coefficient=0.0)
    for loss in (1.0, 0.95, 0.95, 0.95):  # less than the threshold is no fall
        scheduler.step(loss)
    assert rates(optimizer) == [1e-2, 1e-3]
    scheduler.step(0.95)
    assert rates(optimizer) == pytest.approx([8e-3, 8e-4])
    for loss in (0.85, 0.7, 0.55, 0.4, 0.25):
        scheduler.step(loss)
    assert rates(optimizer) == pytest.approx([8e-3, 8e-4])


def test_it_is_the_average_that_counts_not_the_loss():
    """Every third loss is a new low, yet the average hardly falls."""
    plain, averaged = make_optimizer(1.0), make_optimizer(1.0)
    schedulers = [
        MovingAveragePlateau(optimizer, patience=4, coefficient=coefficient)
        for optimizer, coefficient in ((plain, 0.0), (averaged, 0.93))
    ]
    for loss in (1.0, 1.0, 1.0, 0.98, 1.0, 1.0, 0.96, 1.0, 1.0, 0.94):
        for scheduler in schedulers:
            scheduler.step(loss)
    assert rates(plain) == [1.0]
    assert rates(averaged)[0] < 1.0


@pytest.mark.parametrize("learning_rate", [3e-4, 8e-5, 1e-3, 1.05e-7])
def test_the_learning_rate_reaches_its_floor(learning_rate):
    """From 1e-3 it stuck at 1.06e-7, above the floor at which the training may end."""
    optimizer = make_optimizer(learning_rate)
    scheduler = MovingAveragePlateau(optimizer, patience=0)
    for _ in range(60):
        scheduler.step(1.0)
    assert rates(optimizer) == [1e-7]


def test_the_state_of_the_rule_survives():
    losses = [1.0, 0.9, 0.9, 0.9, 0.85, 0.9, 0.9, 0.9, 0.9, 0.9]
    whole, parts = make_optimizer(1.0), make_optimizer(1.0)
    scheduler = MovingAveragePlateau(whole, patience=1, threshold=0.01)
    for loss in losses:
        scheduler.step(loss)
    first = MovingAveragePlateau(parts, patience=1, threshold=0.01)
    for loss in losses[:4]:
        first.step(loss)
    second = MovingAveragePlateau(parts, patience=1, threshold=0.01)
    second.load_state_dict(first.state_dict())
    for loss in losses[4:]:
        second.step(loss)
    assert rates(whole) == rates(parts) != [1.0]
    assert second.state_dict() == scheduler.state_dict()
    assert isinstance(second.average, MovingAverage)


def run_epochs(handler, losses, validator=None):
    """Run a trainer whose loss, and whose validator's, is given for every epoch; return the epochs it ran."""
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _set(engine):
        loss = losses[engine.state.epoch - 1]
        engine.state.metrics["train_loss"] = loss
        if validator is not None:
            validator.state.metrics["val_loss"] = loss

    handler.attach(trainer)
    trainer.run([0], max_epochs=len(losses))
    return trainer


def test_a_scheduler_steps_every_epoch_with_the_loss_if_it_asks_for_one():
    optimizer = make_optimizer(1.0)
    trainer = run_epochs(ScheduleLR(MovingAveragePlateau(optimizer, patience=0, factor=0.5)), [1.0, 1.0, 1.0])
    assert rates(optimizer) == [0.25]
    assert "lr_scheduler" in registered_states(trainer)
    optimizer = make_optimizer(1.0)
    run_epochs(ScheduleLR(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)), [1.0, 1.0, 1.0])
    assert rates(optimizer) == [0.125]


@pytest.mark.parametrize(
    ("losses", "learning_rates", "expected"),
    [
        ([1.0] * 9, [1e-7], 5),  # the first epoch is a fall, then patience 3 is exceeded
        ([1.0] * 9, [1e-7, 1e-6], 9),  # the largest learning rate counts
        ([1.0] * 9, [1e-6], 9),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], [1e-8], 9),
        ([1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1e-7], 8),
        ([1.0] + 8 * [0.999], [1e-7], 5),  # below the threshold is no fall
    ],
)
def test_a_training_stops_when_neither_the_loss_nor_the_learning_rate_falls(losses, learning_rates, expected):
    validator = Engine(lambda engine, batch: None)
    handler = StopOnPlateau(validator, make_optimizer(*learning_rates), patience=3, coefficient=0.0)
    assert run_epochs(handler, losses, validator).state.epoch == expected


def test_stop_lr_moves_the_learning_rate_at_which_a_training_may_stop():
    validator = Engine(lambda engine, batch: None)
    handler = StopOnPlateau(validator, make_optimizer(1e-3), patience=3, stop_lr=1e-3)
    assert run_epochs(handler, [1.0] * 9, validator).state.epoch == 5


def test_the_state_of_the_stopping_rule_survives():
    validator, optimizer = Engine(lambda engine, batch: None), make_optimizer(1e-7)
    first, second = (StopOnPlateau(validator, optimizer, patience=3, coefficient=0.0) for _ in range(2))
    run_epochs(first, [1.0, 0.9, 0.9], validator)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert run_epochs(second, [0.9] * 9, validator).state.epoch == 3
