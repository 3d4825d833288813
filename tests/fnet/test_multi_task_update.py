"""Laws of an iteration of S-MTL."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss

from common.fnet import FNet, MultiTaskFNet, MultiTaskUpdate, PreparePatches, ReconstructionLoss, TaskWeight
from common.training import StopOnNonFiniteLoss

LOSS = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
RECONSTRUCTION_LOSS = ReconstructionLoss(reduction="mean")


def make_batch(network: FNet, seed: int, num_patches: int = 2) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image, *context = (
        torch.randn(num_patches, 1, *size, generator=generator) for size in network.geometry.input_sizes(4)
    )
    label = torch.randint(2, (num_patches, 1, 4, 4, 4), generator=generator)
    return {"image": image, "context": context, "label": label, "case": [f"case{seed}"] * num_patches}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MultiTaskFNet(FNet(1, 2, (2, 3), 3, gain=1.0), (0, 1), num_winners=2)


@pytest.fixture
def batches(network):
    unlabeled = make_batch(network.fnet, 1, 3)
    del unlabeled["label"]
    return {"labeled": make_batch(network.fnet, 0), "unlabeled": unlabeled}


def make_trainer(network, optimizer, batch, update=None, handlers=()):
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=network,
        optimizer=optimizer,
        loss_function=LOSS,
        prepare_batch=PreparePatches(),
        iteration_update=update,
        train_handlers=list(handlers),
        decollate=False,
    )


def adam(parameters, lr=1e-2):
    return torch.optim.Adam(parameters, lr, weight_decay=3e-5)


def weights_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def segmentation_of(network, batches):
    labeled = batches["labeled"]
    return LOSS(network(labeled["image"], *labeled["context"]), labeled["label"])


def reconstruction_of(network, batches):
    patches = [batches["unlabeled"]["image"], *batches["unlabeled"]["context"]]
    return RECONSTRUCTION_LOSS(network(unlabeled=patches), patches)


@pytest.mark.parametrize("alternate", [False, True])
def test_without_unlabeled_data_an_iteration_is_that_of_f_net_alone(network, batches, alternate):
    alone = copy.deepcopy(network.fnet)
    make_trainer(alone, adam(alone.parameters()), batches["labeled"]).run()
    second = adam(network.autoencoders.parameters())
    update = MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(1.0), (0, 1), alternate, second)
    others = weights_of(network.autoencoders)
    make_trainer(network, adam(network.parameters()), {"labeled": batches["labeled"]}, update).run()
    for name, value in network.fnet.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
    for name, value in network.autoencoders.state_dict().items():
        assert ".conv." in name or torch.equal(value, others[name]), name


def test_both_tasks_step_together_on_the_weighted_sum(network, batches):
    expected = copy.deepcopy(network)
    optimizer = adam(expected.parameters())
    segmentation, reconstruction = segmentation_of(expected, batches), reconstruction_of(expected, batches)
    (segmentation + 0.5 * reconstruction).backward()
    optimizer.step()

    update = MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(0.5), (0, 1))
    trainer = make_trainer(network, adam(network.parameters()), batches, update)
    trainer.run()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
    output = trainer.state.output
    torch.testing.assert_close(output["segmentation_loss"], segmentation.detach())
    torch.testing.assert_close(output["reconstruction_loss"], reconstruction.detach())
    torch.testing.assert_close(output["loss"], (segmentation + 0.5 * reconstruction).detach())
    assert output["gamma"] == 0.5 and output["pred"].shape == (2, 2, 4, 4, 4)
    assert [level.shape[0] for level in output["reconstruction"]] == [3, 3]


def test_alternating_optimizers_step_each_task_in_turn(network, batches):
    expected = copy.deepcopy(network)
    first, second = adam(expected.fnet.parameters(), 1e-2), adam(expected.autoencoders.parameters(), 1e-2)
    segmentation_of(expected, batches).backward()
    first.step()
    expected.zero_grad()
    (2 * reconstruction_of(expected, batches)).backward()
    second.step()

    follower = adam(network.autoencoders.parameters(), lr=99.0)
    update = MultiTaskUpdate(
        RECONSTRUCTION_LOSS, TaskWeight(2.0), (0, 1), alternate=True, autoencoder_optimizer=follower
    )
    trainer = make_trainer(network, adam(network.parameters(), 1e-2), batches, update)
    trainer.run()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
    assert follower.param_groups[0]["lr"] == 1e-2, "the learning rate follows the first optimizer's"
    output = trainer.state.output
    torch.testing.assert_close(output["loss"], output["segmentation_loss"] + 2 * output["reconstruction_loss"])


@pytest.mark.parametrize("alternate", [False, True])
def test_a_reconstruction_that_is_not_finite_stops_the_training_by_name(network, batches, alternate):
    batches["unlabeled"]["image"][0] = float("nan")
    before = weights_of(network.autoencoders)
    second = adam(network.autoencoders.parameters())
    update = MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(), (0, 1), alternate, second)
    trainer = make_trainer(network, adam(network.parameters()), batches, update, [StopOnNonFiniteLoss()])
    with pytest.raises(FloatingPointError, match=r"loss must be finite, got nan in epoch 1; .*case0.*case1"):
        trainer.run()
    for name, value in network.autoencoders.named_parameters():
        assert torch.equal(value, before[name]) or (alternate and ".conv." in name), name


def test_only_the_patches_of_the_chosen_levels_are_reconstructed(network, batches):
    network = MultiTaskFNet(network.fnet, (1,), num_winners=2)
    update = MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(), (1,))
    trainer = make_trainer(network, adam(network.parameters()), batches, update)
    trainer.run()
    (original,) = trainer.state.output["original"]
    assert torch.equal(original, batches["unlabeled"]["context"][0])


def test_the_way_of_stepping_is_checked():
    with pytest.raises(TypeError, match=r"alternate must be True or False, got 'false'"):
        MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(), (0,), alternate="false")
    with pytest.raises(
        ValueError, match=r"autoencoder_optimizer must be an optimizer when alternate is true, got None"
    ):
        MultiTaskUpdate(RECONSTRUCTION_LOSS, TaskWeight(), (0,), alternate=True)
