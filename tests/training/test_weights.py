"""Laws of weights that are loaded whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.training import load_network


def make_network(seed, features=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, features, 3), nn.BatchNorm3d(features))


def test_all_weights_are_replaced(tmp_path):
    source, network = make_network(0), make_network(1)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    assert load_network(network, tmp_path / "model.pt") is network
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_half_a_network_is_refused_and_nothing_changes(tmp_path, change):
    weights, network = make_network(0).state_dict(), make_network(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if change == "missing":
        del weights["1.weight"]
    else:
        weights["1.weight" if change == "shape" else "2.weight"] = torch.zeros(5)
    torch.save(weights, tmp_path / "model.pt")
    name = "2.weight" if change == "unknown" else "1.weight"
    with pytest.raises(ValueError, match=rf"model.pt: weights must be those .* got 1 of 7 tensors .* such as {name}"):
        load_network(network, tmp_path / "model.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: weights must exist"):
        load_network(network, tmp_path / "nowhere.pt")
