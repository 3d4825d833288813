"""Laws of S-TL: what is transferred, and what may change afterwards."""

from __future__ import annotations

import pytest
import torch

from common.fnet import FNet, WTAAutoencoders, parameter_groups, transfer_extraction

FEATURES = (2, 3, 2)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return FNet(1, 2, FEATURES, 3, gain=1.0)


@pytest.fixture
def source(settle):
    torch.manual_seed(2)
    weights = settle(WTAAutoencoders(1, FEATURES, 3)).state_dict()
    return {name: torch.randn_like(value) if name.endswith("conv.bias") else value for name, value in weights.items()}


@pytest.fixture
def path(tmp_path, source):
    torch.save(source, tmp_path / "wta.pt")
    return tmp_path / "wta.pt"


def copied(level, conv, part):
    return f"extraction.{level}.{conv}.conv.{part}", f"levels.{level}.encoder.{conv}.conv.{part}"


def clone(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("phi", [1.0, 0.25, 3])
def test_transferred_tensors_are_phi_times_the_source_and_nothing_else_changes(network, path, source, phi):
    before, after = clone(network), transfer_extraction(network, path, phi).state_dict()
    names = set()
    for level in range(3):
        for conv in range(3):
            for part in ("weight", "bias"):
                name, origin = copied(level, conv, part)
                torch.testing.assert_close(after[name], phi * source[origin])
                assert not torch.equal(after[name], before[name])
                names.add(name)
    for name in set(after) - names:  # batch norms start afresh, the rest is the network's own
        assert torch.equal(after[name], before[name])
    assert float(after["extraction.0.0.adn.N.running_var"].sum()) == 2


def test_phi_changes_the_speed_of_learning_not_what_a_pathway_computes(network, path):
    image = torch.randn(2, 1, 12, 12, 12)
    once = transfer_extraction(network, path, 1.0).extraction[0].train()(image)
    thrice = transfer_extraction(network, path, 3.0).extraction[0].train()(image)
    torch.testing.assert_close(once, thrice, atol=1e-3, rtol=1e-3)


def test_levels_that_are_not_named_stay_untouched(network, path, source):
    before, after = clone(network), transfer_extraction(network, path, levels=[0, 1]).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("extraction.2."))
    assert all(
        torch.equal(after[copied(level, 0, "weight")[0]], source[copied(level, 0, "weight")[1]]) for level in (0, 1)
    )


def test_match_init_keeps_the_norm_of_every_initial_convolution(network, path, source):
    before, after = clone(network), transfer_extraction(network, path, "match_init").state_dict()
    for name, origin in (copied(level, conv, "weight") for level in range(3) for conv in range(3)):
        torch.testing.assert_close(after[name].norm(), before[name].norm())
        factor = before[name].norm() / source[origin].norm()
        torch.testing.assert_close(after[name], factor * source[origin])
        bias, bias_origin = name.replace("weight", "bias"), origin.replace("weight", "bias")
        torch.testing.assert_close(after[bias], factor * source[bias_origin])


@pytest.mark.parametrize("path_or_none", [None, "null", "None", "random"])
def test_without_a_file_nothing_is_transferred(network, path_or_none):
    before, after = clone(network), transfer_extraction(network, path_or_none).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_match_reference_takes_the_norms_of_a_trained_network(network, path, tmp_path):
    trained = FNet(1, 2, FEATURES, 3, gain=5.0).state_dict()
    torch.save(trained, tmp_path / "trained.pt")
    after = transfer_extraction(network, path, "match_reference", reference=tmp_path / "trained.pt").state_dict()
    for name in (copied(level, conv, "weight")[0] for level in range(3) for conv in range(3)):
        torch.testing.assert_close(after[name].norm(), trained[name].norm())


def test_match_reference_without_a_fitting_reference_is_refused(network, path, tmp_path):
    with pytest.raises(ValueError, match="reference must be the weights of a trained F-Net"):
        transfer_extraction(network, path, "match_reference")
    torch.save({"other": torch.ones(1)}, tmp_path / "trained.pt")
    with pytest.raises(ValueError, match=r"trained.pt: reference must be .*, got no extraction.0.0.conv.weight"):
        transfer_extraction(network, path, "match_reference", reference=tmp_path / "trained.pt")


@pytest.mark.parametrize("phi", [0, -1.0, float("nan"), float("inf"), "match", "1.0"])
def test_a_factor_that_is_not_positive_is_refused(network, path, phi):
    with pytest.raises(ValueError, match="phi must be a positive number, match_init or match_reference, got "):
        transfer_extraction(network, path, phi)


def test_weights_without_a_norm_to_match_are_refused(network, path, source):
    """A collapsed pretraining turned the network into NaN under match_init."""
    torch.save({name: torch.zeros_like(value) for name, value in source.items()}, path)
    with pytest.raises(ValueError, match=r"wta.pt: levels.0.encoder.0.conv.weight must not be all zero"):
        transfer_extraction(network, path, "match_init")


