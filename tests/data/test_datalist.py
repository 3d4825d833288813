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
        ({"num_labeled": 0}, "num_labeled must be between 1 and 8 .*, got 0"),
        ({"num_labeled": 9}, "num_labeled must be between 1 and 8 .*, got 9"),
        ({"num_validation": 0}, "num_validation must be 1 or more, got 0"),
    ],
)
def test_refuses_arguments_out_of_range(tmp_path, content, arguments, match):
    with pytest.raises(ValueError, match=match):
        read_cases(tmp_path, **arguments)


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
        ('{"training": {}}', "training must be a list, got a dict"),
        ('{"normal": {}}', "normal must be a list, got a dict"),
        ('{"normal": [{"organ": "a.nii"}]}', "every case must have image, got"),
        ('{"training": [{"image": "a.nii"}]}', "every case must have image and label, got"),
        ('{"training": ["a.nii"]}', "every case must have image and label, got a.nii"),
    ],
)
def test_refuses_a_malformed_datalist(tmp_path, text, match):
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"dataset\.json: {match}"):
        read_cases(tmp_path)


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
    assert (len(cases.normal), cases.training, cases.pretraining()) == (6, [], [])


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
