"""Laws of outputs that need not be made again: all there, whole, on the grid of the scan, and of the same origin."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image

from common.cli import CONFIG
from common.data import Record, row_of
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
def notes(outputs, tmp_path):
    """Notes of an output folder, whose weights are a file, and of two cases with the same scan."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    data = [{"image": outputs[0], "case_id": name} for name in ("scan", "other")]
    path = tmp_path / "out" / "origins.jsonl"
    return NoteOrigins(path, tmp_path / "model.pt", {"tile_size": 96}, data=data)


def note(notes: NoteOrigins, *names: str, stop: str = "") -> None:
    """Segment cases, as far as the notes are told of it; perhaps up to the segmentation of one."""

    def segment(engine, batch):
        (name,) = batch["image"].meta["case_id"]
        if name == stop:
            raise KeyboardInterrupt
        return [{"pred": MetaTensor(np.zeros((1, 2, 2, 2)), meta={"case_id": name})}]

    engine = Engine(segment)
    notes.attach(engine)
    with suppress(KeyboardInterrupt):
        engine.run([{"image": MetaTensor(np.zeros((1, 1, 2, 2, 2)), meta={"case_id": [name]})} for name in names])


def keep(files, scan, notes, **more):
    return keep_whole_cases([{"image": scan, "case_id": "scan", **more}], lambda case: files, notes)


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
    assert "those of 1 case(s) come from other scans, weights or options, and are made again" in caplog.text


def _later(file: Path) -> None:
    os.utime(file, ns=(2**62, 2**62))


def _earlier(file: Path) -> None:
    os.utime(file, ns=(0, 0))


def _longer(file: Path) -> None:
    stat = file.stat()
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"tile_size": 48}},
        {"settings": {"tile_size": 96, "series": "1.2"}},
        {"settings": {"tile_size": 96, CONFIG: {"inferer::mode": "constant"}}},
        {"record": Record(spacing=2.0)},
        {"weights": b"other weights"},
        *({"scan": harm} for harm in (_later, _earlier, _longer)),
    ],
)
def test_so_are_those_of_other_weights_of_other_options_and_of_another_scan(outputs, notes, change):
    """A scan that an older file had replaced was kept, as was one of another series of its folder."""
    scan, files = outputs
    note(notes, "scan")
    notes.weights.write_bytes(change.get("weights", b"weights"))
    change.get("scan", Path)(Path(scan))
    settings, record = change.get("settings", notes.settings), change.get("record")
    now = NoteOrigins(notes.path, notes.weights, settings, record, notes.data)
    assert keep(files, scan, now) == 0
    note(now, "scan")
    assert keep(files, scan, now) == 1, "once made again, they are kept"


@pytest.mark.parametrize("change", [_later, _earlier, _longer])
def test_so_are_those_of_another_mask_of_the_organ(outputs, notes, change, write_scan):
    scan, files = outputs
    mask = write_scan("organ.nii.gz", np.ones(SHAPE, np.uint8))
    notes.data = [{"image": scan, "case_id": "scan", "organ": mask}]
    note(notes, "scan")
    assert keep(files, scan, notes) == 0, "of the scan alone"
    assert keep(files, scan, notes, organ=mask) == 1
    change(Path(mask))
    assert keep(files, scan, notes, organ=mask) == 0


@pytest.mark.parametrize("name", ["1.dcm", "2.dcm", "3.dcm"])
def test_every_slice_of_a_series_and_each_half_of_a_pair_are_of_the_scan(tmp_path, notes, name):
    (folder := tmp_path / "series").mkdir()
    for number in (1, 2):
        (folder / f"{number}.dcm").write_bytes(b"slice")
    before = notes.origin({"image": str(folder)})
    (folder / name).write_bytes(b"another slice")
    assert notes.origin({"image": str(folder)}) != before
    pair = [tmp_path / f"pair{suffix}" for suffix in (".hdr", ".img")]
    for file in pair:
        file.write_bytes(b"half")
    origins = {notes.origin({"image": str(pair[0])})}
    for file in pair:
        _longer(file)
        origins |= {notes.origin({"image": str(file)})}
    assert len(origins) == 3


def test_what_was_found_in_a_case_is_noted_and_comes_back(outputs, notes):
    scan, files = outputs
    found = {"labels": {"liver": {"volume_ml": 1.5}}, "warnings": ["a; b"]}
    notes.data = [{"image": scan, "case_id": "scan"}]
    engine = Engine(lambda engine, batch: [{"pred": MetaTensor(np.zeros((1, 2, 2, 2)), meta={"case_id": "scan"})}])
    notes.attach(engine)
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "findings", {"scan": found}))
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "pictures", {"scan": files[1]}))
    engine.run([{"image": MetaTensor(np.zeros((1, 1, 2, 2, 2)), meta={"case_id": ["scan"]})}])
    case = {"image": scan, "case_id": "scan"}
    assert keep_whole_cases([case], lambda case: files, notes) == 1
    row = row_of(case, case["outcome"], case["reason"])
    assert row == {
        **{"case": "scan", "image": scan, "outcome": "kept", "reason": "its outputs are whole"},
        **{**found, "picture": "scan.png"},
    }


def test_outputs_that_an_interrupted_run_may_have_replaced_have_no_origin(outputs, notes):
    """They were taken for those of the run before it."""
    scan, files = outputs
    note(notes, "scan", "other")
    other = NoteOrigins(notes.path, notes.weights, {"tile_size": 48}, data=notes.data)
    note(other, "scan", "other", stop="scan")
    assert keep(files, scan, notes) == keep(files, scan, other) == 0
    assert notes.read()["other"]["origin"] == notes.origin(notes.data[1]), "it was not begun"


def test_a_line_that_an_interruption_has_cut_is_passed_over_and_spoils_no_other(outputs, notes):
    scan, files = outputs
    note(notes, "scan", "other")
    notes.path.write_text(notes.path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert [*notes.read()] == ["scan"]
    assert keep(files, scan, notes) == 1
    note(notes, "other")
    assert [*notes.read()] == ["scan", "other"]


def test_a_line_of_an_earlier_version_tells_too_little_and_its_case_is_made_again(outputs, notes):
    scan, files = outputs
    line = {"case": "scan", "origin": "0" * 64}
    notes.path.write_text(f"{json.dumps(line)}\n[]\n3\n{{}}\n", encoding="utf-8")
    assert keep(files, scan, notes) == 0
    note(notes, "scan")
    assert keep(files, scan, notes) == 1


def test_a_scan_that_is_gone_is_left_to_who_loads_it(outputs, notes, tmp_path):
    scan, files = outputs
    note(notes, "scan")
    Path(scan).unlink()
    assert keep(files, scan, notes) == 0
    note(notes, "scan")
    assert notes.read()["scan"]["origin"] is None


def test_without_weights_nothing_is_kept_and_who_loads_them_tells(outputs, notes):
    scan, files = outputs
    note(notes, "scan")
    notes.weights.unlink()
    assert keep(files, scan, notes) == 0
