"""Laws of S-MTL's network: the convolutions are shared, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from common.fnet import FNet, MultiTaskFNet

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
            outputs = network(*patches, unlabeled=patches[:2])
        else:
            outputs = [network(*patches)] if task == "segment" else network(unlabeled=patches[:2])
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
    logits, *reconstructions = network(*patches, unlabeled=patches[1:])
    assert logits.shape == (2, 2, 4, 4, 4)
    assert [level.shape for level in reconstructions] == [level.shape for level in patches[1:]]


@pytest.mark.parametrize("levels", [(), (1, 0), (0, 0), (3,), (-1,)])
def test_levels_must_be_some_of_the_networks(make, levels):
    with pytest.raises(ValueError, match=r"levels must be some of \[0, 1, 2\], each once and in order, got \["):
        make(levels=levels)


def test_levels_must_be_a_list(make):
    with pytest.raises(TypeError, match=r"levels must be a list such as \[0, 1\], got 0"):
        make(levels=0)


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
