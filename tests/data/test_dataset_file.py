"""Laws of reading dataset.json in each of its forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data import case_id, read_dataset_file, read_names


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a dataset.json and empty files, and returns the path of the former."""

    def run(content, files=()) -> Path:
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
        return tmp_path / "dataset.json"

    return run


NNUNET = {
    "channel_names": {"0": "FLAIR", "1": "T1w"},
    "labels": {"background": 0, "edema": 1, "tumor": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
}
FILES = [f"imagesTr/LA_000{case}_000{channel}.nii.gz" for case in range(2) for channel in range(2)]
FILES += [f"labelsTr/LA_000{case}.nii.gz" for case in range(2)]
FILES += [f"imagesTs/LA_0007_000{channel}.nii.gz" for channel in range(2)]


def test_cases_of_nnunet_are_found_by_their_names(write, tmp_path):
    """Version 2 lists no cases."""
    found = read_dataset_file(write(NNUNET, [*FILES, "imagesTr/.hidden_0000.nii.gz", "imagesTr/notes.txt"]))
    assert (found.modality, found.unused) == (["FLAIR", "T1w"], [])
    assert found.labels == {0: "background", 1: "edema", 2: "tumor"}
    assert [case.item for case in found.training] == [
        {
            "image": [str(tmp_path / f"imagesTr/LA_000{case}_000{channel}.nii.gz") for channel in range(2)],
            "label": str(tmp_path / f"labelsTr/LA_000{case}.nii.gz"),
        }
        for case in range(2)
    ]
    assert [list(case.item) for case in found.test] == [["image"]]


def test_one_channel_of_nnunet_is_one_file(write, tmp_path):
    found = read_dataset_file(
        write(
            {**NNUNET, "channel_names": {"0": "CT"}, "numTraining": 1},
            ["imagesTr/a.b_0000.nii.gz", "labelsTr/a.b.nii.gz"],
        )
    )
    assert [case.item["image"] for case in found.training] == [str(tmp_path / "imagesTr/a.b_0000.nii.gz")]
    assert found.test == []


@pytest.mark.parametrize(
    ("change", "files", "match"),
    [
        ({"numTraining": 3}, FILES, "numTraining must be the number of cases in imagesTr, 2, got 3"),
        ({}, FILES[1:], "LA_0000_0001.nii.gz: its case must have the channels _0000 to _0001, got _0001"),
        (
            {},
            [*FILES, "imagesTr/LA_0000_0002.nii.gz"],
            "must have the channels _0000 to _0001, got _0000, _0001, _0002",
        ),
        ({}, [*FILES, "imagesTr/LA.nii.gz"], "LA.nii.gz: name must end in the number of its channel, such as _0000"),
        ({}, [*FILES, "labelsTr/LA_0009.nii.gz"], "LA_0009.nii.gz: must have an image in imagesTr, got none"),
        (
            {},
            [f for f in FILES if f != "labelsTr/LA_0001.nii.gz"],
            "LA_0001_0000.nii.gz: must have a label in labelsTr",
        ),
        ({"file_ending": ".tif"}, FILES, "file_ending must be one of .nii.gz, .* got '.tif'"),
        ({"file_ending": "nii.gz"}, FILES, "file_ending must be one of .nii.gz, .* got 'nii.gz'"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            FILES,
            "got the region 'whole' of .1, 2.; name each",
        ),
        ({"modality": {"0": "CT", "1": "PET"}}, FILES, "modality and channel_names must be the same, got"),
        ({"dataset": {"LA": {}}}, FILES, "cases must be listed as training, got nnU-Net's dataset"),
    ],
)
def test_refuses_what_does_not_fit_nnunet(write, change, files, match):
    with pytest.raises(ValueError, match=match):
        read_dataset_file(write({**NNUNET, **change}, files))


def test_files_that_another_list_names_are_no_training_cases_of_nnunet(write):
    spare = [f"imagesTr/LA_0009_000{channel}.nii.gz" for channel in range(2)]
    found = read_dataset_file(write({**NNUNET, "unlabeled": [{"image": spare}]}, [*FILES, *spare]))
    assert (len(found.training), len(found.unlabeled)) == (2, 1)


def test_testing_is_another_word_for_test(write, tmp_path):
    found = read_dataset_file(write({"testing": ["a.nii"]}))
    assert [case.item for case in found.test] == [{"image": str(tmp_path / "a.nii")}]
    with pytest.raises(ValueError, match="test cases must stand in test or in testing, got both; keep one list"):
        read_dataset_file(write({"testing": ["a.nii"], "test": ["b.nii"]}))


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        ("CT", ["CT"]),
        ("", [""]),
        ({}, [""]),
        (["FLAIR", "T1w"], ["FLAIR", "T1w"]),
        ({str(channel): f"m{channel}" for channel in (10, 2, 1, 0, 3, 4, 5, 6, 7, 8, 9)}, [f"m{c}" for c in range(11)]),
    ],
)
def test_channels_are_named_in_the_order_of_their_numbers(write, modality, names):
    assert read_names(write({"modality": modality}))[1] == names


