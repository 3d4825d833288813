"""Laws of reading a data list and of choosing its cases."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import case_id, read_cases, read_images, write_datalist

LABELS = {"0": "background", "1": "liver"}


def save(path, seed, affine=None, shape=(6, 5, 4)):
    path.parent.mkdir(exist_ok=True)
    array = np.random.RandomState(seed).randint(0, 2, shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def content(tmp_path):
    """Ten training cases, two test cases and three unlabeled ones."""
    listed = {
        "name": "tiny",
        "labels": LABELS,
        "modality": {"0": "CT"},
        "training": [{"image": f"./imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(10)],
        "test": ["imagesTs/t0.nii.gz", {"image": "imagesTs/t1.nii.gz", "label": "labelsTs/t1.nii.gz"}],
        "unlabeled": [f"imagesUn/u{i}.nii.gz" for i in range(3)],
    }
    files = [*listed["training"], *listed["test"], *listed["unlabeled"]]
    names = [name for entry in files for name in (entry.values() if isinstance(entry, dict) else [entry])]
    for seed, name in enumerate(names):
        save(tmp_path / name, seed)
    write_datalist(tmp_path, listed)
    return listed


def ids(cases):
    return [case_id(case["image"]) for case in cases]


def test_every_case_has_absolute_paths_that_exist(tmp_path, content):
    cases = read_cases(tmp_path)
    assert (cases.name, cases.labels, cases.modality) == ("tiny", {0: "background", 1: "liver"}, ["CT"])
    for case in [*cases.training, *cases.validation, *cases.unlabeled, *cases.test]:
        assert all(Path(path).is_absolute() and Path(path).is_file() for path in case.values())
    assert all(list(case) == ["image", "label"] for case in cases.training + cases.validation)
    assert [list(case) for case in cases.test] == [["image"], ["image", "label"]]


def test_image_and_label_pair_by_what_the_file_says(tmp_path, content):
    for case in read_cases(tmp_path).training:
        assert case["label"] == case["image"].replace("images", "labels")


def test_folds_hold_out_every_case_once(tmp_path, content):
    held_out = [name for fold in range(3) for name in ids(read_cases(tmp_path, fold, num_folds=3).validation)]
    assert sorted(held_out) == [f"c{i}" for i in range(10)]


def test_folds_do_not_depend_on_the_order_of_the_file(tmp_path, content):
    before = read_cases(tmp_path, fold=1, num_labeled=3)
    write_datalist(tmp_path, {**content, "training": content["training"][::-1]})
    after = read_cases(tmp_path, fold=1, num_labeled=3)
    assert (before.training, before.validation) == (after.training, after.validation)


def test_seed_chooses_folds_and_order(tmp_path, content):
    assert read_cases(tmp_path, seed=0) == read_cases(tmp_path, seed=0)
    assert ids(read_cases(tmp_path, seed=0).validation) != ids(read_cases(tmp_path, seed=1).validation)


@pytest.mark.parametrize("fold", range(5))
def test_fewer_labeled_cases_lie_inside_more(tmp_path, content, fold):
    subsets = [ids(read_cases(tmp_path, fold, num_labeled=n).training) for n in range(1, 9)]
    assert [len(subset) for subset in subsets] == list(range(1, 9))
    for smaller, larger in pairwise(subsets):
        assert larger[: len(smaller)] == smaller


def test_the_rest_counts_as_unlabeled(tmp_path, content):
    few, whole = read_cases(tmp_path, num_labeled=2), read_cases(tmp_path)
    assert sorted(ids(few.training + few.unlabeled)) == sorted(ids(whole.training + whole.unlabeled))
    assert all(list(case) == ["image"] for case in few.unlabeled)
    assert few.validation == whole.validation


def test_num_validation_takes_the_first_and_leaves_training_as_it_is(tmp_path, content):
    all_of_them, one = read_cases(tmp_path, num_folds=2), read_cases(tmp_path, num_folds=2, num_validation=1)
    assert one.validation == all_of_them.validation[:1]
    assert (one.training, one.unlabeled) == (all_of_them.training, all_of_them.unlabeled)


def test_pretraining_sees_validation_images_only_when_asked_to_and_never_test(tmp_path, content):
    cases = read_cases(tmp_path, num_labeled=2)
    clean, parity = ids(cases.pretraining()), ids(cases.pretraining(include_val_images=True))
    assert sorted(clean) == sorted(ids(cases.training + cases.unlabeled))
    assert sorted(parity) == sorted(clean + ids(cases.validation))
    assert all(list(case) == ["image"] for case in cases.pretraining())


def test_fewer_unlabeled_cases_lie_inside_more_and_the_labeled_ones_stay(tmp_path, content):
    cases = read_cases(tmp_path, num_labeled=2)
    pools = [ids(cases.pretraining(num_unlabeled=number)) for number in range(len(cases.unlabeled) + 1)]
    assert pools[0] == ids(cases.training)
    assert all(more[: len(fewer)] == fewer and len(more) == len(fewer) + 1 for fewer, more in pairwise(pools))
    assert pools[-1] == ids(cases.pretraining())
    with pytest.raises(ValueError, match=r"num_unlabeled must be 0 or more, got -1"):
        cases.pretraining(num_unlabeled=-1)


def test_held_out_are_the_images_of_the_validation_cases_and_none_is_learned_from(tmp_path, content):
    cases = read_cases(tmp_path, num_labeled=2)
    assert cases.held_out() == [{"image": case["image"]} for case in cases.validation]
    assert not {*ids(cases.held_out())} & {*ids(cases.pretraining())}


@pytest.mark.parametrize(("num_unlabeled", "num_held_out"), [(1, 1), (3, 1), (20, 2)])
def test_without_labels_a_tenth_of_the_unlabeled_cases_stands_for_the_held_out(
    tmp_path, content, num_unlabeled, num_held_out
):
    for index in range(num_unlabeled):
        save(tmp_path / f"imagesUn/u{index}.nii.gz", index)
    unlabeled = [f"imagesUn/u{index}.nii.gz" for index in range(num_unlabeled)]
    write_datalist(tmp_path, {**content, "training": [], "unlabeled": unlabeled})
    assert ids(read_cases(tmp_path).held_out()) == [f"u{index}" for index in range(num_held_out)]


def test_validation_cases_of_the_file_are_those_of_every_training(tmp_path, content, caplog):
    listed = {**content, "training": content["training"][:6], "validation": content["training"][6:]}
    write_datalist(tmp_path, listed)
    cases = read_cases(tmp_path, num_labeled=2)
    assert ids(cases.validation) == ["c6", "c7", "c8", "c9"] and not caplog.text
    assert sorted(ids(cases.training + cases.unlabeled)) == [*(f"c{index}" for index in range(6)), "u0", "u1", "u2"]
    assert read_images(tmp_path)[0] == [str(tmp_path / f"imagesTr/c{index}.nii.gz") for index in range(10)]
    with pytest.raises(ValueError, match=r"fold must be between 0 and 0 .* a list of validation cases, got 1"):
        read_cases(tmp_path, fold=1)
    write_datalist(tmp_path, {**listed, "folds": [["c1"]]})
    with pytest.raises(ValueError, match="cases must be held out in one way, got validation and folds; keep one"):
        read_cases(tmp_path)


def test_a_fold_of_each_case_holds_it_out(tmp_path, content):
    training = [{**case, "fold": 1 + index % 3} for index, case in enumerate(content["training"])]
    write_datalist(tmp_path, {**content, "training": training})
    cases = read_cases(tmp_path, fold=2)
    assert ids(cases.validation) == ["c1", "c4", "c7"] and len(cases.training) == 7
    assert all("fold" not in case for case in cases.training)
    with pytest.raises(ValueError, match=r"fold must be among 1, 2, 3 in .*, which has a fold of each, got 0"):
        read_cases(tmp_path)
    write_datalist(tmp_path, {**content, "training": [*training[1:], content["training"][0]]})
    with pytest.raises(ValueError, match="every training case must have a fold, or none, got 9 of 10; add the others"):
        read_cases(tmp_path, 1)
    write_datalist(tmp_path, {**content, "training": training, "folds": [["c1"]]})
    with pytest.raises(ValueError, match="cases must be held out in one way, got folds and fold; keep one"):
        read_cases(tmp_path, 1)


def test_folds_of_the_file_are_followed(tmp_path, content):
    write_datalist(tmp_path, {**content, "folds": [["c3", "c1"], ["c2"]]})
    assert ids(read_cases(tmp_path, fold=0).validation) == ["c3", "c1"]
    assert ids(read_cases(tmp_path, fold=1).validation) == ["c2"]
    with pytest.raises(ValueError, match=r"fold must be between 0 and 1 .*, got 2"):
        read_cases(tmp_path, fold=2)


@pytest.mark.parametrize("folds", [[["c3", "c99"]], [["c3", "c3"]]])
def test_folds_of_the_file_must_hold_training_cases(tmp_path, content, folds):
    write_datalist(tmp_path, {**content, "folds": folds})
    with pytest.raises(ValueError, match="folds must hold ids of training cases, each once, got 'c"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"fold": 5}, r"fold must be between 0 and 4 .*, got 5"),
        ({"fold": -1}, r"fold must be between 0 and 4 .*, got -1"),
        ({"num_folds": 1}, "num_folds must be 2 or more, got 1"),
        ({"fold": 8, "num_folds": 8}, r"fold must be between 0 and 7 .*, got 8; pass another --fold"),
        ({"fold": 10, "num_folds": 50}, r"fold must be between 0 and 9 .*, which has 10 labeled cases .*, got 10"),
        ({"num_labeled": -1}, "num_labeled must be between 0 and 8 .*, got -1"),
        ({"num_labeled": 9}, "num_labeled must be between 0 and 8 .*, got 9"),
        ({"num_validation": 0}, "num_validation must be 1 or more, got 0"),
    ],
)
def test_refuses_arguments_out_of_range(tmp_path, content, arguments, match):
    with pytest.raises(ValueError, match=match):
        read_cases(tmp_path, **arguments)


def keep(tmp_path, content, number):
    write_datalist(tmp_path, {**content, "training": content["training"][:number]})


@pytest.mark.parametrize("number", [2, 3, 4])
def test_folds_are_as_many_as_the_cases_when_these_are_few(tmp_path, content, number):
    keep(tmp_path, content, number)
    held_out = []
    for fold in range(number):
        cases = read_cases(tmp_path, fold)
        assert (len(cases.training), len(cases.validation)) == (number - 1, 1)
        assert not {*ids(cases.training)} & {*ids(cases.validation)}
        held_out += ids(cases.validation)
    assert sorted(held_out) == [f"c{index}" for index in range(number)]
    with pytest.raises(
        ValueError, match=rf"fold must be between 0 and {number - 1} .* {number} labeled .*got {number};"
    ):
        read_cases(tmp_path, number)
    with pytest.raises(
        ValueError, match=rf"num_labeled must be between 0 and {number - 1} .* that fold 0 leaves, got 4"
    ):
        read_cases(tmp_path, num_labeled=4)


def test_a_single_labeled_case_is_trained_and_validated_with_and_the_user_is_told(tmp_path, content, caplog):
    """A range between 2 and 1 was asked for, in which no number lies."""
    read_cases(tmp_path)
    assert not caplog.text
    keep(tmp_path, content, 1)
    cases = read_cases(tmp_path, num_labeled=1)
    assert ids(cases.training) == ids(cases.validation) == ["c0"]
    assert (
        "has labels of one case, so training and validation share them, and the validation score tells" in caplog.text
    )
    assert ids(cases.pretraining(include_val_images=True)) == ["c0", "u0", "u1", "u2"]


@pytest.mark.parametrize("number", [0, 1, 2, 10])
@pytest.mark.parametrize("others", ["unlabeled", "normal", None])
def test_every_fold_of_a_pretraining_has_scans_however_few_have_a_label(tmp_path, content, number, others, caplog):
    kept = {"unlabeled": content["unlabeled"]} if others == "unlabeled" else {"normal": content["unlabeled"]}
    if others is None:
        kept = {"training": content["training"][:1]}
    write_datalist(tmp_path, {"training": content["training"][:number], **kept})
    for fold in range(5):
        cases = read_cases(tmp_path, fold, is_pretraining=True)
        assert cases.pretraining() and cases.held_out()
        assert not cases.normal or (cases.normals("training") and cases.normals("validation"))
    assert "share" not in caplog.text


def test_num_labeled_without_a_label_is_refused_by_a_sentence_that_can_be_followed(tmp_path, content):
    keep(tmp_path, content, 0)
    with pytest.raises(ValueError, match=r"num_labeled must be null, got 1, since .* has no label to train on"):
        read_cases(tmp_path, num_labeled=1)


def test_unlabeled_images_alone_are_enough(tmp_path, content):
    write_datalist(tmp_path, {"unlabeled": content["unlabeled"]})
    cases = read_cases(tmp_path)
    assert ids(cases.pretraining()) == ["u0", "u1", "u2"]
    assert (cases.training, cases.validation, cases.test, cases.labels) == ([], [], [], {})


def test_labels_may_be_written_as_nnunet_does(tmp_path, content):
    write_datalist(tmp_path, {**content, "labels": {"background": 0, "spleen": 2, "liver": 1}, "modality": "MRI"})
    cases = read_cases(tmp_path)
    assert cases.labels == {0: "background", 1: "liver", 2: "spleen"}
    assert cases.modality == ["MRI"]


@pytest.mark.parametrize("labels", [{"0": "background", "2": "liver"}, {"all": 1.5}, {"1": "liver"}, ["liver"], 3])
def test_refuses_labels_that_do_not_count_from_zero(tmp_path, content, labels):
    write_datalist(tmp_path, {**content, "labels": labels})
    with pytest.raises(ValueError, match=r"dataset\.json: labels must name 0, 1, 2"):
        read_cases(tmp_path)


@pytest.mark.parametrize("name", ["$print(1).nii.gz", "@image.nii.gz", "%x y.nii.gz"])
def test_a_file_name_is_plain_text(tmp_path, content, name):
    save(tmp_path / "imagesUn" / name, 99)
    write_datalist(tmp_path, {**content, "unlabeled": [f"imagesUn/{name}"]})
    assert read_cases(tmp_path).unlabeled == [{"image": str(tmp_path / "imagesUn" / name)}]


@pytest.mark.parametrize("name", ["../other/a.nii.gz", "imagesTr/../../a.nii.gz", "/etc/passwd", "", ".", 3, None])
def test_refuses_a_path_that_leaves_the_folder(tmp_path, content, name):
    write_datalist(tmp_path, {**content, "unlabeled": [name]})
    with pytest.raises(ValueError, match=r"dataset\.json: every file must lie inside"):
        read_cases(tmp_path)


def test_names_the_tool_that_writes_a_missing_datalist(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"dataset\.json: must exist, .* `python -m tools\.datalist` writes one"
    ):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "must be JSON"),
        ("[]", "must be a JSON object, got a list"),
        ('{"training": {}}', "training must be a list, got {}; write"),
        ('{"normal": {}}', "normal must be a list, got {}; write"),
        ('{"normal": [{"organ": "a.nii"}]}', "every case must have image, got"),
        ('{"training": [{"image": "a.nii"}]}', "every case must have image and label, got"),
        ('{"training": ["a.nii"]}', "every case must have image and label, got 'a.nii'; write"),
    ],
)
def test_refuses_a_malformed_datalist(tmp_path, text, match):
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"dataset\.json: {match}"):
        read_cases(tmp_path)


@pytest.mark.parametrize("number", [1, 5])
def test_without_labels_every_training_case_is_unlabeled_and_none_that_is_held_out(tmp_path, content, number):
    keep(tmp_path, content, number)
    some, none = read_cases(tmp_path, num_labeled=1), read_cases(tmp_path, num_labeled=0)
    assert none.training == [] and none.validation == some.validation
    assert sorted(ids(none.unlabeled)) == sorted({*ids(some.unlabeled), *ids(some.training)} - {*ids(none.validation)})
    with pytest.raises(ValueError, match=r"split training must hold cases with labels, got none; .*--pseudo_labels"):
        none.supervised()


def test_a_list_without_cases_still_names_its_classes(tmp_path):
    """An exported bundle has one, for trainings whose scans MONAI Label lists."""
    write_datalist(tmp_path, {"labels": {"0": "background", "1": "liver"}, "modality": "CT", "training": []})
    cases = read_cases(tmp_path)
    assert cases.labels == {0: "background", 1: "liver"} and cases.modality == ["CT"] and cases.pretraining() == []
    with pytest.raises(ValueError, match="split training must hold cases with labels, got none"):
        cases.labeled("training")


def test_refuses_missing_files_with_their_number(tmp_path, content):
    for name in ("c3", "c4"):
        (tmp_path / f"labelsTr/{name}.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"labelsTr/c3\.nii\.gz: must exist, got no such file \(2 missing"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("key", "extra"),
    [
        ("unlabeled", "imagesTr/c1.nii.gz"),
        ("unlabeled", "imagesUn/./u1.nii.gz"),
        ("test", "imagesTr/c1.nii.gz"),
        ("training", {"image": "imagesTr/c1.nii.gz", "label": "labelsTs/t1.nii.gz"}),
        ("training", {"image": "imagesTr/new.nii.gz", "label": "labelsTr/c1.nii.gz"}),
    ],
)
def test_refuses_a_file_listed_twice(tmp_path, content, key, extra):
    save(tmp_path / "imagesTr/new.nii.gz", 99)
    write_datalist(tmp_path, {**content, key: [*content[key], extra]})
    with pytest.raises(ValueError, match=r"nii\.gz: must be listed once, got it twice"):
        read_cases(tmp_path)


def test_warns_of_the_same_content_under_two_names(tmp_path, content, caplog):
    read_cases(tmp_path)
    assert not caplog.text
    (tmp_path / "imagesUn/u0.nii.gz").write_bytes((tmp_path / "imagesTr/c1.nii.gz").read_bytes())
    read_cases(tmp_path)
    assert "u0.nii.gz: holds the same as" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shape": (6, 5, 5)}, "label must have the shape"),
        ({"affine": np.diag([1, 1, 1.2, 1])}, "label must have the affine"),
    ],
)
def test_refuses_a_label_off_the_grid_of_its_image(tmp_path, content, change, match):
    save(tmp_path / "labelsTr/c1.nii.gz", 0, **change)
    with pytest.raises(ValueError, match=rf"labelsTr/c1\.nii\.gz: {match}"):
        read_cases(tmp_path)


def test_refuses_a_bad_header_of_any_listed_file(tmp_path, content):
    (tmp_path / "imagesUn/u2.nii.gz").write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"u2\.nii\.gz: .* got an HTML"):
        read_cases(tmp_path)


def test_writing_fails_as_a_whole(tmp_path, content):
    before = (tmp_path / "dataset.json").read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_datalist(tmp_path, {"training": object()})
    assert (tmp_path / "dataset.json").read_text(encoding="utf-8") == before
    assert json.loads(before) == content
    assert not list(tmp_path.glob(".*"))


def test_2d_cases_are_read_where_they_are_allowed(tmp_path):
    names = [f"{folder}/c{index}.png" for folder in ("images", "labels") for index in range(2)]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.RandomState(seed).randint(0, 2, (6, 5)).astype(np.uint8)).save(tmp_path / name)
    training = [{"image": image, "label": label} for image, label in zip(names[:2], names[2:], strict=True)]
    write_datalist(tmp_path, {"labels": LABELS, "training": training})
    cases = read_cases(tmp_path, num_folds=2, allow_2d=True)
    assert sorted(ids(cases.training + cases.validation)) == ["c0", "c1"]
    with pytest.raises(ValueError, match=r"c0.png: name must end in .*, got a PNG picture"):
        read_cases(tmp_path, num_folds=2)


def test_a_t2_map_belongs_to_its_case_and_lies_on_the_grid_of_its_image(tmp_path, content):
    content["training"][3]["t2_map"] = "t2/c3.nii.gz"
    write_datalist(tmp_path, content)
    save(tmp_path / "t2/c3.nii.gz", 99)
    cases = read_cases(tmp_path)
    found = [case for case in cases.training + cases.validation if "t2_map" in case]
    assert [case["t2_map"] for case in found] == [str(tmp_path / "t2/c3.nii.gz")] and ids(found) == ["c3"]
    assert not any("t2_map" in case for case in cases.pretraining(include_val_images=True))
    save(tmp_path / "t2/c3.nii.gz", 99, shape=(6, 5, 3))
    with pytest.raises(ValueError, match=r"c3.nii.gz: t2_map must have the shape of its image \(6, 5, 4\), got"):
        read_cases(tmp_path)


@pytest.fixture
def organs(tmp_path, content):
    """Organs of a training case, a test case, an unlabeled and a normal one; six normal scans in all."""
    content["training"][3]["organ"] = "organs/c3.nii.gz"
    content["test"][0] = {"image": content["test"][0], "organ": "organs/t0.nii.gz"}
    content["unlabeled"][0] = {"image": content["unlabeled"][0], "organ": "organs/u0.nii.gz"}
    content["normal"] = [f"normal/n{index}.nii.gz" for index in range(6)]
    content["normal"][0] = {"image": content["normal"][0], "organ": "organs/n0.nii.gz"}
    for seed, name in enumerate(["c3", "t0", "u0", "n0"]):
        save(tmp_path / f"organs/{name}.nii.gz", 100 + seed)
    for index in range(6):
        save(tmp_path / f"normal/n{index}.nii.gz", 200 + index)
    write_datalist(tmp_path, content)
    return content


def test_an_organ_stays_with_its_case_and_no_other_case_gets_one(tmp_path, organs):
    cases = read_cases(tmp_path, num_labeled=2)
    chosen = {
        "c3": cases.pretraining(include_val_images=True),
        "u0": cases.unlabeled,
        "t0": cases.test,
        "n0": cases.normal,
    }
    for name, items in chosen.items():
        assert {case_id(item["image"]): item["organ"] for item in items if "organ" in item}[name] == str(
            tmp_path / f"organs/{name}.nii.gz"
        )
    assert [item for item in cases.pretraining() if case_id(item["image"]) in ("c1", "u1") and len(item) > 1] == []
    for fold in range(5):
        cases = read_cases(tmp_path, fold)
        for item in [*cases.labeled("training"), *cases.labeled("validation")]:
            assert list(item) == ["image", "label", *(["organ"] if case_id(item["image"]) == "c3" else [])]
        for item in cases.held_out():
            assert list(item) == ["image", *(["organ"] if case_id(item["image"]) == "c3" else [])]


@pytest.mark.parametrize("name", ["c3", "t0", "u0", "n0"])
def test_refuses_an_organ_that_is_missing_or_off_the_grid_of_its_image(tmp_path, organs, name):
    file = tmp_path / f"organs/{name}.nii.gz"
    save(file, 0, shape=(6, 5, 5))
    with pytest.raises(ValueError, match=rf"organs/{name}\.nii\.gz: organ must have the shape of its image .*, got"):
        read_cases(tmp_path)
    save(file, 0, affine=np.diag([1, 1, 1.2, 1]))
    with pytest.raises(ValueError, match=rf"organs/{name}\.nii\.gz: organ must have the affine of its image, got"):
        read_cases(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"organs/{name}\.nii\.gz: must exist, got no such file"):
        read_cases(tmp_path)


@pytest.mark.parametrize("extra", ["imagesTr/c1.nii.gz", "imagesUn/u1.nii.gz", "organs/c3.nii.gz", "normal/n1.nii.gz"])
def test_refuses_a_normal_scan_listed_elsewhere(tmp_path, organs, extra):
    write_datalist(tmp_path, {**organs, "normal": [*organs["normal"], extra]})
    with pytest.raises(ValueError, match=r"nii\.gz: must be listed once, got it twice"):
        read_cases(tmp_path)


def test_folds_hold_out_every_normal_scan_once_and_learn_from_the_others(tmp_path, organs):
    found = []
    for fold in range(3):
        cases = read_cases(tmp_path, fold, num_folds=3)
        learned, held_out = cases.normals("training"), cases.normals("validation")
        assert len(held_out) == 2 and len(learned) == 4
        assert sorted(ids(learned + held_out)) == ids(cases.normal)
        found += ids(held_out)
    assert sorted(found) == [f"n{index}" for index in range(6)]
    write_datalist(tmp_path, {**organs, "normal": organs["normal"][::-1]})
    assert read_cases(tmp_path, 2, num_folds=3).normals("validation") == held_out
    assert any(read_cases(tmp_path, 2, num_folds=3, seed=seed).normals("validation") != held_out for seed in range(4))


@pytest.mark.parametrize("fold", range(5))
@pytest.mark.parametrize("number", [1, 2, 4])
def test_of_few_normal_scans_one_is_held_out_and_one_alone_serves_twice(tmp_path, organs, fold, number):
    write_datalist(tmp_path, {**organs, "normal": organs["normal"][:number]})
    cases = read_cases(tmp_path, fold)
    assert len(cases.normals("validation")) == 1
    assert len(cases.normals("training")) == max(number - 1, 1)


def name_patients(content, names):
    """Return a data list whose normal scans name their patients; the first one has an organ, too."""
    images = [case["image"] if isinstance(case, dict) else case for case in content["normal"]]
    normal = [{"image": image, **({"case": name} if name else {})} for image, name in zip(images, names, strict=True)]
    return {**content, "normal": [{**content["normal"][0], **normal[0]}, *normal[1:]]}


def test_normal_scans_of_a_patient_are_held_out_together(tmp_path, organs):
    """Blocks of slices of one patient were learned from and held out."""
    names = ["p", "q", "p", "p", None, "q"]
    write_datalist(tmp_path, name_patients(organs, names))
    found = []
    for fold in range(3):
        cases = read_cases(tmp_path, fold, num_folds=3)
        learned, held_out = ids(cases.normals("training")), ids(cases.normals("validation"))
        assert held_out in (["n0", "n2", "n3"], ["n1", "n5"], ["n4"])
        assert sorted(learned + held_out) == [f"n{index}" for index in range(6)]
        found += held_out
    assert sorted(found) == [f"n{index}" for index in range(6)]
    assert all(set(case) <= {"image", "organ"} for case in cases.normal), "a name is no file"


def test_normal_scans_of_patients_with_one_each_are_split_as_those_without_a_name(tmp_path, organs):
    before = [ids(read_cases(tmp_path, fold).normals("validation")) for fold in range(5)]
    write_datalist(tmp_path, name_patients(organs, "fedcba"))
    assert [ids(read_cases(tmp_path, fold).normals("validation")) for fold in range(5)] == before


def test_normal_scans_of_a_single_patient_serve_twice(tmp_path, organs):
    write_datalist(tmp_path, name_patients(organs, "pppppp"))
    cases = read_cases(tmp_path)
    assert cases.normals("training") == cases.normals("validation") == cases.normal


@pytest.mark.parametrize("name", ["", 3, ["p"]])
def test_refuses_a_patient_whose_name_is_no_text(tmp_path, organs, name):
    write_datalist(tmp_path, {**organs, "normal": [{"image": "normal/n1.nii.gz", "case": name}]})
    with pytest.raises(ValueError, match=r"case of a normal scan must be the name of a patient, got "):
        read_cases(tmp_path)


def test_normal_scans_alone_are_enough(tmp_path, organs):
    write_datalist(tmp_path, {"normal": organs["normal"]})
    cases = read_cases(tmp_path)
    assert (len(cases.normal), cases.training) == (6, [])
    assert len(cases.pretraining()) == 4 and len(cases.held_out()) == 2
    assert not {*ids(cases.pretraining())} & {*ids(cases.held_out())}


def test_refuses_to_give_normal_scans_where_none_is_listed(tmp_path, content):
    cases = read_cases(tmp_path)
    with pytest.raises(ValueError, match=r"normal must list at least one scan .*got none; `python -m tools\.normals`"):
        cases.normals("training")
    with pytest.raises(ValueError, match="split must be one of training, validation, got 'test'"):
        cases.normals("test")


@pytest.mark.parametrize("num_labeled", [0, 1, 10])
def test_images_with_and_without_a_label_are_told_apart_however_few(tmp_path, content, num_labeled):
    write_datalist(tmp_path, {**content, "training": content["training"][:num_labeled]})
    labeled, unlabeled = read_images(tmp_path)
    assert labeled == [str(tmp_path / f"imagesTr/c{index}.nii.gz") for index in range(num_labeled)]
    assert unlabeled == [str(tmp_path / name) for name in content["unlabeled"]]


def test_images_must_exist(tmp_path, content):
    (tmp_path / "imagesUn/u1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"u1.nii.gz: must exist"):
        read_images(tmp_path)


def with_patients(content, names):
    """Return a data list whose training cases, then whose unlabeled ones, have these patients."""
    training = [{**case, "patient": name} for case, name in zip(content["training"], names, strict=False) if name]
    unlabeled = [
        {"image": image, **({"patient": name} if name else {})}
        for image, name in zip(content["unlabeled"], names[len(content["training"]) :], strict=True)
    ]
    return {**content, "training": training, "unlabeled": unlabeled}


PATIENTS = ["p", "p", "p", "q", "q", "r", "s", "t", "u", "u", "p", "u", None]


def patients(cases):
    """Return the patients of cases whose file names are those of the fixture."""
    index = {f"c{number}": name for number, name in enumerate(PATIENTS[:10])}
    index |= {f"u{number}": name for number, name in enumerate(PATIENTS[10:])}
    return {index[name] for name in ids(cases)} - {None}


@pytest.mark.parametrize("seed", range(3))
def test_no_patient_is_on_both_sides_nor_cut_apart(tmp_path, content, seed):
    write_datalist(tmp_path, with_patients(content, PATIENTS))
    held_out = []
    for fold in range(3):
        cases = read_cases(tmp_path, fold, num_folds=3, seed=seed)
        assert not patients(cases.validation) & patients([*cases.training, *cases.unlabeled, *cases.pretraining()])
        held_out += ids(cases.validation)
        smaller: list[str] = []
        for number in range(1, len(cases.training) + 1):
            few = read_cases(tmp_path, fold, num_folds=3, seed=seed, num_labeled=number)
            chosen = ids(few.training)
            assert chosen[: len(smaller)] == smaller
            assert len(chosen) <= number or len(patients(few.training)) == 1
            assert not patients(few.training) & {
                PATIENTS[int(name[1:])] for name in ids(few.unlabeled) if name[0] == "c"
            }
            smaller = chosen
            one = read_cases(tmp_path, fold, num_folds=3, seed=seed, num_validation=number).validation
            left = [case for case in cases.validation if case not in one]
            assert one and not patients(one) & patients(left)
        every = ids(cases.pretraining(include_val_images=True))
        assert sorted(every) == [*(f"c{index}" for index in range(10)), "u0", "u1", "u2"]
    assert sorted(held_out) == [f"c{index}" for index in range(10)]


def test_patients_with_one_scan_each_are_split_as_cases_without_a_name(tmp_path, content):
    before = [read_cases(tmp_path, fold, num_labeled=3) for fold in range(5)]
    names = [f"{index:02d}" for index in range(13, 0, -1)]
    write_datalist(tmp_path, with_patients(content, names))
    assert [read_cases(tmp_path, fold, num_labeled=3) for fold in range(5)] == before


def test_scans_of_a_single_patient_are_shared_by_training_and_validation(tmp_path, content, caplog):
    write_datalist(tmp_path, with_patients(content, ["p"] * 13))
    cases = read_cases(tmp_path)
    assert sorted(ids(cases.training)) == sorted(ids(cases.validation)) and len(cases.unlabeled) == 3
    assert "has labels of one patient, so training and validation share them" in caplog.text
    assert len(read_cases(tmp_path, num_labeled=1).training) == 10
    assert "num_labeled: 1 asked for, 10 used, since the scans of a patient stay together" in caplog.text


def test_normal_scans_follow_the_fold_of_their_patient(tmp_path, organs):
    """A normal block of a patient was learned from while the labeled scan was held out."""
    training = [{**case, "patient": f"p{index}"} for index, case in enumerate(organs["training"])]
    normal = [{"image": f"normal/n{index}.nii.gz", "patient": f"p{index}"} for index in range(6)]
    write_datalist(tmp_path, {**organs, "training": training, "normal": normal})
    for fold in range(5):
        cases = read_cases(tmp_path, fold)
        away = {name.replace("c", "n") for name in ids(cases.validation)}
        assert {*ids(cases.normal_validation)} == away & {*ids(cases.normal)}
        assert cases.normals("training") and cases.normals("validation")


@pytest.mark.parametrize("key", ["training", "unlabeled", "normal"])
def test_refuses_a_patient_who_is_learned_from_and_tested_with(tmp_path, organs, key):
    listed = [
        {**case, "patient": "p"} if isinstance(case, dict) else {"image": case, "patient": "p"} for case in organs[key]
    ]
    test = [{**organs["test"][1], "patient": "p"}]
    write_datalist(tmp_path, {**organs, key: listed[:2], "test": test})
    with pytest.raises(
        ValueError, match="scans of a patient must stay together, got patient p in test and another list"
    ):
        read_cases(tmp_path)


@pytest.mark.parametrize("way", ["validation", "folds", "fold"])
def test_refuses_a_patient_whom_the_file_cuts_apart(tmp_path, content, way):
    training = [{**case, "patient": "p", "fold": index % 2} for index, case in enumerate(content["training"])]
    plain = [{key: value for key, value in case.items() if key != "fold"} for case in training]
    listed = {
        "validation": {**content, "training": plain[:5], "validation": plain[5:]},
        "folds": {**content, "training": plain, "folds": [["c1"], ["c2"]]},
        "fold": {**content, "training": training},
    }[way]
    write_datalist(tmp_path, listed)
    with pytest.raises(
        ValueError, match="a patient must stay together, got patient p in training and validation; move"
    ):
        read_cases(tmp_path)


@pytest.fixture
def channels(tmp_path, content):
    """The first four training cases with two files each, and an unlabeled one."""
    training = []
    for index in range(4):
        files = [f"imagesTr/m{index}_000{channel}.nii.gz" for channel in range(2)]
        for seed, file in enumerate(files):
            save(tmp_path / file, 10 * index + seed + 500)
        training.append({"image": files, "label": f"labelsTr/c{index}.nii.gz"})
    for channel in range(2):
        save(tmp_path / f"imagesUn/v_000{channel}.nii.gz", 900 + channel)
    unlabeled = [{"image": [f"imagesUn/v_000{channel}.nii.gz" for channel in range(2)]}]
    listed = {"labels": LABELS, "modality": {"1": "T1w", "0": "FLAIR"}, "training": training, "unlabeled": unlabeled}
    write_datalist(tmp_path, listed)
    return listed


def test_an_image_may_have_a_file_for_each_channel(tmp_path, channels):
    cases = read_cases(tmp_path)
    assert cases.modality == ["FLAIR", "T1w"]
    assert sorted(ids([*cases.training, *cases.validation])) == ["m0", "m1", "m2", "m3"]
    for case in cases.pretraining(include_val_images=True):
        assert [Path(file).is_absolute() and file[-8] for file in case["image"]] == ["0", "1"]
    write_datalist(tmp_path, {**channels, "folds": [["m3"], ["m0", "m1"]]})
    assert ids(read_cases(tmp_path, fold=1).validation) == ["m0", "m1"]
    assert len(read_images(tmp_path)[0][0]) == 2


def test_refuses_channels_that_are_missing_off_the_grid_listed_twice_or_without_a_name(tmp_path, channels):
    write_datalist(tmp_path, {**channels, "modality": "FLAIR"})
    with pytest.raises(
        ValueError, match=r"modality must name each of the 2 channels of .*m0_0000.nii.gz, got \['FLAIR'\]"
    ):
        read_cases(tmp_path)
    write_datalist(tmp_path, {**channels, "unlabeled": [channels["unlabeled"][0]["image"][0]]})
    with pytest.raises(
        ValueError, match=r"v_0000.nii.gz: image must hold the 2 channel.s. that modality names in .*, got 1"
    ):
        read_cases(tmp_path)
    write_datalist(tmp_path, {**channels, "unlabeled": [{"image": ["imagesUn/v_0000.nii.gz"] * 2}]})
    with pytest.raises(ValueError, match=r"v_0000.nii.gz: must be listed once, got it twice; remove one"):
        read_cases(tmp_path)
    write_datalist(tmp_path, {**channels, "unlabeled": [{"image": []}]})
    with pytest.raises(ValueError, match="image must name a file, or one for each channel, got an empty list"):
        read_cases(tmp_path)
    write_datalist(tmp_path, channels)
    save(tmp_path / "imagesTr/m2_0001.nii.gz", 0, shape=(6, 5, 3))
    with pytest.raises(ValueError, match=r"m2_0001.nii.gz: channel must have the shape of its image"):
        read_cases(tmp_path)
    (tmp_path / "imagesTr/m2_0001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"m2_0001.nii.gz: must exist, got no such file"):
        read_cases(tmp_path)


def test_files_and_folders_may_be_links_and_broken_ones_are_named(tmp_path, content):
    store, root = tmp_path / "store", tmp_path / "linked"
    store.mkdir()
    root.mkdir()
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesUn"):
        (tmp_path / name).rename(store / name)
        (root / name).symlink_to(store / name)
    write_datalist(root, content)
    assert len(read_cases(root).training) == 8
    (store / "imagesTr/c1.nii.gz").rename(store / "c1.nii.gz")
    (store / "imagesTr/c1.nii.gz").symlink_to("../c1.nii.gz")
    assert len(read_cases(root).training) == 8
    (store / "c1.nii.gz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"c1.nii.gz: must exist, is a link to ../c1.nii.gz, which does not exist"
    ):
        read_cases(root)
    (root / "imagesTr").unlink()
    (root / "imagesTr").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"imagesTr is a link to .*nowhere, which does not exist \(10 missing"):
        read_cases(root)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("imagesTr\\c1.nii.gz", "must exist, got no such file .1 missing in all.; write / between folders"),
        ("imagesUn/v.nii.gz", "must exist, got no such file .1 missing in all.; list v_0000.nii.gz, which is there"),
        ("imagesUn", "must be a file or hold a DICOM series, got another folder"),
    ],
)
def test_a_missing_file_is_told_from_another_name_for_it(tmp_path, content, name, match):
    """Windows writes other paths, and nnU-Net's first version lists other names than those of its files."""
    save(tmp_path / "imagesUn/v_0000.nii.gz", 99)
    write_datalist(tmp_path, {**content, "unlabeled": [name]})
    with pytest.raises(FileNotFoundError, match=match):
        read_cases(tmp_path)


