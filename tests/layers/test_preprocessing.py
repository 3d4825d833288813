"""Laws of the preprocessing that is stored beside the weights."""

from __future__ import annotations

import pytest

from common.data.record import save_record
from common.layers import load_organ_preprocessing, make_organ_preprocessing

OPTIONS = {
    "spacing": (1, 1.5, 3),
    "clip": (-100, 200),
    "organ": "body",
    "modality": "CT",
    "labels": {0: "background", 1: "tumor"},
}


def store(folder, **options):
    fitted = make_organ_preprocessing(**options)
    save_record(fitted, folder / "preprocessing.json")
    return fitted


def test_what_is_stored_is_what_is_loaded(tmp_path):
    stored = store(tmp_path, **OPTIONS)
    assert load_organ_preprocessing(tmp_path / "model.pt") == stored
    assert stored.spacing == [1.0, 1.5, 3.0] and stored.clip == [-100.0, 200.0]
    assert stored.labels == OPTIONS["labels"]
    empty = store(tmp_path)
    assert load_organ_preprocessing(tmp_path / "model.pt") == empty
    assert empty.spacing is None and empty.clip is None and empty.organ == "given"


@pytest.mark.parametrize("like", [None, "null", "random"])
def test_without_weights_nothing_is_compared(like):
    assert make_organ_preprocessing(like, **OPTIONS).organ == "body"


def test_it_must_be_that_of_the_pretraining_but_for_modality_and_labels(tmp_path):
    weights = tmp_path / "pretraining" / "model.pt"
    store(weights.parent, **OPTIONS)
    make_organ_preprocessing(weights, **{**OPTIONS, "modality": "MRI", "labels": {}})
    for name, value, found in (
        ("spacing", None, "None"),
        ("clip", (-100, 201), r"\[-100.0, 201.0\]"),
        ("organ", "brain", "brain"),
    ):
        match = rf"{name} must be that of the pretraining of .*model.pt, .*, got {found}"
        with pytest.raises(ValueError, match=match):
            make_organ_preprocessing(weights, **{**OPTIONS, name: value})


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessing.json: the preprocessing must lie beside the weights"):
        make_organ_preprocessing(tmp_path / "model.pt")
    for text in ("{", "[]", "{}", '{"labels": {"a": "b"}}', '{"labels": {}, "unknown": 1}'):
        (tmp_path / "preprocessing.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"preprocessing.json: must hold the preprocessing, got .*; train again"):
            load_organ_preprocessing(tmp_path / "model.pt")
