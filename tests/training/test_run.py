"""Laws of what all trainings have in common: guard, handlers, evaluators."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from common.training import LossEvaluator, SegmentationEvaluator, StopOnNonFiniteLoss, TrainingHandlers


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


# ---- the composite handler -----------------------------------------------------------------------


class Loader(list):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch


@pytest.fixture
def train(tmp_path):
    """Return a function that trains one number for some epochs with `TrainingHandlers`, and returns what was used."""

    def run(max_epochs=3, validate=True, **options):
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(network.weight)
        batch = {"image": torch.ones(2, 1), "label": torch.ones(2, 1), "case": ["a", "b"]}
        loader = Loader([batch, batch])
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        common = {"device": torch.device("cpu"), "network": network, "val_data_loader": [batch]}
        validator = LossEvaluator(torch.nn.L1Loss(), **common)
        handlers = TrainingHandlers(
            tmp_path,
            {"network": network, "optimizer": optimizer},
            loader,
            **{"settings": {"lr": 0.1}, "data": {"data": ["a"]}, "resume": True, "optimizer": optimizer, **options},
            **({"loss_validator": validator} if validate else {}),
        )
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=torch.nn.MSELoss(),
            train_handlers=[handlers],
            decollate=False,
        )
        return SimpleNamespace(trainer=trainer, network=network, validator=validator, loader=loader)

    return run


def test_a_training_is_validated_recorded_and_leaves_no_checkpoint(train, tmp_path):
    training = train()
    training.trainer.run()
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    weights = [1 - 0.8**step for step in range(7)]  # each step of 0.1 on a squared error takes a fifth of it away
    assert float(rows[0]["train_loss"]) == pytest.approx((1 + 0.8**2) / 2)
    assert [float(row["val_loss"]) for row in rows] == pytest.approx([1 - weights[step] for step in (2, 4, 6)])
    assert training.validator.state.best_metric == pytest.approx(1 - weights[6]), "the smallest is the best"
    left = {"history.csv", "learning_curve.png", "tensorboard", "training.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_an_interrupted_training_goes_on_with_the_same_settings_and_data_only(train, tmp_path):
    interrupted = train()
    interrupted.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), _interrupt)
    with pytest.raises(InterruptedError):
        interrupted.trainer.run()
    for options, name in (({"settings": {"lr": 0.2}}, "lr"), ({"data": {"data": ["b"]}}, "data")):
        with pytest.raises(ValueError, match=rf"checkpoint must be of the same settings, got {name} "):
            train(**options).trainer.run()
    resumed = train()
    resumed.trainer.run()
    assert resumed.loader.epoch == 2 and resumed.network.weight.item() == pytest.approx(1 - 0.8**6)


def test_handlers_of_a_task_come_behind_the_guard_and_before_the_record(train, tmp_path):
    class Count:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(counted=7.0))

    train(validate=False, handlers=[Count()]).trainer.run()
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [row["counted"] for row in rows] == ["7.0"] * 3 and "val_loss" not in rows[0]


def test_a_loss_that_is_not_finite_ends_the_training_before_its_weights_change(train):
    training = train()
    training.trainer.loss_function = lambda pred, target: (pred * float("nan")).mean()
    with pytest.raises(FloatingPointError, match="loss must be finite"):
        training.trainer.run()
    assert training.network.weight.item() == 0


def test_the_last_epoch_is_validated_though_the_interval_does_not_end_there(train):
    network, batch = torch.nn.Identity(), {"image": torch.ones(2, 1), "label": torch.ones(2, 1)}
    validator = LossEvaluator(torch.nn.L1Loss(), device=torch.device("cpu"), network=network, val_data_loader=[batch])
    validated = []
    validator.add_event_handler(Events.COMPLETED, lambda engine: validated.append(engine.state.epoch))
    train(validate=False, validator=validator, val_interval=2).trainer.run()
    assert validated == [2, 3]


def test_another_checkpoint_may_take_its_place(train, tmp_path):
    class Nothing:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: (tmp_path / "own").touch())

    train(checkpoint=Nothing()).trainer.run()
    assert (tmp_path / "own").exists()


def test_a_perfect_segmentation_has_a_dice_of_one():
    one_hot = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).movedim(-1, 1).float()[..., None]
    items = [{"image": one_hot, "label": one_hot}]
    evaluator = SegmentationEvaluator(
        device=torch.device("cpu"), network=torch.nn.Identity(), val_data_loader=items, decollate=True
    )
    evaluator.run()
    assert evaluator.state.metrics == {"mean_dice": 1.0}


def _interrupt(engine):
    raise InterruptedError
