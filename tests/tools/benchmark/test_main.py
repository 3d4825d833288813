"""Laws of the command that measures."""

import json

import pytest
import torch

from tools.benchmark.__main__ import benchmark
from tools.benchmark.measure import compare

METHODS = ["fnet", "context", "planar", "layers", "reading"]


@pytest.mark.parametrize("method", METHODS)
def test_command_writes_the_rows_and_the_machine(method, tmp_path, monkeypatch, capsys):
    row = compare("decoder", ("sparse", "dense"), ([0.5], [50.0]))
    monkeypatch.setattr(f"tools.benchmark.{method}.all_rows", lambda *arguments: [row])
    benchmark(method, json=str(tmp_path / "rows.json"))
    content = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert content["rows"][0]["ratio"] == 100
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert content["machine"]["torch"] == torch.__version__
    assert "100x" in capsys.readouterr().out


def test_all_of_them_are_one_table(tmp_path, monkeypatch, capsys):
    for method in METHODS:
        row = compare(f"a part of {method}", ("ours", "theirs"), ([0.5], [50.0]))
        monkeypatch.setattr(f"tools.benchmark.{method}.all_rows", lambda *arguments, row=row: [row])
    benchmark("all", json=str(tmp_path / "rows.json"))
    content = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in content["rows"]] == [f"{method}: a part of {method}" for method in METHODS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "unet"}, "method must be one of all, fnet, context, planar, layers, reading, got 'unet'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"repeats": 0}, "repeats must be a whole number from 1, got 0"),
        ({"threads": 0}, "threads must be a whole number from 1, or null .*, got 0"),
        ({"quick": "no"}, "quick must be True or False, got 'no'"),
        ({"json": "/nowhere/rows.json"}, "json must lie in a folder that exists"),
    ],
)
def test_command_refuses_in_one_sentence(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        benchmark(**{"method": "fnet", **options})


def test_command_refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be one that PyTorch finds, got cuda"):
        benchmark("fnet", device="cuda")