@pytest.mark.parametrize("modality", [{"1": "CT"}, {"a": "CT"}, 3, None, [3], {"0": "CT", "00": "MR"}, {"0": ["CT"]}])
def test_refuses_channels_without_a_name_or_number(write, modality):
    with pytest.raises(ValueError, match="modality must name the channels of an image by their number"):
        read_names(write({"modality": modality}))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lables", "labels"),
        ("unlabelled", "unlabeled"),
        ("trainning", "training"),
        ("Training", "training"),
        ("train", "training"),
        ("validaton", "validation"),
        ("val", "validation"),
        ("fold", "folds"),
        ("normals", "normal"),
    ],
)
def test_refuses_a_key_that_is_close_to_a_known_one(write, key, meant):
    with pytest.raises(ValueError, match=f"the file must have known keys, got '{key}'; did you mean '{meant}'"):
        read_dataset_file(write({key: []}))


@pytest.mark.parametrize(
    ("key", "meant"), [("images", "image"), ("lable", "label"), ("mask", "label"), ("patient_id", "patient")]
)
def test_refuses_a_key_of_a_case_that_is_close_to_a_known_one(write, key, meant):
    case = {"image": "a.nii", "label": "b.nii", key: "c"}
    with pytest.raises(
        ValueError, match=f"a case of training must have known keys, got '{key}'; did you mean '{meant}'"
    ):
        read_dataset_file(write({"training": [case]}))


def test_metadata_is_left_alone_and_other_keys_are_named(write):
    names = ("description", "reference", "licence", "license", "release", "tensorImageSize", "numTraining", "numTest")
    names += ("overwrite_image_reader_writer", "regions_class_order", "name", "source", "renumbered", "_comment")
    content = {**dict.fromkeys(names, 0), "training": [{"image": "a", "label": "b", "id": 3}]}
    assert read_dataset_file(write(content)).unused == []
    assert read_dataset_file(write({**content, "hospital": 1, "test": [{"image": "c", "fold": 0}]})).unused == [
        "hospital",
        "fold (of a case of test)",
    ]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"training": [], "training": []}', "each key must stand once, got 'training' twice"),
        ('{"folds": ["c1", "c2"]}', "folds must be a list of lists of case ids"),
        ('{"validation": ["a.nii"]}', "every case must have image and label, got 'a.nii'; write"),
        (
            '{"training": [{"image": "a", "label": "b", "fold": "0"}]}',
            "fold of a case must be a whole number .* got '0'",
        ),
        (
            '{"training": [{"image": "a", "label": "b", "fold": true}]}',
            "fold of a case must be a whole number .* got True",
        ),
        (
            '{"training": [{"image": "a", "label": "b", "patient": 7}]}',
            "patient must be the name .* got 7; write it as text",
        ),
        ('{"labels": {"0": "background", "1": "a", "2": "a"}}', "labels must have different names, got 'a' twice"),
        ("[" * 100_000, "must be JSON"),
        ('{"numTraining": 3}', "file_ending must be one of .* where no training cases are listed, got None"),
    ],
)
def test_refuses_a_malformed_file(write, text, match):
    with pytest.raises(ValueError, match=rf"dataset\.json: {match}"):
        read_dataset_file(write(text))


