"""Laws of freezing first and unfreezing later."""

from __future__ import annotations

import itertools

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.context import UnfreezeAfter
from common.training import ResumableCheckpoint


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


def test_a_negative_number_of_epochs_is_refused():
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        UnfreezeAfter(nn.Linear(1, 1), -1)


def test_a_parallel_network_is_refused_when_something_is_frozen():
    """Its processes would train the unfrozen weights apart from each other."""
    engine = Engine(lambda engine, batch: None)
    engine.network = DistributedDataParallel.__new__(DistributedDataParallel)
    UnfreezeAfter(nn.Linear(1, 1), 0).attach(engine)
    with pytest.raises(ValueError, match=r"network must be trained by one process .* got DistributedDataParallel"):
        UnfreezeAfter(nn.Linear(1, 1).requires_grad_(False), 1).attach(engine)
