"""Laws of the classes that lie beside the weights."""

from __future__ import annotations

import pytest

from common.data import load_classes, save_classes

LABELS = {0: "background", 1: "Leber (ü)", 2: "$os.system('x')"}


def test_what_is_stored_is_what_is_read(tmp_path):
    stored = save_classes(tmp_path / "models", LABELS, "CT")
    assert (stored.labels, stored.modality) == (LABELS, "CT")
    assert load_classes(tmp_path / "models") == stored
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["classes.json"]


def test_the_order_of_the_classes_survives(tmp_path):
    labels = {value: f"class {value}" for value in range(12)}  # as text, 10 would come before 2
    save_classes(tmp_path, labels)
    assert list(load_classes(tmp_path).labels.items()) == list(labels.items())


def test_background_alone_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"labels must name the background and at least one class, got \{0: 'air'\}"):
        save_classes(tmp_path, {0: "air"})
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.record.is_main_process", lambda: False)
    assert save_classes(tmp_path, LABELS).labels == LABELS
    assert list(tmp_path.iterdir()) == []


def test_missing_classes_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"classes\.json: the names of the classes must lie beside the weights"):
        load_classes(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"labels": ["background", "liver"], "modality": "CT"}',
        '{"labels": {"background": 0}, "modality": "CT"}',
        '{"labels": {"0": "background", "1": "liver"}}',
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "classes.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes\.json: must hold the names of the classes, got .*; train again"):
        load_classes(tmp_path)
