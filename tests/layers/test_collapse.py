"""Laws of the guards of layer decomposition: a mask that is nothing or everything ends the training."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.layers import DelayComposition, LayerDecompositionLoss, StopOnCollapsedMask
from common.training import ScheduleLR, registered_states


def output(share, is_real=False):
    """Return 10 simulated voxels of a tumor and `share` times as many predicted ones, beside a real scan."""
    label, pred = torch.zeros(2, 5, 10, 10, 2), torch.full((2, 3, 10, 10, 2), -1.0)
    label[1, 2], pred[1, 2] = -1, 1
    if is_real:
        label[0, 2] = -1
    else:
        label[0, 2, 0, :, 0] = 1
        pred[0, 2].view(-1)[: int(10 * share)] = 1
    return {"label": label, "pred": pred}


def run(shares, guard=None, **options):
    """Run epochs of two iterations whose masks have these shares; return the ratios that were logged, and the guard."""
    guard = StopOnCollapsedMask(**options) if guard is None else guard
    ratios = []
    engine = Engine(lambda engine, batch: output(shares[engine.state.epoch - 1]))
    guard.attach(engine)
    engine.add_event_handler("EPOCH_COMPLETED", lambda engine: ratios.append(engine.state.metrics["mask_ratio"]))
    engine.run([0, 0], max_epochs=len(shares))
    return ratios, guard


def test_the_ratio_of_an_epoch_is_logged_and_real_scans_do_not_count():
    assert run([1.0, 0.5, 0.0, 20.0], patience=9)[0] == [1.0, 0.5, 0.0, 20.0]


@pytest.mark.parametrize("share", [0.0, 15.0])
def test_it_stops_after_as_many_epochs_in_a_row_and_not_before(share):
    run([share] * 2 + [1.0] + [share] * 2, limit=10.0, patience=3)
    with pytest.raises(FloatingPointError, match=r"mask must be about as large .* of 3 such epochs; set composition"):
        run([1.0] + [share] * 3, limit=10.0, patience=3)


@pytest.mark.parametrize("share", [0.1, 10.0])
def test_a_ratio_at_the_limit_is_none(share):
    ratios, guard = run([share] * 3, limit=10.0, patience=1)
    assert ratios == [share] * 3 and guard.waited == 0


def test_a_resumed_training_goes_on_counting():
    _, guard = run([0.0, 0.0], patience=3)
    resumed = StopOnCollapsedMask(patience=3)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(FloatingPointError, match="3 such epochs"):
        run([0.0], resumed)
    engine = Engine(lambda engine, batch: None)
    guard.attach(engine)
    assert guard in registered_states(engine).values()


def test_real_scans_alone_are_left_alone():
    engine = Engine(lambda engine, batch: output(0, is_real=True))
    StopOnCollapsedMask(patience=1).attach(engine)
    engine.run([0], max_epochs=2)
    assert "mask_ratio" not in engine.state.metrics


@pytest.mark.parametrize("epochs", [0, 2])
def test_the_composition_begins_after_its_delay_also_in_a_resumed_training(epochs):
    loss, seen = LayerDecompositionLoss(), []
    engine = Engine(lambda engine, batch: seen.append(loss.is_composed))
    DelayComposition(loss, epochs).attach(engine)
    engine.run([0], max_epochs=4)
    assert seen == [epoch > epochs for epoch in (1, 2, 3, 4)]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_learning_rate_does_not_fall_because_the_composition_begins(resumed):
    """With it, the loss is larger than the best one without it, and the rate was cut although the loss fell."""
    loss, optimizer = LayerDecompositionLoss(), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    rates: list[float] = []
    state: dict = {}
    for first, last in ((0, 3), (3, 9)) if resumed else ((0, 9),):
        scheduler = ReduceLROnPlateau(optimizer, patience=2)
        if first:
            scheduler.load_state_dict(state)
        engine = Engine(lambda engine, batch: None)
        DelayComposition(loss, 3).attach(engine)

        @engine.on(Events.EPOCH_COMPLETED)
        def _measure(engine):
            engine.state.metrics["train_loss"] = float(loss.is_composed) + 0.5 ** min(engine.state.epoch, 6)

        ScheduleLR(scheduler).attach(engine)
        engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda scheduler: rates.extend(scheduler.get_last_lr()), scheduler
        )
        engine.state.epoch = engine.state.iteration = first
        engine.state.max_epochs, engine.state.epoch_length = (last, 1) if first else (None, None)
        engine.run([0], max_epochs=last)
        state = scheduler.state_dict()
    assert rates[:8] == [1.0] * 8 and rates[8] == pytest.approx(0.1), "falls until epoch 6, and waits for two more"


def test_the_mask_of_several_channels_is_the_one_that_counts():
    one = output(0.5)
    label, pred = one["label"], one["pred"]
    both = {
        "label": torch.cat((label[:, :1], label[:, :4], label[:, 4:], label[:, 4:]), 1)[:, [0, 1, 2, 2, 3, 4, 5, 6]]
    }
    both["pred"] = torch.cat((pred[:, :2], pred), dim=1)
    ratios = []
    for step in (one, both):
        engine = Engine(lambda engine, batch, step=step: step)
        StopOnCollapsedMask().attach(engine)
        engine.run([0])
        ratios.append(engine.state.metrics["mask_ratio"])
    assert ratios == [0.5, 0.5]
