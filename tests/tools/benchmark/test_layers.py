"""Laws of the rows of layer decomposition: what they hold; never a time."""

import pytest

from common.layers import RandTumorLayers
from tools.benchmark.__main__ import benchmark
from tools.benchmark.layers import LayersSize, shape_rows, simulation_rows, stage_rows, training_rows
from tools.benchmark.measure import Timer

TINY = LayersSize(patch_size=16, batch_size=2, features=(2, 4))


def test_every_simulation_has_a_seed_of_its_own(monkeypatch):
    seen = []
    make_batch = RandTumorLayers.make_batch
    monkeypatch.setattr(
        RandTumorLayers, "make_batch", lambda self, batch: seen.extend(batch["seed"]) or make_batch(self, batch)
    )
    (row,) = simulation_rows(TINY, Timer("cpu", 2))
    assert (row.name, row.unit, row.repeats) == ("simulation, 16^3", "samples/s", 2)
    assert seen == list(range(6)), "one unmeasured and two measured batches of two"
    assert "times as fast as 4.5 s per sample" not in row.notes, "which were measured at 128^3"


@pytest.mark.slow
def test_shapes_are_compared_with_meshes():
    pytest.importorskip("itk")
    (row,) = shape_rows(TINY, Timer("cpu", 1))
    assert (row.name, row.unit) == ("shape of 41 voxels", "shapes/s")


def test_shares_are_shares():
    for (row,), name in (
        (stage_rows(TINY, Timer("cpu", 1)), "share of the shapes in %"),
        (training_rows(TINY, Timer("cpu", 1)), "share of the simulation in %"),
    ):
        assert row.notes[name] > 0
    assert row.notes["share of the simulation in %"] < 100


def test_the_command_prints_every_row(monkeypatch, capsys):
    monkeypatch.setattr("tools.benchmark.layers.LayersSize", lambda patch_size: TINY)
    benchmark("layers", repeats=1, quick=True)
    out = capsys.readouterr().out
    assert all(
        name in out for name in ("simulation, 16^3", "shape of 41", "stages of the simulation", "pretraining, batch 2")
    )
