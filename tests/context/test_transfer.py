"""Laws of the transfer from inpainting to segmentation, and of freezing first and unfreezing later."""

from __future__ import annotations

import itertools
import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.context import ContextUNet, UnfreezeAfter, transfer_context
from common.training import ResumableCheckpoint, StopOnPlateau

FEATURES = (4, 8, 16)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return ContextUNet(1, 3, FEATURES, 2)


@pytest.fixture
def source():
    torch.manual_seed(2)
    weights = ContextUNet(1, 1, FEATURES, 2, head_kernel_size=3).state_dict()
    return {name: value + 0.1 * torch.randn_like(value) for name, value in weights.items()}


@pytest.fixture
def path(tmp_path, source):
    torch.save(source, tmp_path / "context.pt")
    return tmp_path / "context.pt"


def clone(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("parts", "prefixes", "count"), [("encoder", ("encoder.",), 18), ("encoder_decoder", ("encoder.", "decoder."), 30)]
)
def test_every_tensor_of_the_parts_is_transferred_and_none_else(network, path, source, parts, prefixes, count, caplog):
    caplog.set_level(logging.INFO)
    before, after = clone(network), transfer_context(network, path, parts).state_dict()
    transferred = {name for name in after if torch.equal(after[name], source.get(name, torch.empty(0)))}
    assert transferred == {name for name in after if name.startswith(prefixes)}
    assert len(transferred) == count
    assert all(torch.equal(after[name], before[name]) for name in set(after) - transferred)
    assert f"context U-Net, {parts} trainable: {count} of 32 tensors transferred from {path}" in caplog.text
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("seed", [0, 5])
def test_statistics_copies_biases_and_norms_and_draws_filters_of_the_same_mean_and_deviation(tmp_path, seed):
    torch.manual_seed(3)
    source = ContextUNet(1, 1, (16, 64), 4).state_dict()
    scale = torch.linspace(0.5, 2, 64)
    source = {name: torch.rand_like(value) for name, value in source.items()}
    source["encoder.1.standardized_conv.weight"] = scale.view(-1, 1, 1, 1) * (torch.rand(64, 64, 3, 3) + 1)
    torch.save(source, tmp_path / "context.pt")
    network = ContextUNet(1, 3, (16, 64), 4)
    before, after = clone(network), transfer_context(network, tmp_path / "context.pt", "statistics", seed=seed)
    after = clone(after)
    for name, value in after.items():
        if not name.startswith("encoder."):
            assert torch.equal(value, before[name])
        elif value.ndim == 1:
            assert torch.equal(value, source[name])
        else:
            assert not torch.isclose(value, source[name]).all()
    drawn, pretrained = (weights["encoder.1.standardized_conv.weight"].flatten(1) for weights in (after, source))
    torch.testing.assert_close(drawn.mean(1), pretrained.mean(1), rtol=0.1, atol=0)
    torch.testing.assert_close(drawn.std(1), pretrained.std(1), rtol=0.15, atol=0)
    again = transfer_context(ContextUNet(1, 3, (16, 64), 4), tmp_path / "context.pt", "statistics", seed=seed)
    assert torch.equal(again.state_dict()["encoder.0.conv.weight"], after["encoder.0.conv.weight"])


def test_another_seed_draws_other_filters(network, path):
    first = clone(transfer_context(network, path, "statistics", seed=1))
    second = clone(transfer_context(network, path, "statistics", seed=2))
    assert not torch.equal(first["encoder.1.conv.weight"], second["encoder.1.conv.weight"])


@pytest.mark.parametrize("pretrained", ["weights.pt", "random"])
@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [("encoder", "encoder."), ("encoder_decoder", ("encoder.", "decoder.")), ("statistics", "encoder.")],
)
def test_freeze_holds_just_the_parts(network, path, pretrained, parts, prefixes):
    transfer_context(network, path if pretrained != "random" else "random", parts, freeze=True)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in network.state_dict() if name.startswith(prefixes)}


@pytest.mark.parametrize("path_or_none", [None, "null", "None", "random"])
def test_without_a_file_nothing_is_transferred(network, path_or_none):
    before, after = clone(network), transfer_context(network, path_or_none).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("path_or_none", [None, "null"])
def test_from_scratch_nothing_is_frozen(network, path_or_none):
    transfer_context(network, path_or_none, freeze=True)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(network, path, source):
    before = clone(network)
    name = "encoder.2.norm.weight"
    for weights, message in (
        ({**source, name: torch.zeros(7)}, rf"context.pt: {name} must have shape \(16,\), got \(7,\)"),
        ({key: source[key] for key in source if key != name}, rf"{name} must have shape \(16,\), got nothing"),
        ({**source, "encoder.3.norm.weight": torch.zeros(7)}, "no tensor that the network lacks, got encoder.3.norm"),
    ):
        torch.save(weights, path)
        with pytest.raises(ValueError, match=message):
            transfer_context(network, path, freeze=True)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_options_out_of_range_are_refused(network, path):
    with pytest.raises(ValueError, match=r"parts must be one of .*, got 'head'"):
        transfer_context(network, path, "head")
    with pytest.raises(TypeError, match="freeze must be True or False, got 'false'"):
        transfer_context(network, path, freeze="false")
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: weights must exist"):
        transfer_context(network, path.with_name("nowhere.pt"))


