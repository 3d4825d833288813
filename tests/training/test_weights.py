"""Laws of weights: a file is read whole and unharmed, and a network takes all of it or none."""

from __future__ import annotations

import pickle

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.fnet import FNet, WTAAutoencoders
from common.training import LoadWeights, load_network, load_weights

# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def source(settle):
    torch.manual_seed(2)
    weights = settle(WTAAutoencoders(1, (2, 3, 2), 3)).state_dict()
    return {name: torch.randn_like(value) if name.endswith("conv.bias") else value for name, value in weights.items()}


@pytest.fixture
def path(tmp_path, source):
    torch.save(source, tmp_path / "wta.pt")
    return tmp_path / "wta.pt"


def test_missing_weights_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: weights must exist; pretrain first"):
        load_weights(tmp_path / "nowhere.pt")


def test_a_pickled_object_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"weight": Bomb()}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("torch.pt", "plain.pt"):
        with pytest.raises(ValueError, match=f"{name}: weights must be a whole file written by torch.save"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_weights_are_refused_by_name(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"wta.pt: weights must be a whole file written by torch.save, got ."):
        load_weights(path)


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"\x80\x02K", b"\x80\x02.", b"\0" * 100, b"version https://git-lfs"]
)
def test_what_is_no_file_of_weights_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wta.pt: weights must be "):
        load_weights(path)


def test_a_flipped_bit_is_refused(path, source):
    """torch.load reads such a file without a word: the tensor is only a little wrong."""
    content = bytearray(path.read_bytes())
    tensor = source["levels.0.encoder.0.conv.weight"].numpy().tobytes()
    content[content.index(tensor) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wta.pt: weights must have the checksums they were written with"):
        load_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(path, source, value):
    source["levels.0.decoder.weight"][0, 0, 0, 0, 0] = value
    torch.save(source, path)
    with pytest.raises(
        ValueError, match=r"wta.pt: weights must be finite, got NaN or Inf in .*levels.0.decoder.weight"
    ):
        load_weights(path)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, torch.ones(3)])
def test_what_is_no_state_dict_is_refused_by_name(path, content):
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"wta.pt: weights must be tensors by name"):
        load_weights(path)


# ---- a network -----------------------------------------------------------------------------------


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


# ---- before a run --------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(1)
    return FNet(1, 2, (2, 2), 3)


@pytest.fixture
def trained(tmp_path, settle):
    torch.manual_seed(2)
    torch.save(settle(FNet(1, 2, (2, 2), 3)).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def load(path, network):
    engine = Engine(lambda engine, batch: None)
    LoadWeights(path, network).attach(engine)
    engine.run([0])


@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel])
def test_every_tensor_is_that_of_the_file(trained, network, wrap):
    load(trained, wrap(network))
    weights = torch.load(trained, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_other_weights_are_refused_by_name_and_none_is_loaded(trained, network, change):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = torch.load(trained, weights_only=True)
    name = "integration.0.1.weight"
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name][:1]
    else:
        weights[name := "decoder.weight"] = torch.ones(1)
    torch.save(weights, trained)
    with pytest.raises(ValueError, match=rf"model.pt: weights must be .* got 1 of {len(before)} tensors .* as {name}"):
        load(trained, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_the_pathways_alone_are_refused(trained, network):
    weights = torch.load(trained, weights_only=True)
    torch.save({name: value for name, value in weights.items() if name.startswith("extraction")}, trained)
    with pytest.raises(ValueError, match=r"missing, unknown or of another shape, such as integration"):
        load(trained, network)


def test_missing_weights_of_a_run_are_refused_by_name(tmp_path, network):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt: weights must exist"):
        load(tmp_path / "nowhere.pt", network)
