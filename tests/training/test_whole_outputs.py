"""Laws of outputs that need not be made again: they are all there, readable to their end, and on the scan's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.training.whole_outputs import are_whole, keep_whole_cases

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


def test_the_cases_that_are_kept_are_counted_and_told(outputs, tmp_path, caplog):
    caplog.set_level("INFO")
    scan, files = outputs
    cases = [{"image": scan, "case_id": "scan"}, {"image": scan, "case_id": "other"}]
    lists = {"scan": files, "other": [tmp_path / "out" / "other_seg.nii.gz"]}
    assert keep_whole_cases(cases, lambda case: lists[case["case_id"]]) == 1
    assert [case.get("outcome") for case in cases] == ["kept", None]
    assert "the outputs of 1 of 2 case(s) are whole, these cases are left out" in caplog.text
