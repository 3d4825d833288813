"""Laws of the guards: a training that fails does no harm."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from common.training import StopOnNonFiniteLoss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(make_training, value):
    training = make_training()
    loss_function = training.trainer.loss_function
    training.trainer.loss_function = lambda pred, target: (
        loss_function(pred, target) * (value if training.trainer.state.iteration == 8 else 1)
    )
    before = {}

    @training.trainer.on(Events.ITERATION_STARTED)
    def _copy(engine):
        before.update({name: value.clone() for name, value in training.network.named_parameters()})

    with pytest.raises(FloatingPointError, match=rf"loss must be finite, got {value} in epoch 3; .* cases: \[.*\]"):
        training.trainer.run()
    assert training.trainer.state.iteration == 8
    assert all(torch.equal(parameter, before[name]) for name, parameter in training.network.named_parameters())
    assert torch.load(training.save_dir / "training.ckpt", weights_only=True)["epoch"] == 2
    assert all(value.isfinite().all() for value in torch.load(training.save_dir / "model.pt").values())
    assert (training.save_dir / "history.csv").read_text(encoding="utf-8").count("\n") == 3


@pytest.mark.parametrize(
    ("batch", "cases"),
    [
        ({"labeled": {"case": ["a"]}, "unlabeled": {"case": ["b", "c"]}}, r"\['a', 'b', 'c'\]"),
        (torch.zeros(1), "unknown"),
    ],
    ids=["several streams", "a tensor"],
)
def test_the_cases_of_every_stream_are_named(batch, cases):
    def step(engine, batch):
        engine.state.output = {"loss": torch.tensor(float("nan"))}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    StopOnNonFiniteLoss().attach(engine)
    with pytest.raises(FloatingPointError, match=rf"look at these cases: {cases}\."):
        engine.run([batch])
