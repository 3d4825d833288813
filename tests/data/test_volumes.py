"""Laws of the volumes of classes in the labels of a training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.data import Record, load_record, make_record, note_label, volume_ranges
from common.transforms import LoadVolumesd

LABELS = {0: "background", 1: "liver", 2: "spleen", 3: "kidney"}


@pytest.fixture
def case(write_scan):
    """Return a function that makes a case whose label has so many voxels of each value."""

    def _make(name, counts, **more):
        label = np.zeros(1000, np.uint8)
        label[: sum(counts.values())] = np.repeat([*counts], [*counts.values()])
        label = label.reshape(10, 10, 10)
        paths = {key: write_scan(f"{key}_{name}.nii.gz", label, spacing=(2.0, 1.0, 5.0)) for key in ("image", "label")}
        return {**paths, **more}

    return _make


def test_the_range_is_over_the_cases_that_show_a_class(case):
    data = [case("a", {1: 100}), case("b", {1: 300, 2: 10}), {"image": "unlabeled.nii.gz"}]
    assert volume_ranges(data, LABELS) == {"liver": [1.0, 3.0], "spleen": [0.1, 0.1]}


def test_what_nobody_has_labeled_whole_does_not_count(case):
    data = [
        case("a", {1: 100, 255: 50}, ignore=255),
        case("b", {1: 200}, ignore=255),
        case("c", {1: 700}, confidence="confidence.nii.gz"),
    ]
    assert volume_ranges(data, LABELS) == {"liver": [2.0, 2.0]}


def test_a_label_that_was_loaded_is_not_read_again(case, monkeypatch):
    loaded = case("loaded", {2: 7})
    LoadVolumesd(["image", "label"], Record(labels=LABELS))(loaded)
    monkeypatch.setattr("common.data.volumes.read_volume", None)
    assert volume_ranges([loaded], LABELS) == {"spleen": [0.07, 0.07]}


def test_volumes_are_those_of_the_files_own_grid():
    oblique = np.array([[0, -2.0, 0, 1], [1.5, 0, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]])
    note_label("oblique.nii.gz", np.ones((1, 5, 5, 5), np.uint8), oblique)
    assert volume_ranges([{"label": "oblique.nii.gz"}], LABELS) == {"liver": [1.5, 1.5]}


def test_the_record_beside_weights_has_the_range_of_each_class_and_older_ones_have_none(case, tmp_path):
    data = [case("a", {1: 100}), case("b", {1: 300, 2: 10})]
    make_record(labels=LABELS, data=data).save_beside(tmp_path / "model.pt")
    assert load_record(tmp_path / "model.pt").volumes_ml == {"liver": [1.0, 3.0], "spleen": [0.1, 0.1]}
    stored = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    del stored["volumes_ml"]
    (tmp_path / "record.json").write_text(json.dumps(stored), encoding="utf-8")
    assert load_record(tmp_path / "model.pt").volumes_ml == {}