# ---- unfreezing ----------------------------------------------------------------------------------


def make_trainer(epoch, path=None):
    """Return a trainer whose first layer begins frozen, and the list of what the layer is, now and after each epoch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, weight_decay=0.1)

    def step(engine, batch):
        optimizer.zero_grad()
        network(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()

    trainer, seen = Engine(step), [network[0].weight.detach().clone()]
    UnfreezeAfter(network, epoch).attach(trainer)
    if path is not None:
        ResumableCheckpoint(path, {"network": network, "optimizer": optimizer}).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(network[0].weight.detach().clone()))
    return trainer, seen


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_frozen_weights_begin_to_change_after_the_given_epochs(epoch):
    trainer, seen = make_trainer(epoch)
    trainer.run([0, 1], max_epochs=5)
    changes = [not torch.equal(*pair) for pair in itertools.pairwise(seen)]
    assert changes == [number > epoch for number in range(1, 6)]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path, stop):
    whole, expected = make_trainer(2)
    whole.run([0, 1], max_epochs=5)

    def interrupt(engine):
        if engine.state.epoch == stop:
            raise KeyboardInterrupt

    first, _ = make_trainer(2, tmp_path / "checkpoint.pt")
    first.add_event_handler(Events.EPOCH_COMPLETED, interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run([0, 1], max_epochs=5)
    second, seen = make_trainer(2, tmp_path / "checkpoint.pt")
    second.run([0, 1], max_epochs=5)
    assert len(seen) == 1 + 5 - stop
    assert all(torch.equal(*pair) for pair in zip(seen[1:], expected[1 + stop :], strict=True))


class Plateau:
    """Validator whose loss never falls."""

    state = SimpleNamespace(metrics={"val_loss": 1.0})


def make_stopping_trainer(path=None):
    """Return a trainer of a frozen layer that a plateau of two epochs ends, and whether it was frozen in each epoch."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    optimizer, seen = torch.optim.Adam(network.parameters(), lr=1e-3), []
    stop = StopOnPlateau(Plateau(), optimizer, patience=1, stop_lr=1.0, coefficient=0.0)
    trainer = Engine(lambda engine, batch: None)
    UnfreezeAfter(network, 100, stop).attach(trainer)
    stop.attach(trainer)
    if path is not None:
        ResumableCheckpoint(path, {"network": network, "optimizer": optimizer}).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(not network[0].weight.requires_grad))
    return trainer, seen


FROZEN_UNTIL_CONVERGENCE = 3 * [True] + 3 * [False]  # each time one epoch that is the best, and two that are not better


def test_a_plateau_unfreezes_and_the_next_one_ends_the_training():
    """It ended with the encoder frozen."""
    trainer, seen = make_stopping_trainer()
    trainer.run([0], max_epochs=50)
    assert seen == FROZEN_UNTIL_CONVERGENCE


@pytest.mark.parametrize("last", range(1, 6))
def test_what_a_plateau_unfroze_is_not_frozen_again_when_the_training_is_resumed(last, tmp_path):
    def interrupt(engine):
        if engine.state.epoch == last:
            raise KeyboardInterrupt

    first, seen = make_stopping_trainer(tmp_path / "checkpoint.pt")
    first.add_event_handler(Events.EPOCH_COMPLETED, interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run([0], max_epochs=50)
    second, others = make_stopping_trainer(tmp_path / "checkpoint.pt")
    second.run([0], max_epochs=50)
    assert seen + others == FROZEN_UNTIL_CONVERGENCE


def test_a_negative_number_of_epochs_is_refused():
    with pytest.raises(ValueError, match="epoch must be a whole number from 0, got -1"):
        UnfreezeAfter(nn.Linear(1, 1), -1)


def test_a_parallel_network_is_refused_when_something_is_frozen():
    """Its processes would train the unfrozen weights apart from each other."""
    engine = Engine(lambda engine, batch: None)
    engine.network = DistributedDataParallel.__new__(DistributedDataParallel)
    UnfreezeAfter(nn.Linear(1, 1), 0).attach(engine)
    with pytest.raises(ValueError, match=r"network must be trained by one process .* got DistributedDataParallel"):
        UnfreezeAfter(nn.Linear(1, 1).requires_grad_(False), 1).attach(engine)
