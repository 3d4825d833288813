"""Laws of the scans that trainings in MONAI Label are validated with."""

from __future__ import annotations

import json
import random

import pytest

from tools.label.validation import ValidationScans

SHARE = 0.2
NAMES = [f"scan_{index:03d}.nii.gz" for index in range(40)]


@pytest.fixture
def scans(tmp_path) -> ValidationScans:
    return ValidationScans(tmp_path / "validation.json")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_labeled_next_those_held_out_stay_and_were_never_learned_from(scans, seed):
    order = random.Random(seed).sample(NAMES, len(NAMES))
    before: set[str] = set()
    learned: set[str] = set()
    for count in range(1, len(order) + 1):
        names = sorted(order[:count])  # the store of a server has an order of its own
        training, validation = scans.split(names, SHARE)
        assert sorted(training + validation) == names
        assert before <= {*validation}
        if count > 2:
            assert len(validation) == count - int((1 - SHARE) * count + 0.5) >= 1, "as many as MONAI Label takes"
            assert not learned & {*validation}
        before = {*validation}
        learned |= {*training}


def test_the_same_labels_give_the_same_scans(scans, tmp_path):
    first = scans.split(NAMES, SHARE)
    assert scans.split(NAMES[::-1], SHARE)[1] == first[1][::-1], "whatever the order"
    assert ValidationScans(tmp_path / "of_another_server.json").split(NAMES, SHARE) == first


def test_a_scan_whose_label_is_taken_back_for_a_while_stays_held_out(scans):
    held_out = scans.split(NAMES, SHARE)[1]
    scans.split([name for name in NAMES if name != held_out[0]], SHARE)
    assert {*held_out} <= {*scans.split(NAMES, SHARE)[1]}


def test_none_is_held_out_where_none_is_wanted(scans):
    assert scans.split(NAMES, 0) == (NAMES, [])


def test_scans_that_were_learned_from_are_held_out_last_and_with_a_warning(scans, caplog):
    scans.split(NAMES[:10], 0)
    _, validation = scans.split(NAMES[:11], SHARE)
    assert NAMES[10] in validation and len(validation) == 2
    assert f"{validation[0]}: learned from before, their scores are too good" in caplog.text
    assert scans.split(NAMES[:12], SHARE)[1] == validation


def test_what_is_held_out_is_written_down(scans):
    training, validation = scans.split(NAMES[:5], SHARE)
    content = json.loads(scans.path.read_text(encoding="utf-8"))
    assert content == {"validation": validation, "training": training}
