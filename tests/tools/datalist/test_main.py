"""Laws of the command that lists the scans of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.data import read_cases
from tools.datalist.__main__ import datalist


@pytest.fixture
def make(tmp_path):
    """Make small volumes of the given names, with labels 0, 1 and 2 in them."""

    def run(folder, *names):
        (tmp_path / folder).mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            array = np.random.RandomState([seed, len(folder)]).randint(0, 3, (6, 5, 4)).astype(np.uint8)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / name)
        return tmp_path

    return run


def read(root):
    return json.loads((root / "dataset.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a.nii.gz", "b.nii.gz"], ["a.nii.gz", "b.nii.gz"]),
        (["a_0000.nii.gz", "b_0000.nii.gz"], ["a.nii.gz", "b.nii.gz"]),
        (["a.nii.gz", "b.nii"], ["a_seg.nii", "b_label.nii.gz"]),
        (["A.NII.GZ", "b.nii.gz"], ["a-mask.nii.gz", "B.nii.gz"]),
        (["volume-1.nii", "volume-10.nii"], ["segmentation-1.nii", "segmentation-10.nii"]),
        (["img_1_0000.nii", "img_2_0000.nii"], ["label_1.nii", "label_2.nii"]),
    ],
)
def test_pairs_by_name(make, images, labels):
    make("imagesTr", *images)
    root = make("labelsTr", *labels)
    datalist(str(root))
    expected = [{"image": f"imagesTr/{i}", "label": f"labelsTr/{k}"} for i, k in zip(images, labels, strict=True)]
    assert sorted(read(root)["training"], key=str) == sorted(expected, key=str)


def test_what_it_writes_is_what_the_bundles_read(make):
    make("imagesTr", "a.nii.gz", "b.nii.gz")
    make("labelsTr", "a.nii.gz", "b.nii.gz")
    make("imagesTs", "t.nii.gz", "u.nii.gz")
    make("labelsTs", "t.nii.gz")
    root = make("imagesUn", "c.nii.gz", ".hidden.nii.gz")
    said = datalist(
        str(root),
        test_images="imagesTs",
        test_labels="labelsTs",
        unlabeled="imagesUn",
        modality="MRI",
        label_names="x,y,z",
    )
    assert said.endswith("dataset.json: 2 training, 2 test and 1 unlabeled cases")
    cases = read_cases(root, num_folds=2)
    assert (cases.labels, cases.modality) == ({0: "x", 1: "y", 2: "z"}, ["MRI"])
    assert [list(case) for case in cases.test] == [["image", "label"], ["image"]]
    assert len(cases.unlabeled) == 1


def test_finds_the_labels_in_the_files_when_no_names_are_given(make):
    make("imagesTr", "a.nii")
    root = make("labelsTr", "a.nii")
    datalist(str(root))
    assert read(root)["labels"] == {"0": "background", "1": "label_1", "2": "label_2"}


def test_refuses_labels_with_a_gap(make, tmp_path):
    make("imagesTr", "a.nii")
    root = make("labelsTr", "a.nii")
    nib.save(nib.Nifti1Image(np.full((6, 5, 4), 255, np.uint8), np.eye(4)), root / "labelsTr/a.nii")
    with pytest.raises(ValueError, match=r"labels must be numbered 0, 1, 2 and so on.* got \[0, 255\] .*--renumber"):
        datalist(str(root))


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (
            ["a.nii", "b.nii", "c.nii"],
            ["a.nii", "c.nii"],
            r"b\.nii: image must have a label in labelsTr, got none \(1 ",
        ),
        (["a_0000.nii", "a_0001.nii"], ["a.nii"], "--modality must name each of the 2 channels of an image, such as"),
        (["a.nii"], ["a.nii", "b.nii"], r"b\.nii: label must have an image, got none"),
        (["a.nii", "a.nii.gz"], ["a.nii"], r"a\.nii: only one file must be called 'a', got \['a.nii', 'a.nii.gz'\]"),
        (["a.nii", "b.nii"], ["a.nii", "b_seg.nii", "b_label.nii"], "only one file must be called 'b'"),
    ],
)
def test_refuses_what_does_not_pair(make, images, labels, match):
    make("imagesTr", *images)
    root = make("labelsTr", *labels)
    with pytest.raises(ValueError, match=match):
        datalist(str(root))
    assert not (root / "dataset.json").exists()


def test_images_without_a_label_are_unlabeled_when_their_folder_is(make):
    make("imagesTr", "a.nii", "b.nii", "c.nii")
    root = make("labelsTr", "a.nii", "c.nii")
    datalist(str(root), unlabeled="imagesTr")
    assert read(root)["unlabeled"] == ["imagesTr/b.nii"]


def test_organs_pair_by_name_with_images_of_every_list_and_normal_scans_are_listed(make):
    make("imagesTr", "a_0000.nii", "b_0000.nii")
    make("labelsTr", "a.nii", "b.nii")
    make("imagesTs", "t.nii")
    make("imagesUn", "u.nii", "v.nii")
    make("imagesNo", "n.nii", "o.nii")
    root = make("organs", "a.nii", "t_organ.nii", "u_mask.nii", "n.nii")
    options = {"test_images": "imagesTs", "unlabeled": "imagesUn", "normal": "imagesNo"}
    said = datalist(str(root), **options, organs="organs")
    assert said.endswith("2 training, 1 test and 2 unlabeled cases, 2 without a tumor; 4 of all have an organ")
    assert read(root)["training"] == [
        {"image": "imagesTr/a_0000.nii", "label": "labelsTr/a.nii", "organ": "organs/a.nii"},
        {"image": "imagesTr/b_0000.nii", "label": "labelsTr/b.nii"},
    ]
    assert read(root)["test"] == [{"image": "imagesTs/t.nii", "organ": "organs/t_organ.nii"}]
    assert read(root)["unlabeled"] == [{"image": "imagesUn/u.nii", "organ": "organs/u_mask.nii"}, "imagesUn/v.nii"]
    assert read(root)["normal"] == [{"image": "imagesNo/n.nii", "organ": "organs/n.nii"}, "imagesNo/o.nii"]
    assert len(read_cases(root, num_folds=2).normal) == 2
    make("organs", "x.nii")
    with pytest.raises(ValueError, match=r"x\.nii: organ must have an image, got none \(1 such organs in all\)"):
        datalist(str(root), **options, organs="organs", overwrite=True)


def test_overwrites_only_when_told_to(make):
    make("imagesTr", "a.nii")
    root = make("labelsTr", "a.nii")
    datalist(str(root), modality="CT")
    with pytest.raises(ValueError, match=r"dataset\.json: must not exist without --overwrite"):
        datalist(str(root), modality="MRI")
    assert read(root)["modality"] == {"0": "CT"}
    datalist(str(root), modality="MRI", overwrite=True)
    assert read(root)["modality"] == {"0": "MRI"}


def test_refuses_empty_missing_and_foreign_folders(make, tmp_path):
    root = make("imagesTr")
    with pytest.raises(ValueError, match=r"imagesTr: must hold \.nii\.gz, .* files, got none"):
        datalist(str(root))
    with pytest.raises(FileNotFoundError, match="imagesXx: must be a folder, got nothing there"):
        datalist(str(root), images="imagesXx")
    with pytest.raises(ValueError, match="must lie inside"):
        datalist(str(root), images="..")


def test_phantoms_whose_names_look_like_numbers_and_code_are_listed_as_they_were(tmp_path, monkeypatch, run_tool):
    monkeypatch.chdir(tmp_path)
    root = Path("007")
    counts = ["--num_training", "2", "--num_test", "0", "--num_unlabeled", "0", "--size", "16"]
    said = run_tool("tools.phantom", str(root), *counts).out
    assert said.endswith("2 training, 0 test and 0 unlabeled phantoms\n")
    options = ["--label_names", "background,$liver,right kidney,a,b", "--modality=CT", "--overwrite"]
    run_tool("tools.datalist", str(root), *options)
    assert read(root)["name"] == "007"
    assert list(read(root)["labels"].values()) == ["background", "$liver", "right kidney", "a", "b"]
    assert list(read(root)) == ["name", "modality", "labels", "training", "test", "unlabeled"]
    assert run_tool("tools.phantom", "8", *counts, "--lesions", "--num_normal=1").out.endswith("1 without lesions\n")
    written = read(Path("8"))
    options = ["--normal", "imagesNo", "--organs", "organs", "--label_names=background,tumor", "--overwrite"]
    run_tool("tools.datalist", "8", *options)
    assert all(read(Path("8"))[name] == written[name] for name in ("training", "normal", "labels"))


def test_pictures_are_listed_where_a_folder_holds_no_volumes(make, tmp_path):
    root = make("imagesTr", "a.nii")
    make("labelsTr", "a.nii")
    for folder, name in (("imagesTr", "preview.png"), ("pictures", "p_0000.png"), ("masks", "p.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) % 2).save(tmp_path / folder / name)
    datalist(str(root))
    assert read(root)["training"] == [{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}]
    datalist(str(root), images="pictures", labels="masks", overwrite=True)
    assert read(root)["training"] == [{"image": "pictures/p_0000.png", "label": "masks/p.png"}]
    assert read(root)["labels"] == {"0": "background", "1": "label_1"}
