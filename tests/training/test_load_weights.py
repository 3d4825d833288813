"""Laws of loading: all weights or none."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.fnet import FNet
from common.training import LoadWeights


@pytest.fixture
def network():
    torch.manual_seed(1)
    return FNet(1, 2, (2, 2), 3)


@pytest.fixture
def path(tmp_path, settle):
    torch.manual_seed(2)
    torch.save(settle(FNet(1, 2, (2, 2), 3)).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def load(path, network):
    engine = Engine(lambda engine, batch: None)
    LoadWeights(path, network).attach(engine)
    engine.run([0])


@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel])
def test_every_tensor_is_that_of_the_file(path, network, wrap):
    load(path, wrap(network))
    weights = torch.load(path, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_other_weights_are_refused_by_name_and_none_is_loaded(path, network, change):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = torch.load(path, weights_only=True)
    name = "integration.0.1.weight"
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name][:1]
    else:
        weights[name := "decoder.weight"] = torch.ones(1)
    torch.save(weights, path)
    with pytest.raises(ValueError, match=rf"model.pt: weights must be .* got 1 of {len(before)} tensors .* as {name}"):
        load(path, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_the_pathways_alone_are_refused(path, network):
    weights = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in weights.items() if name.startswith("extraction")}, path)
    with pytest.raises(ValueError, match=r"missing, unknown or of another shape, such as integration"):
        load(path, network)


def test_missing_weights_are_refused_by_name(tmp_path, network):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: weights must exist"):
        load(tmp_path / "nowhere.pt", network)
