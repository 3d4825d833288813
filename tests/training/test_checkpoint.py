"""Laws of weights and checkpoints: nothing is lost, nothing is mixed up."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.cli import CONFIG
from common.data import load_record, make_record
from common.training import ResumableCheckpoint, SaveBest, SaveLast, SaveSnapshots
from common.training.checkpoint import Conditions, finished_epoch


@pytest.mark.parametrize(
    "stop_after",
    [(Events.EPOCH_COMPLETED, 2), (Events.ITERATION_COMPLETED, 8), (Events.EPOCH_COMPLETED, 4)],
    ids=["between epochs", "within an epoch", "after the last epoch"],
)
def test_a_resumed_training_equals_an_uninterrupted_one(make_training, rows_of, stop_after):
    whole = make_training("whole")
    whole.trainer.run()
    first = make_training("resumed", stop_after=stop_after)
    with pytest.raises(InterruptedError):
        first.trainer.run()
    second = make_training("resumed", seed=5)  # its initial weights are others: they must not matter
    second.trainer.run()

    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    assert rows_of(whole) == rows_of(second)
    assert [row["epoch"] for row in rows_of(second)] == [1, 2, 3, 4]
    assert whole.optimizer.state_dict()["param_groups"] == second.optimizer.state_dict()["param_groups"]
    assert whole.scheduler.average.value == second.scheduler.average.value
    assert whole.stop.state_dict() == second.stop.state_dict()
    assert whole.evaluator.state.best_metric == second.evaluator.state.best_metric
    assert whole.evaluator.state.best_metric_epoch == second.evaluator.state.best_metric_epoch
    assert whole.trainer.state.iteration == second.trainer.state.iteration == 12
    best = [torch.load(training.save_dir / "model.pt", weights_only=True) for training in (whole, second)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_finished_training_leaves_no_checkpoint_and_says_how_it_ended(make_training, rows_of):
    training = make_training(max_epochs=2)
    training.trainer.run()
    path = training.save_dir / "training.ckpt"
    assert not path.exists()
    assert finished_epoch(path, Conditions({"learning_rate": 1e-2})) == 2
    again = make_training(max_epochs=2)  # begun by somebody who knows
    again.trainer.run()
    assert rows_of(again) == rows_of(training)


def test_of_long_lists_the_part_is_told_in_which_they_begin_to_differ():
    """Two lists of two hundred paths looked the same in the message."""
    paths = [f"/data/imagesTr/case_{i:03d}.nii.gz" for i in range(200)]
    stored = Conditions({}, {"data": paths}).state_dict()
    paths[120] = "/data/imagesTr/other.nii.gz"
    (said,) = Conditions({}, {"data": paths}).differences(stored)
    first, second = said.removeprefix("data ").split(" instead of ")
    assert "case_120" in first and "other.nii.gz" in second and len(said) < 150


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (Conditions({"learning_rate": 1e-3}), "learning_rate 0.01 instead of 0.001"),
        (Conditions({"learning_rate": 1e-2}, {"data": ["a"]}), r"data None instead of \['a'\]"),
        (
            Conditions({"learning_rate": 1e-2, CONFIG: {"loss::reduction": "sum"}}),
            "loss::reduction None instead of 'sum'",
        ),
    ],
)
def test_another_training_does_not_overwrite_a_finished_one(make_training, conditions, message):
    training = make_training(max_epochs=1)
    training.trainer.run()
    with pytest.raises(
        ValueError, match=rf"must hold no training that has ended with other settings, got {message}; pass"
    ):
        finished_epoch(training.save_dir / "training.ckpt", conditions)


def test_a_training_that_starts_anew_forgets_the_earlier_one(make_training):
    """Interrupted before its first checkpoint, it would have been said to be finished."""
    make_training(max_epochs=1).trainer.run()
    anew = make_training(resume=False, stop_after=(Events.ITERATION_COMPLETED, 1))
    with pytest.raises(InterruptedError):
        anew.trainer.run()
    assert finished_epoch(anew.save_dir / "training.ckpt", Conditions({"learning_rate": 1e-2})) is None


def test_what_the_config_says_beside_its_options_must_be_the_same(make_training, interrupted):
    """A training went on with another loss, whose reduction is no option, in silence."""
    settings = {"learning_rate": 1e-2, CONFIG: {"loss::reduction": "sum"}}
    checkpoint = torch.load(interrupted.save_dir / "training.ckpt", weights_only=True)
    torch.save({**checkpoint, CONFIG: {"loss::reduction": "'mean'"}}, interrupted.save_dir / "training.ckpt")
    with pytest.raises(ValueError, match="same settings, got loss::reduction 'mean' instead of 'sum'; delete"):
        make_training(settings=settings).trainer.run()


def test_a_checkpoint_of_a_version_that_kept_options_alone_is_gone_on_from(make_training, interrupted, rows_of):
    path = interrupted.save_dir / "training.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[CONFIG]
    torch.save(checkpoint, path)
    resumed = make_training(settings={"learning_rate": 1e-2, CONFIG: {"loss::reduction": "sum"}})
    resumed.trainer.run()
    assert len(rows_of(resumed)) == 4


def test_without_resume_a_checkpoint_is_ignored(make_training, rows_of, interrupted):
    anew = make_training(resume=False)
    anew.trainer.run()
    assert [row["epoch"] for row in rows_of(anew)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate 0.01 instead of 0.001"),
        ({}, "learning_rate 0.01 instead of None"),
        ({"learning_rate": 1e-2, "data": ["a"] * 999}, r"data None instead of \['a', .{0,60}; delete"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_what_differs(make_training, interrupted, settings, message):
    with pytest.raises(ValueError, match=rf"training.ckpt: checkpoint must be of the same settings, got {message}"):
        make_training(settings=settings).trainer.run()


def test_an_option_that_is_new_and_not_used_does_not_hinder(make_training, rows_of, interrupted):
    resumed = make_training(settings={"learning_rate": 1e-2, "new_option": None})
    resumed.trainer.run()
    assert [row["epoch"] for row in rows_of(resumed)] == [1, 2, 3, 4]


def test_a_checkpoint_of_another_network_is_refused(make_training, interrupted):
    with pytest.raises(
        ValueError, match=r"training.ckpt: checkpoint must fit the network, got .*; delete .*resume False"
    ):
        make_training(features=(3, 2)).trainer.run()


def test_a_checkpoint_without_the_state_of_a_handler_is_refused(make_training, interrupted):
    path = interrupted.save_dir / "training.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["states"]["stop_on_plateau"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"training.ckpt: checkpoint must fit the stop_on_plateau, got KeyError"):
        make_training().trainer.run()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_refused_and_kept(make_training, interrupted, share):
    path = interrupted.save_dir / "training.ckpt"
    content = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"training.ckpt: checkpoint must be a whole file, got .*; delete .*resume False"
    ):
        make_training().trainer.run()
    assert path.read_bytes() == content


def test_resume_as_text_is_refused(tmp_path):
    """A command line delivers `--resume false` as text, which is true."""
    with pytest.raises(TypeError, match="resume must be True or False, got 'false'"):
        ResumableCheckpoint(tmp_path / "training.ckpt", {}, resume="false")


# ---- weights -------------------------------------------------------------------------------------


def evaluate(engine, epoch, value, best):
    """Pretend that an evaluator has found a value of its key metric in an epoch."""
    engine.state.epoch, engine.state.key_metric_name = epoch, "dice"
    engine.state.best_metric, engine.state.best_metric_epoch = best
    engine.fire_event(Events.COMPLETED)


@pytest.fixture
def network():
    return nn.Conv3d(1, 2, 1)


def test_the_best_weights_are_written_only_when_the_metric_improves(tmp_path, network):
    path = tmp_path / "models" / "model.pt"
    evaluator = Engine(lambda engine, batch: None)
    SaveBest(path, nn.DataParallel(network)).attach(evaluator)
    evaluate(evaluator, 1, 0.5, best=(0.5, 1))
    first = torch.load(path, weights_only=True)
    assert set(first) == {"weight", "bias"}
    network.weight.data += 1
    evaluate(evaluator, 2, 0.4, best=(0.5, 1))
    assert torch.equal(torch.load(path, weights_only=True)["weight"], first["weight"])
    evaluate(evaluator, 3, 0.6, best=(0.6, 3))
    assert torch.equal(torch.load(path, weights_only=True)["weight"], network.weight)


def test_the_preprocessing_of_weights_is_written_with_them_and_not_before(tmp_path, network):
    """A training that was interrupted early left its preprocessing beside older weights, which expect another."""
    old, new = (make_record(organ="body", clip=clip) for clip in ((0, 100), (0, 200)))
    path, evaluator = tmp_path / "model.pt", Engine(lambda engine, batch: None)
    SaveBest(path, network, [old]).attach(evaluator)
    evaluate(evaluator, 1, 0.5, best=(0.5, 1))
    assert load_record(path) == old
    evaluator = Engine(lambda engine, batch: None)
    SaveBest(path, network, [new]).attach(evaluator)
    evaluate(evaluator, 2, 0.4, best=(0.5, 1))
    assert load_record(path) == old
    evaluate(evaluator, 3, 0.6, best=(0.6, 3))
    assert load_record(path) == new


def test_the_best_weights_of_a_training_are_those_of_its_best_epoch(make_training):
    training = make_training()
    seen = {}

    @training.evaluator.on(Events.COMPLETED)
    def _copy(engine):
        seen[engine.state.epoch] = {name: value.clone() for name, value in training.network.state_dict().items()}

    training.trainer.run()
    losses = [row["val_loss"] for row in training.record.rows]
    best = seen[losses.index(min(losses)) + 1]
    saved = torch.load(training.save_dir / "model.pt", weights_only=True)
    assert all(torch.equal(saved[name], best[name]) for name in best)


def test_the_last_weights_are_written_at_the_end(tmp_path, network):
    engine = Engine(lambda engine, batch: None)
    SaveLast(tmp_path / "last.pt", network).attach(engine)
    engine.run([0, 1], max_epochs=2)
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["weight"], network.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path, network, value):
    engine = Engine(lambda engine, batch: None)
    SaveLast(tmp_path / "last.pt", network).attach(engine)
    engine.run([0])
    before = (tmp_path / "last.pt").read_bytes()
    network.bias.data[0] = value
    with pytest.raises(
        ValueError, match=r"weights must be finite to be saved, got NaN or Inf in \['bias'\]; .*last.pt was"
    ):
        engine.run([0])
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_snapshots_are_written_beside_the_weights_at_every_interval(tmp_path):
    network = torch.nn.Linear(1, 1)

    def step(engine, batch):
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    engine = Engine(step)
    SaveSnapshots(tmp_path / "weights.pt", network, interval=2).attach(engine)
    engine.run([0], max_epochs=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights_0002.pt", "weights_0004.pt"]
    for epoch in (2, 4):
        assert torch.load(tmp_path / f"weights_000{epoch}.pt")["weight"].item() == epoch
    engine = Engine(step)
    SaveSnapshots(tmp_path / "none.pt", network).attach(engine)
    engine.run([0], max_epochs=5)
    assert len(list(tmp_path.iterdir())) == 2
