"""Laws of freezing first and unfreezing later."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.training import ResumableCheckpoint, StopOnPlateau, UnfreezeAfter


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
    with pytest.raises(ValueError, match="epoch must be a whole number from 0, or null"):
        UnfreezeAfter(nn.Linear(1, 1), -1)


def test_what_is_frozen_for_ever_stays_so():
    trainer, seen = make_trainer(None)
    trainer.run([0, 1], max_epochs=3)
    assert all(torch.equal(*pair) for pair in itertools.pairwise(seen))


@pytest.mark.parametrize("exchanges", [False, True])
def test_a_parallel_network_that_would_not_exchange_the_gradients_of_what_was_frozen_is_refused(exchanges):
    """Its processes would train the unfrozen weights apart from each other."""
    engine = Engine(lambda engine, batch: None)
    engine.network = DistributedDataParallel.__new__(DistributedDataParallel)
    engine.network.__dict__["find_unused_parameters"] = exchanges
    frozen = nn.Linear(1, 1).requires_grad_(False)
    UnfreezeAfter(nn.Linear(1, 1), 0).attach(engine)
    UnfreezeAfter(frozen, None).attach(engine)
    if exchanges:
        UnfreezeAfter(frozen, 1).attach(engine)
    else:
        with pytest.raises(ValueError, match="network must be made by parallelize with unfreezes to be unfrozen"):
            UnfreezeAfter(frozen, 1).attach(engine)
