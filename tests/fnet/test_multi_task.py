"""Laws of S-MTL: convolutions are shared and nothing else is, both tasks step, and gamma weighs them."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss

from common.fnet import FNet, MultiTaskFNet, MultiTaskUpdate, PatchSegmentation, ReconstructionLoss, TaskWeight
from common.training import PrepareTask, StopOnNonFiniteLoss

# ---- the network ---------------------------------------------------------------------------------

FEATURES = (2, 3, 2)


@pytest.fixture
def make():
    """Return a function that makes an F-Net of three levels, and with it one that shares its convolutions."""

    def _make(**options) -> MultiTaskFNet:
        torch.manual_seed(0)
        return MultiTaskFNet(FNet(1, 2, FEATURES, 3, gain=1.0), **options)

    return _make


def patches_of(network: MultiTaskFNet) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 1, *size, generator=generator) for size in network.fnet.geometry.input_sizes(4)]


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def test_shared_convolutions_are_the_same_objects(make):
    network = make(levels=(0, 2))
    for level, autoencoder in zip((0, 2), network.autoencoders, strict=True):
        for block, own in zip(autoencoder.encoder, network.fnet.pathway(level), strict=True):
            assert block.conv.weight is own.conv.weight and block.conv.bias is own.conv.bias
    names = [name for name, _ in network.named_parameters()]
    assert not any("encoder" in name and ".conv." in name for name in names), "each parameter is counted once"


@pytest.mark.parametrize("tie_norm", [False, True])
def test_batch_norms_are_shared_only_when_tied(make, tie_norm):
    network = make(tie_norm=tie_norm)
    for level, autoencoder in enumerate(network.autoencoders):
        for block, own in zip(autoencoder.encoder, network.fnet.pathway(level), strict=True):
            assert (block.adn is own.adn) == tie_norm


def test_the_reconstruction_leaves_the_statistics_of_separate_norms_alone(make):
    for tie_norm in (False, True):
        network = make(tie_norm=tie_norm).train()
        before = {name: value.clone() for name, value in network.fnet.named_buffers()}
        network(unlabeled=patches_of(network)[:2])
        unchanged = [torch.equal(value, before[name]) for name, value in network.fnet.named_buffers()]
        assert all(unchanged) != tie_norm


def test_the_gradient_of_both_losses_is_the_sum_of_each(make):
    """Through one pass and through two, and the shared convolutions get a part from either."""
    sums: dict[str, torch.Tensor] = {}
    for task in ("segment", "reconstruct", "both"):
        network = make().train()
        patches = patches_of(network)
        if task == "both":
            outputs = network(patches[0], patches[1:], unlabeled=patches[:2])
        else:
            outputs = [network(patches[0], patches[1:])] if task == "segment" else network(unlabeled=patches[:2])
        sum(output.square().mean() for output in outputs).backward()
        found = gradients(network)
        if task == "both":
            assert found.keys() == dict(network.named_parameters()).keys()
            for name, value in found.items():
                torch.testing.assert_close(value, sums[name])
        for level in range(3):
            shared = found.get(f"fnet.extraction.{level}.0.conv.weight")
            assert (shared is not None and bool(shared.abs().sum() > 0)) == (task != "reconstruct" or level < 2)
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value


def test_f_net_keeps_its_weights_and_its_names(make):
    network = make()
    torch.manual_seed(0)
    alone = FNet(1, 2, FEATURES, 3, gain=1.0).state_dict()
    assert alone.keys() == network.fnet.state_dict().keys()
    assert all(torch.equal(value, alone[name]) for name, value in network.fnet.state_dict().items())


def test_reconstructions_have_the_shape_of_their_patches(make):
    network = make(levels=(1, 2))
    patches = patches_of(network)
    logits, *reconstructions = network(patches[0], patches[1:], unlabeled=patches[1:])
    assert logits.shape == (2, 2, 4, 4, 4)
    assert [level.shape for level in reconstructions] == [level.shape for level in patches[1:]]


@pytest.mark.parametrize("levels", [(), (1, 0), (0, 0), (3,)])
def test_levels_must_be_some_of_the_networks(make, levels):
    with pytest.raises(ValueError, match=r"shared_levels must be some of \[0, 1, 2\], each once and in order, got \["):
        make(levels=levels)


def test_levels_must_be_a_list(make):
    with pytest.raises(TypeError, match="levels must be a list, each entry a whole number from 0, got '0'"):
        make(levels="0")


def test_every_level_wants_its_patch(make):
    network = make()
    with pytest.raises(ValueError, match=r"one patch for each of the levels \(0, 1\), got 3 patches"):
        network(unlabeled=patches_of(network))


def test_the_weights_of_its_f_net_alone_load_too(make):
    """MONAI Label gives a training the weights for inference to go on from; they were dropped without a word."""
    trained, network = make(), make()
    with torch.no_grad():
        for value in trained.parameters():
            value.add_(1.0)
    decoders = {name: value.clone() for name, value in network.state_dict().items() if "decoder" in name}
    network.load_state_dict(trained.fnet.state_dict(), strict=False)
    for name, value in trained.fnet.state_dict().items():
        torch.testing.assert_close(network.fnet.state_dict()[name], value, rtol=0, atol=0)
    assert decoders and all(torch.equal(network.state_dict()[name], value) for name, value in decoders.items())
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})


# ---- an iteration --------------------------------------------------------------------------------

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
        prepare_batch=PrepareTask(PatchSegmentation()),
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
    return LOSS(network(labeled["image"], labeled["context"]), labeled["label"])


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


# ---- gamma ---------------------------------------------------------------------------------------


def losses(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_gamma_is_the_ratio_of_the_moving_averages_and_then_fixed():
    weight = TaskWeight("balance", num_iterations=3)
    assert weight.update(*losses(4.0, 1.0)) == 4.0
    assert weight.update(*losses(2.0, 2.0)) == pytest.approx((0.93 * 4 + 0.07 * 2) / (0.93 * 1 + 0.07 * 2))
    last = weight.update(*losses(1.0, 0.5))
    assert weight.update(*losses(9.0, 0.1)) == last


def test_balanced_losses_weigh_the_same():
    weight = TaskWeight("balance", num_iterations=50)
    for _ in range(60):
        gamma = weight.update(*losses(1.2, 0.3))
    assert gamma * 0.3 == pytest.approx(1.2)


@pytest.mark.parametrize("gamma", [0, 0.25, 3])
def test_a_number_stays(gamma):
    weight = TaskWeight(gamma)
    assert weight.update(*losses(1.0, 7.0)) == gamma


def test_the_state_goes_on_where_it_was():
    series = [(3.0, 1.0), (2.0, 1.5), (2.5, 0.4), (1.0, 0.2), (5.0, 5.0)]
    whole, first, second = (TaskWeight(num_iterations=4) for _ in range(3))
    expected = [whole.update(*losses(*pair)) for pair in series]
    found = [first.update(*losses(*pair)) for pair in series[:2]]
    second.load_state_dict(first.state_dict())
    assert second.value == first.value
    assert found + [second.update(*losses(*pair)) for pair in series[2:]] == expected


def test_processes_have_the_same_gamma(monkeypatch):
    """Each adds the other's losses to its own before it divides."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    found = []
    for own, other in (((1.0, 1.0), (3.0, 1.0)), ((3.0, 1.0), (1.0, 1.0))):
        total = torch.tensor(other, dtype=torch.float64)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, total=total: tensor.add_(total))
        found.append(TaskWeight().update(*losses(*own)))
    assert found == [2.0, 2.0]


def test_a_reconstruction_without_error_gives_no_infinite_gamma():
    assert TaskWeight().update(*losses(0.0, 0.0)) == 0.0


@pytest.mark.parametrize("gamma", [-1, float("nan"), float("inf"), "equal", True, None])
def test_a_gamma_that_means_nothing_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma must be a number from 0, or balance, got"):
        TaskWeight(gamma)


def test_a_balance_needs_an_iteration():
    with pytest.raises(ValueError, match="num_iterations must be a whole number from 1, got 0"):
        TaskWeight(num_iterations=0)
