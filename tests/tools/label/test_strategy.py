"""Laws of MONAI Label's strategy, on a store in memory and, where MONAI Label is not installed, on stand-ins for it."""

from __future__ import annotations

import importlib
import json
import sys
import types

import pytest
import torch

from common.active_learning import ScanDescriber

ROWS = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 5.0, "e": 5.1}  # descriptors, of one number each


class Store:
    """What a strategy asks of a datastore, with the answers of MONAI Label's own."""

    def __init__(self, images, labeled=()):
        self.infos = {image: {} for image in images}
        self.labeled = set(labeled)

    def list_images(self):
        return list(self.infos)

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return [image for image in self.infos if image not in self.labeled]

    def get_image_info(self, image):
        return self.infos[image]

    def get_image_uri(self, image):
        return f"/scans/{image}"


@pytest.fixture
def strategy(monkeypatch):
    """Return a function that makes the strategy."""
    try:
        importlib.import_module("monailabel.interfaces.tasks.strategy")
    except ImportError:
        modules = {name: types.ModuleType(name) for name in ("datastore", "tasks.strategy")}
        modules["datastore"].Datastore = object
        modules["tasks.strategy"].Strategy = type("Strategy", (), {"__init__": lambda self, text: None})
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, f"monailabel.interfaces.{name}", module)
        for name in ("monailabel", "monailabel.interfaces", "monailabel.interfaces.tasks"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.delitem(sys.modules, "tools.label.strategy", raising=False)
    module = importlib.import_module("tools.label.strategy")
    yield lambda load=Describer, **options: module.NextScan(load, **options)
    sys.modules.pop("tools.label.strategy", None)


class Describer(ScanDescriber):
    """One that knows the descriptors."""

    def __init__(self, broken=""):
        self.broken = broken

    def __call__(self, path):
        name = path.removeprefix("/scans/")
        if name == self.broken:
            raise RuntimeError("a damaged file")
        return torch.tensor([ROWS[name]])


def ask(strategy, store, at=None):
    """Return the answer for a client, and note it as the server does."""
    answer = strategy({"strategy": "k_medoids"}, store)
    if answer is not None and at is not None:
        store.infos[answer["id"]]["strategy"] = {"k_medoids": {"ts": at}}
    return answer


def test_the_answer_is_the_scan_that_the_criterion_chooses(strategy):
    assert ask(strategy(), Store(ROWS, labeled="b"))["id"] in "de"
    answer = ask(strategy(), Store(ROWS, labeled="bd"))
    assert answer["id"] in "ac" and answer["distance"] > 0
    assert ask(strategy(criterion="k_center"), Store(ROWS, labeled="a"))["id"] == "e"


def test_without_labels_it_is_the_medoid_and_the_answer_is_json(strategy):
    answer = ask(strategy(), Store(ROWS))
    assert json.dumps(answer, allow_nan=False) == '{"id": "c"}'


def test_it_is_none_when_all_scans_are_labeled(strategy):
    assert ask(strategy(), Store(ROWS, labeled="abcde")) is None
    assert ask(strategy(), Store("")) is None


def test_clients_that_ask_at_once_get_scans_that_differ(strategy):
    store = Store(ROWS, labeled="b")
    first, second = ask(strategy(), store, at=10)["id"], ask(strategy(), store, at=11)["id"]
    assert first in "de" and second in "ac"


def test_a_skipped_scan_returns_after_all_others_the_oldest_first(strategy):
    store, asked = Store(ROWS), strategy()
    order = [ask(asked, store, at=time)["id"] for time in range(10, 15)]
    assert sorted(order) == sorted(ROWS)
    assert [ask(asked, store, at=time)["id"] for time in range(20, 25)] == order


def test_what_another_strategy_handed_out_is_free(strategy):
    store = Store(ROWS)
    store.infos["c"]["strategy"] = {"random": {"ts": 10}}
    assert ask(strategy(), store)["id"] == "c"


def test_a_scan_that_cannot_be_described_comes_last(strategy, caplog):
    store, asked = Store(ROWS), strategy(lambda: Describer(broken="c"))
    order = [ask(asked, store, at=time)["id"] for time in range(10, 15)]
    assert sorted(order) == sorted(ROWS) and order[-1] == "c"
    assert "c cannot be described and is left out: a damaged file" in caplog.text


def test_the_server_starts_without_weights_and_the_request_tells_what_lacks(strategy):
    def load():
        raise FileNotFoundError("models/model.pt: weights must exist")

    asked = strategy(load)
    with pytest.raises(FileNotFoundError, match="weights must exist"):
        ask(asked, Store(ROWS))