def test_a_byte_order_mark_is_no_matter(write):
    assert read_dataset_file(write("\ufeff{}")).training == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("imagesTr/case_1.nii.gz", "case_1"),
        ("a.b.NII.GZ", "a.b"),
        ("LA_0000_0000.nii.gz", "LA_0000_0000"),
        (["LA_0000_0000.nii.gz"], "LA_0000_0000"),
        (["x/LA_0000_0000.nii.gz", "x/LA_0000_0001.nii.gz"], "LA_0000"),
        (["flair.nii.gz", "t1.nii.gz"], "flair"),
    ],
)
def test_a_case_has_the_name_of_its_first_file(path, name):
    assert case_id(path) == name


def test_a_number_of_training_cases_that_is_not_that_of_the_list_is_told(write, caplog):
    content = {"labels": {"0": "background", "1": "liver"}, "training": [{"image": "a.nii", "label": "b.nii"}]}
    for number, told in ((1, False), (5, True)):
        read_dataset_file(write({**content, "numTraining": number}))
        assert ("numTraining is 5, training lists 1 cases" in caplog.text) is told


# ---- labels that leave something open ------------------------------------------------------------

WHOLE = {"0": "background", "1": "liver", "2": "spleen"}
PAIR = {"image": "i.nii.gz", "label": "l.nii.gz"}


def test_a_case_carries_what_its_label_leaves_open(write):
    content = {"labels": WHOLE, "ignore": 255, "training": [{**PAIR, "classes": ["spleen"]}], "test": ["t.nii.gz"]}
    found = read_dataset_file(write(content))
    assert (found.ignore, found.unused) == (255, [])
    assert found.training[0].item["ignore"] == 255
    assert found.training[0].item["classes"] == [0, 2]
    assert {"ignore", "classes"}.isdisjoint(found.test[0].item)  # it has no label


@pytest.mark.parametrize("classes", [[1, 2], ["liver", 2], ["spleen", "liver", "background"], [2, 1, 1, 0]])
def test_classes_of_a_case_are_values_or_names_in_any_order(write, classes):
    found = read_dataset_file(write({"labels": WHOLE, "training": [{**PAIR, "classes": classes}]}))
    assert found.training[0].item["classes"] == [0, 1, 2]


@pytest.mark.parametrize("classes", [[], [0], ["background"], [3], ["kidney"], "liver", 1, None, [True], [1.0], [[1]]])
def test_classes_that_are_none_of_the_data_set_are_refused(write, classes):
    with pytest.raises(ValueError, match=r"classes of a case must be a list of classes .*; name some of liver, spleen"):
        read_dataset_file(write({"labels": WHOLE, "training": [{**PAIR, "classes": classes}]}))


@pytest.mark.parametrize("key", ["class", "clases", "Classes"])
def test_a_typo_in_classes_is_refused(write, key):
    with pytest.raises(
        ValueError, match=rf"a case of training must have known keys, got '{key}'; did you mean 'classes'"
    ):
        read_dataset_file(write({"labels": WHOLE, "training": [{**PAIR, key: [1]}]}))


@pytest.mark.parametrize("value", [0, 2, True, "255", 255.0, [255]])
def test_a_value_that_cannot_be_ignored_is_refused(write, value):
    with pytest.raises(ValueError, match=r"ignore must be the value of voxels that are not labeled, .*; 255 is usual"):
        read_dataset_file(write({"labels": WHOLE, "ignore": value, "training": [PAIR]}))


def test_the_ignored_label_of_nnunet_is_no_class(write):
    labels = {**NNUNET["labels"], "ignore": 3}
    found = read_dataset_file(write({**NNUNET, "labels": labels}, FILES))
    assert found.ignore == 3
    assert found.labels == {0: "background", 1: "edema", 2: "tumor"}
    assert [case.item["ignore"] for case in found.training] == [3, 3]
    assert read_names(write({**NNUNET, "labels": labels}))[0] == found.labels


@pytest.mark.parametrize(("value", "key"), [(1, None), ("x", None), (3, 4)])
def test_an_ignored_label_of_nnunet_that_is_a_class_or_contradicts_ignore_is_refused(write, value, key):
    labels = {**NNUNET["labels"], "ignore": value}
    with pytest.raises(ValueError, match="ignore must be the value of voxels that are not labeled"):
        read_dataset_file(write({**NNUNET, "labels": labels, **({} if key is None else {"ignore": key})}, FILES))
