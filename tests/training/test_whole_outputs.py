"""Laws of outputs that need not be made again: all there, whole, on the grid of the scan, and of the same origin."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.training.whole_outputs import NoteOrigins, are_whole, keep_whole_cases

SHAPE = (12, 10, 8)


@pytest.fixture
def outputs(tmp_path, write_scan):
    """A scan, and the files of its segmentation."""
    rng = np.random.default_rng(0)
    scan = write_scan("scan.nii.gz", rng.normal(size=SHAPE).astype("float32"))
    mask = write_scan("out/scan_seg.nii.gz", rng.integers(0, 2, SHAPE).astype("uint8"))
    picture = tmp_path / "out" / "scan.png"
    Image.fromarray(rng.integers(0, 255, (20, 20)).astype("uint8")).save(picture)
    return scan, [Path(mask), picture]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_what_was_written_is_whole(outputs):
    scan, files = outputs
    assert are_whole(files, scan)
    assert not are_whole([], scan), "nothing is no output"


@pytest.mark.parametrize("number", [0, 1], ids=["segmentation", "picture"])
@pytest.mark.parametrize("harm", [_cut, _empty, _flip, Path.unlink])
def test_what_is_damaged_is_not(outputs, number, harm):
    scan, files = outputs
    harm(files[number])
    assert not are_whole(files, scan)


def test_neither_is_what_has_another_shape(outputs, write_scan):
    scan, files = outputs
    write_scan("out/scan_seg.nii.gz", np.ones((12, 10, 7), "uint8"))
    assert not are_whole(files, scan)


@pytest.fixture
def notes(tmp_path):
    """Notes of an output folder, whose weights are a file."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    return NoteOrigins(tmp_path / "out" / "origins.jsonl", tmp_path / "model.pt", {"tile_size": 96})


def note(notes: NoteOrigins, *names: str) -> None:
    """Segment cases, as far as the notes are told of it."""
    engine = Engine(lambda engine, name: [{"pred": MetaTensor(np.zeros((1, 2, 2, 2)), meta={"case_id": name})}])
    notes.attach(engine)
    engine.run(names)


def keep(files, scan, notes):
    return keep_whole_cases([{"image": scan, "case_id": "scan"}], lambda case: files, notes)


def test_the_cases_that_are_kept_are_counted_and_told(outputs, tmp_path, caplog, notes):
    caplog.set_level("INFO")
    scan, files = outputs
    note(notes, "scan", "other")
    cases = [{"image": scan, "case_id": "scan"}, {"image": scan, "case_id": "other"}]
    lists = {"scan": files, "other": [tmp_path / "out" / "other_seg.nii.gz"]}
    assert keep_whole_cases(cases, lambda case: lists[case["case_id"]], notes) == 1
    assert [case.get("outcome") for case in cases] == ["kept", None]
    assert "the outputs of 1 of 2 case(s) are whole, these cases are left out" in caplog.text


def test_outputs_of_unknown_origin_are_made_again(outputs, notes, caplog):
    caplog.set_level("INFO")
    scan, files = outputs
    note(notes, "other")
    assert keep(files, scan, notes) == 0
    assert "those of 1 case(s) come from other weights or options, and are made again" in caplog.text


@pytest.mark.parametrize("change", ["weights", "option", "scan"])
def test_so_are_those_of_other_weights_of_other_options_and_of_an_older_scan(outputs, notes, change):
    scan, files = outputs
    note(notes, "scan")
    weights, settings = notes.weights, {"tile_size": 48 if change == "option" else 96}
    if change == "weights":
        weights.write_bytes(b"other weights")
    if change == "scan":
        os.utime(scan, ns=(2**62, 2**62))
    now = NoteOrigins(notes.path, weights, settings)
    assert keep(files, scan, now) == 0
    note(now, "scan")
    assert keep(files, scan, now) == (change != "scan"), "once made again, they are kept"


def test_a_line_that_an_interruption_has_cut_is_passed_over(outputs, notes):
    scan, files = outputs
    note(notes, "scan", "other")
    notes.path.write_text(notes.path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert notes.read() == {"scan": notes.origin}
    assert keep(files, scan, notes) == 1


def test_without_weights_nothing_is_kept_and_who_loads_them_tells(outputs, notes):
    scan, files = outputs
    note(notes, "scan")
    notes.weights.unlink()
    assert keep(files, scan, notes) == 0
