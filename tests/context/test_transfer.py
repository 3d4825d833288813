"""Laws of the transfer from inpainting to segmentation."""

from __future__ import annotations

import logging

import pytest
import torch

from common.context import ContextUNet, transfer_context

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
