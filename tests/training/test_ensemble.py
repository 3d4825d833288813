"""Laws of an ensemble."""

from __future__ import annotations

import copy

import pytest
import torch
from scripted import check_scripted
from torch import nn

from common.training import Ensemble


def make(num_members: int, sigmoid: bool) -> Ensemble:
    """Return an ensemble whose members have weights of their own."""
    torch.manual_seed(0)
    ensemble = Ensemble(nn.Conv3d(1, 3, 1), num_members, sigmoid)
    for member in ensemble.members:
        nn.init.normal_(member.weight, std=3.0)
    return ensemble.eval()


def probabilities(logits: torch.Tensor, sigmoid: bool) -> torch.Tensor:
    return logits.double().sigmoid() if sigmoid else logits.double().softmax(1)


IMAGE = torch.randn(2, 1, 5, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_probabilities_are_the_mean_of_those_of_the_members(sigmoid):
    ensemble = make(3, sigmoid)
    found = probabilities(ensemble(IMAGE), sigmoid)
    expected = torch.stack([probabilities(member(IMAGE), sigmoid) for member in ensemble.members]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("num_members", [1, 4])
def test_members_that_are_alike_give_what_one_of_them_gives(num_members, sigmoid):
    network = make(1, sigmoid).members[0]
    ensemble = Ensemble(network, num_members, sigmoid)
    found, expected = (probabilities(made(IMAGE), sigmoid) for made in (ensemble, network))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_torchscript_gives_the_same(sigmoid):
    check_scripted(make(3, sigmoid), [(2, 1, 5, 4, 3)])


@pytest.mark.parametrize("sigmoid", [False, True])
def test_logits_that_no_probability_can_hold_stay_finite(sigmoid):
    ensemble = make(2, sigmoid)
    logits = ensemble(1e3 * IMAGE)
    assert logits.isfinite().all() and logits.abs().max() > 200


def test_a_member_more_changes_the_result_and_the_order_of_the_members_does_not():
    ensemble = make(3, False)
    turned = copy.deepcopy(ensemble)
    turned.members = nn.ModuleList([*ensemble.members][::-1])
    torch.testing.assert_close(ensemble(IMAGE), turned(IMAGE))
    turned.members = ensemble.members[:2]
    assert not torch.allclose(ensemble(IMAGE), turned(IMAGE), atol=1e-2)


def test_the_weights_of_a_single_network_go_into_every_member():
    ensemble, network = make(3, False), make(1, False).members[0]
    ensemble.load_state_dict(network.state_dict())
    assert all(torch.equal(member.weight, network.weight) for member in ensemble.members)
    with pytest.raises(RuntimeError, match="Missing key"):
        ensemble.load_state_dict({"members.0.weight": network.weight})


@pytest.mark.parametrize(("arguments", "match"), [((0,), "num_members must be"), ((2, "no"), "sigmoid must be")])
def test_refuses_what_is_no_ensemble(arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Ensemble(nn.Identity(), *arguments)