def test_one_file_under_two_names_of_links_is_listed_twice(tmp_path, content):
    (tmp_path / "imagesUn/w.nii.gz").symlink_to(tmp_path / "imagesTr/c1.nii.gz")
    write_datalist(tmp_path, {**content, "unlabeled": ["imagesUn/w.nii.gz"]})
    with pytest.raises(ValueError, match=r"w.nii.gz: must be listed once, got it twice, also as .*imagesTr/c1.nii.gz"):
        read_cases(tmp_path)


def test_keys_without_a_meaning_are_named_in_one_warning(tmp_path, content, caplog):
    content["training"][0]["scanner"] = "A"
    content["unlabeled"][0] = {"image": content["unlabeled"][0], "label": "labelsTr/c0.nii.gz"}
    write_datalist(tmp_path, {**content, "hospital": "B"})
    read_cases(tmp_path)
    (record,) = caplog.records
    for name in ("hospital", "scanner (of a case of training)", "label (of a case of unlabeled)"):
        assert name in record.getMessage()


def test_one_file_may_hold_all_channels(tmp_path, content):
    save(tmp_path / "imagesUn/u0.nii.gz", 99, shape=(6, 5, 4, 2))
    listed = {"unlabeled": ["imagesUn/u0.nii.gz"]}
    write_datalist(tmp_path, {**listed, "modality": ["FLAIR", "T1w"]})
    assert len(read_cases(tmp_path).unlabeled) == 1
    write_datalist(tmp_path, listed)
    with pytest.raises(
        ValueError, match=r"u0.nii.gz: image must hold the 1 channel.s. that .*got 2; name all 2 in modality"
    ):
        read_cases(tmp_path)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, content):
    """Pictures and folds of one folder per patient, whose files have one name, were mixed up."""
    for index in range(3):
        save(tmp_path / f"p{index}/image.nii.gz", 700 + index)
    training = [{"image": f"p{index}/image.nii.gz", "label": f"labelsTr/c{index}.nii.gz"} for index in range(3)]
    write_datalist(tmp_path, {**content, "training": training, "folds": [["p1_image"], ["p0_image", "p2_image"]]})
    cases = read_cases(tmp_path, fold=1)
    assert [case["case_id"] for case in cases.validation] == ["p0_image", "p2_image"]
    assert all("case_id" not in case for case in [*cases.test, *cases.pretraining()])
    (tmp_path / "p2/image.nii.gz").rename(tmp_path / "p1/image.nii")
    training[2]["image"] = "p1/image.nii"
    write_datalist(tmp_path, {**content, "training": training})
    with pytest.raises(
        ValueError, match=r"p1/image.nii: files must have different names, got also .*image.nii.gz; rename"
    ):
        read_cases(tmp_path)