@pytest.mark.parametrize("levels", [[0, 3], [-1], []])
def test_levels_that_do_not_exist_are_refused(network, path, levels):
    """A typing error among the levels was skipped in silence."""
    with pytest.raises(ValueError, match=r"levels must .* got "):
        transfer_extraction(network, path, levels=levels)
    with pytest.raises(ValueError, match=r"levels must .* got "):
        parameter_groups(network, path, 1e-3, 1e-4, levels=levels)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_weights_of_another_shape_are_refused_by_name(network, path, source, part):
    before = clone(network)
    name = f"levels.1.encoder.2.conv.{part}"
    torch.save({**source, name: torch.zeros(7, 1, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match=rf"wta.pt: {name} must have shape .*, got \(7, 1, 3, 3, 3\)"):
        transfer_extraction(network, path)
    del source[name]
    torch.save(source, path)
    with pytest.raises(ValueError, match=rf"wta.pt: {name} must have shape .*, got nothing"):
        transfer_extraction(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())  # not half of them


# ---- what may change -----------------------------------------------------------------------------


def learning_rates(network, groups):
    """Return the learning rate of each parameter by name, 0 for frozen ones, and check that no group shares one."""
    rates = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in rates
            rates[id(parameter)] = group["lr"]
    trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert trained == set(rates)
    return {name: rates.get(id(parameter), 0) for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("pretrained", ["weights.pt", "random"])
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ({}, {0: (0, 2, 2), 1: (0, 2, 2), 2: (0, 2, 2)}),
        ({"frozen_convs": [0, 1, 2]}, {0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 0, 0)}),
        ({"frozen_convs": [0, 1]}, {0: (0, 0, 2), 1: (0, 0, 2), 2: (0, 0, 2)}),
        ({"frozen_convs": []}, {0: (2, 2, 2), 1: (2, 2, 2), 2: (2, 2, 2)}),
        ({"levels": [0, 1]}, {0: (0, 2, 2), 1: (0, 2, 2), 2: (1, 1, 1)}),
        ({"levels": [0, 0]}, {0: (0, 2, 2), 1: (1, 1, 1), 2: (1, 1, 1)}),
    ],
)
def test_each_scheme_gives_each_trained_parameter_one_learning_rate(network, path, pretrained, scheme, expected):
    if pretrained != "random":
        pretrained = path
    transfer_extraction(network, pretrained, **scheme)
    rates = learning_rates(network, parameter_groups(network, pretrained, 1, 2, scheme.get("levels")))
    for level, speeds in expected.items():
        for conv, speed in enumerate(speeds):
            assert rates.pop(f"extraction.{level}.{conv}.conv.weight") == speed
            assert rates.pop(f"extraction.{level}.{conv}.conv.bias") == speed
    assert set(rates.values()) == {1}  # batch norms and integration


def test_without_pretraining_there_is_one_group_and_nothing_is_frozen(network):
    transfer_extraction(network, None, levels=[0])
    groups = parameter_groups(network, None, 1, 2, levels=[0])
    assert [group["name"] for group in groups] == ["rest"]
    assert set(learning_rates(network, groups).values()) == {1}


def test_what_will_be_unfrozen_belongs_to_the_optimizer_from_the_start(network, path):
    transfer_extraction(network, path)
    groups = parameter_groups(network, path, 1, 2, unfreezes=True)
    network.requires_grad_(True)
    rates = learning_rates(network, groups)
    assert all(rates[f"extraction.{level}.{conv}.conv.weight"] == 2 for level in range(3) for conv in range(3))


@pytest.mark.parametrize("frozen_convs", [[3], [-1], [0, 5]])
def test_convolutions_that_do_not_exist_cannot_be_frozen(network, frozen_convs):
    """A typing error among the frozen convolutions left them free in silence."""
    with pytest.raises(ValueError, match=r"frozen_convs must .* got "):
        transfer_extraction(network, "random", frozen_convs=frozen_convs)


def test_frozen_tensors_survive_a_step_with_weight_decay_and_all_others_change(network, path):
    groups = parameter_groups(transfer_extraction(network, path), path, 1e-2, 1e-2)
    optimizer = torch.optim.Adam(groups, lr=1e-2, weight_decay=0.1)
    before = clone(network)
    sizes = network.geometry.input_sizes(8)
    image, *context = (torch.randn(2, 1, *size) for size in sizes)
    network.train()(image, context).square().mean().backward()
    optimizer.step()
    unchanged = {name for name, value in network.named_parameters() if torch.equal(value, before[name])}
    assert unchanged == {f"extraction.{level}.0.conv.{part}" for level in range(3) for part in ("weight", "bias")}
