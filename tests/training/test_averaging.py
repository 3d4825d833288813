"""Laws of averaged weights."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from common.fnet import FNet, MultiTaskFNet
from common.training import SaveLast, TrainingHandlers, WeightAveraging, registered_states

DECAY = 0.75
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [
    {"image": torch.randn(8, 3, generator=GENERATOR), "label": torch.randn(8, 1, generator=GENERATOR)} for _ in range(4)
]


class Loader(list):
    def set_epoch(self, epoch):
        pass


@pytest.fixture
def train(tmp_path):
    """Return a function that trains a network with a batch norm, and returns it, its average and what it was."""

    def run(decay=DECAY, max_epochs=2, folder="run", stop_before=None, freeze_epochs=0):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        network[0].requires_grad_(freeze_epochs == 0)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        averaging = WeightAveraging(network, decay)
        handlers = TrainingHandlers(
            tmp_path / folder, {"network": network, "optimizer": optimizer}, Loader(BATCHES), averaging=averaging
        )
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=Loader(BATCHES),
            network=network,
            optimizer=optimizer,
            loss_function=nn.MSELoss(),
            train_handlers=[handlers],
            decollate=False,
        )
        steps = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: steps.append(copy.deepcopy(network)))
        if freeze_epochs:
            trainer.add_event_handler(
                Events.EPOCH_STARTED(once=freeze_epochs + 1), lambda _: network.requires_grad_(True)
            )
        made = SimpleNamespace(trainer=trainer, network=network, averaging=averaging, steps=steps)
        if stop_before is not None:
            trainer.add_event_handler(Events.EPOCH_STARTED(once=stop_before), _interrupt)
            with pytest.raises(InterruptedError):
                trainer.run()
        else:
            trainer.run()
        return made

    return run


def _interrupt(engine):
    raise InterruptedError


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def average_by_hand(steps: list[nn.Module], decay: float) -> dict[str, torch.Tensor]:
    """Return the average of the parameters and buffers over the steps; a count is that of the last step."""
    average = {name: value.double() for name, value in steps[0].state_dict().items()}
    for count, step in enumerate(steps[1:], 2):
        share = max(1 - decay, 1 / count)
        for name, value in step.state_dict().items():
            average[name] = average[name] * (1 - share) + value.double() * share if value.is_floating_point() else value
    return average


@pytest.mark.parametrize("freeze_epochs", [0, 1])
@pytest.mark.parametrize("decay", [DECAY, 0.95])
def test_the_average_is_that_of_all_steps_each_weighted_by_its_age(train, decay, freeze_epochs):
    made = train(decay, max_epochs=3, freeze_epochs=freeze_epochs)
    assert len(made.steps) == 3 * len(BATCHES)
    expected = average_by_hand(made.steps, decay)
    for name, value in made.averaging.network.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value), rtol=1e-5, atol=1e-6)
    assert not same(made.averaging.network, made.network)


def test_without_a_decay_the_average_is_the_network_itself_and_nothing_else_is_kept(train):
    made = train(decay=None)
    assert made.averaging.network is made.network and made.network.training
    assert "averaged network" not in registered_states(made.trainer)
    assert "averaged network" in registered_states(train(folder="averaged").trainer)


def test_the_training_itself_is_the_same_with_and_without_an_average(train):
    assert same(train(decay=None, folder="without").network, train(folder="with").network)


def test_with_a_decay_of_zero_the_average_is_the_trained_network(train):
    made = train(decay=0)
    assert made.averaging.network is not made.network and same(made.averaging.network, made.network)


def test_an_interrupted_training_goes_on_with_the_same_average(train):
    whole = train(max_epochs=3, folder="whole")
    train(max_epochs=3, folder="stopped", stop_before=3)
    resumed = train(max_epochs=3, folder="stopped")
    assert len(resumed.steps) == len(BATCHES)
    assert same(resumed.averaging.network, whole.averaging.network) and same(resumed.network, whole.network)


def test_an_average_is_neither_trained_nor_in_training_mode(train):
    average = train().averaging.network
    assert not average.training and not any(parameter.requires_grad for parameter in average.parameters())


def test_weights_that_are_loaded_before_the_training_begins_are_those_of_the_first_average(train):
    """MONAI Label loads them when everything has been made."""
    network = nn.Linear(1, 1)
    averaging = WeightAveraging(network, DECAY)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    nn.init.constant_(network.weight, 7.0)
    found = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}],
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[averaging],
    )
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: found.append(averaging.network.weight.item()))
    trainer.run()
    assert found == [7.0]


def test_what_two_networks_share_stays_shared_in_the_average():
    torch.manual_seed(0)
    multi_task = MultiTaskFNet(FNet(1, 2, (2, 2), 3), levels=[0])
    average = WeightAveraging(multi_task, DECAY).network
    (autoencoder,) = average.autoencoders
    for block, shared in zip(autoencoder.encoder, average.fnet.pathway(0), strict=True):
        assert block.conv is shared.conv
    assert average.fnet is not multi_task.fnet
    assert len([*average.parameters()]) == len([*multi_task.parameters()])


def test_the_running_statistics_of_an_average_are_its_own():
    """Those of the trained network, which does not come to rest, are of other weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    images = torch.randn(256, 3) + 1
    averaging = WeightAveraging(network, 0.98)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=30,
        train_data_loader=[{"image": part, "label": torch.randn(len(part), 1)} for part in images.split(16)],
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.05),
        loss_function=nn.MSELoss(),
        train_handlers=[averaging],
        decollate=False,
    )
    trainer.run()
    with torch.no_grad():
        own = averaging.network[0](images).mean(0)
    averaged, trained = averaging.network[1].running_mean, network[1].running_mean
    assert (averaged - own).norm() < 0.5 * (trained - own).norm()


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, "0.9", True, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises((TypeError, ValueError), match="decay must be a number from 0 to below 1, or null"):
        WeightAveraging(nn.Linear(1, 1), decay)


def test_averaged_weights_are_written_by_the_names_of_the_trained_ones(train, tmp_path):
    made = train()
    SaveLast(tmp_path / "model.pt", made.averaging.network)._save(made.trainer)
    made.network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert same(made.network, made.averaging.network)
