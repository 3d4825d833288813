"""Laws of a folder of pseudo-labels: they are of unlabeled scans of the data set, and never of others."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from common.data import PseudoLabel, case_id, read_cases, write_datalist, write_pseudo_labels

LABELS = {0: "background", 1: "liver"}


def save(path):
    path.parent.mkdir(exist_ok=True)
    voxels = np.random.default_rng(len(str(path)) + ord(path.name[0])).integers(0, 2, (5, 4, 3)).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


@pytest.fixture
def data(tmp_path):
    """A data set with a validation case, two training cases, a test case and two unlabeled ones."""
    pairs = {name: {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "abctv"}
    for name in "abctv":
        save(tmp_path / pairs[name]["image"])
        save(tmp_path / pairs[name]["label"])
    for name in "xy":
        save(tmp_path / f"images/{name}.nii.gz")
    lists = {"training": [pairs["a"], pairs["b"], pairs["c"]], "validation": [pairs["v"]], "test": [pairs["t"]]}
    unlabeled = [f"images/{name}.nii.gz" for name in "xy"]
    write_datalist(
        tmp_path, {"labels": {str(value): name for value, name in LABELS.items()}, **lists, "unlabeled": unlabeled}
    )
    return tmp_path


@pytest.fixture
def make(data):
    """Return a function that writes pseudo-labels of some scans, and returns their folder."""

    def run(names, labels=LABELS, left_out=()):
        entries = []
        for name in names:
            for kind in ("label", "confidence"):
                save(data / f"pseudo/{kind}_{name}.nii.gz")
            reason = "no liver" if name in left_out else ""
            files = {kind: f"{kind}_{name}.nii.gz" for kind in ("label", "confidence")}
            entries.append(PseudoLabel(f"images/{name}.nii.gz", left_out=reason, **files))
        return write_pseudo_labels(data / "pseudo", labels, entries).parent

    return run


def test_unlabeled_scans_get_their_files_in_the_order_of_the_data_list(data, make):
    cases = read_cases(data, pseudo_labels=make("yx"))
    assert [case_id(case["image"]) for case in cases.pseudo_labeled] == ["x", "y"]
    for case in cases.pseudo_labeled:
        assert case["label"] == str(data / "pseudo" / f"label_{case_id(case['image'])}.nii.gz")
        assert case["confidence"] == str(data / "pseudo" / f"confidence_{case_id(case['image'])}.nii.gz")
    assert not read_cases(data).pseudo_labeled


def test_a_scan_that_is_left_out_or_not_in_the_folder_is_not_learned_from(data, make):
    assert [
        case_id(case["image"]) for case in read_cases(data, pseudo_labels=make("xy", left_out="x")).pseudo_labeled
    ] == ["y"]
    assert [case_id(case["image"]) for case in read_cases(data, pseudo_labels=make("x")).pseudo_labeled] == ["x"]


def test_a_training_case_whose_label_is_not_used_may_have_one(data, make):
    named = {case_id(case["image"]): case for case in read_cases(data, num_labeled=1).unlabeled}
    unused = sorted(set(named) & set("abc"))
    cases = read_cases(data, num_labeled=1, pseudo_labels=make(unused))
    assert sorted(case_id(case["image"]) for case in cases.pseudo_labeled) == unused
    assert all("pseudo" in case["label"] for case in cases.pseudo_labeled)


@pytest.mark.parametrize(("name", "list_name"), [("a", "labeled"), ("v", "validation"), ("t", "test")])
def test_a_pseudo_label_of_a_case_that_must_have_none_is_refused(data, make, name, list_name):
    with pytest.raises(
        ValueError,
        match=rf"pseudo_labels.json: pseudo-labels must be of unlabeled scans, got .*{name}.nii.gz, a {list_name} case",
    ):
        read_cases(data, pseudo_labels=make(["x", name]))


def test_a_scan_that_the_data_set_does_not_have_is_refused(data, make):
    with pytest.raises(ValueError, match=r"must be of scans that dataset.json lists, got .*images/z.nii.gz; list it"):
        read_cases(data, pseudo_labels=make("z"))


def test_other_classes_are_refused(data, make):
    with pytest.raises(
        ValueError, match=r"pseudo-labels must have the classes .*liver.*, got .*spleen.*; make them again"
    ):
        read_cases(data, pseudo_labels=make("x", labels={0: "background", 1: "spleen"}))


@pytest.mark.parametrize("kind", ["label", "confidence"])
def test_a_missing_file_is_named(data, make, kind):
    folder = make("xy")
    (folder / f"{kind}_y.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{kind}_y.nii.gz: must exist, got no such file; make"):
        read_cases(data, pseudo_labels=folder)


def test_a_folder_without_pseudo_labels_is_named(data):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/pseudo_labels.json: must exist, got no such file; .*self_training"
    ):
        read_cases(data, pseudo_labels=data / "nowhere")


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"labels": {}}', '{"labels": {"a": "b"}, "cases": []}', '{"labels": {}, "cases": [{"scan": 1}]}'],
)
def test_a_damaged_file_is_refused(data, make, text):
    (make("x") / "pseudo_labels.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"pseudo_labels.json: must hold pseudo-labels, got .*; make them again"):
        read_cases(data, pseudo_labels=data / "pseudo")


def test_the_file_says_what_was_written(make):
    content = json.loads((make("x", left_out="x") / "pseudo_labels.json").read_text(encoding="utf-8"))
    assert content["labels"] == {"0": "background", "1": "liver"}
    assert content["cases"][0]["left_out"] == "no liver"
