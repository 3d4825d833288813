"""Laws of the rows of planar descriptors: what they hold and that their two sides agree; never a time."""

from __future__ import annotations

import pytest
import torch

from common.planar import TriplanarPretext
from tools.benchmark import planar
from tools.benchmark.measure import Timer
from tools.benchmark.planar import (
    PlanarSize,
    _two_passes,
    brute_force,
    extraction_rows,
    neighbor_rows,
    pretraining_rows,
    search,
    volume_rows,
)

TINY = PlanarSize(batch_size=2, edge=103, num_volumes=1)


def test_one_pass_and_two_give_the_same():
    torch.manual_seed(0)
    network, pairs = TriplanarPretext(), torch.randn(2, 3, 2, 3, 42, 42)
    torch.testing.assert_close(network(pairs), _two_passes(network, pairs))


def test_pretraining_rows_tell_the_share_of_the_sampling():
    passes, sampling = pretraining_rows(TINY, Timer("cpu", 1))
    assert (passes.side_a, passes.side_b) == ("one pass for both slabs", "two passes")
    assert sampling.median_b == passes.median_a
    assert sampling.notes["share of the step in %"] == pytest.approx(100 / sampling.ratio)


def test_batches_and_single_patches_are_described_alike():
    (row,) = extraction_rows(TINY, 40, Timer("cpu", 1))
    assert row.unit == "descriptors/s"
    assert row.notes["largest difference, both by grid_sample"] < 1e-4


@pytest.mark.slow
def test_the_search_finds_what_brute_force_finds():
    found, expected = search(50, 200, 5, "cpu")(), search(50, 200, 5, "cpu", is_brute=True)()
    torch.testing.assert_close(found[0], expected[0].double(), atol=1e-2, rtol=1e-4)
    (row,) = neighbor_rows(50, 200, Timer("cpu", 1), num_neighbors=5)
    assert row.notes["recall"] == 1
    assert {"peak memory of A in MiB", "peak memory of B in MiB"} <= row.notes.keys()
    assert brute_force(torch.zeros(1, 4), torch.eye(4), 2)[0].tolist() == [[1, 1]]


def test_a_volume_is_segmented_end_to_end():
    (row,) = volume_rows((20, 16, 24), 8, 30, Timer("cpu", 1))
    assert row.name == "volume of 12 positions, atlas of 30"
    assert row.unit == "positions/s"


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_volume_is_the_papers_on_cuda(quick, device, monkeypatch):
    asked = {}
    for name in ("pretraining_rows", "extraction_rows", "neighbor_rows", "volume_rows"):
        monkeypatch.setattr(planar, name, lambda *values, name=name: asked.update({name: values}) or [])
    assert planar.all_rows(Timer(device, 3), quick) == []
    assert len(asked) == 4
    spatial_size, step, *_ = asked["volume_rows"]
    positions = 1
    for edge in spatial_size:
        positions *= edge // step
    assert (positions == 192_720) == (device == "cuda" and not quick)
