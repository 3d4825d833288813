"""Laws of the command that lists the scans of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import itk
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


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["LA_0000_0000.nii", "LA_0001_0000.nii"], ["LA_0000.nii", "LA_0001.nii"]),
        (["LA_0000.nii", "LA_0001.nii"], ["LA_0000.nii", "LA_0001.nii"]),
        (["LA_0000.nii", "LA_0001.nii"], ["LA_0000_seg.nii", "LA_0001_seg.nii"]),
        (["img0001.nii", "img0002.nii"], ["label0001.nii", "label0002.nii"]),
        (["A-0003_ct.nii", "A-0004_ct.nii"], ["A-0003_seg.nii", "A-0004_seg.nii"]),
        (["img_0000.nii", "img_0001.nii"], ["label_0000.nii", "label_0001.nii"]),
        (["1.2.840.1_0000.NII", "1.2.840.10_0000.NII"], ["1.2.840.1.NII.GZ", "1.2.840.10.NII.GZ"]),
    ],
)
@pytest.mark.parametrize("modality", ["", "CT"])
def test_numbers_in_names_are_channels_only_at_the_end_of_images(make, images, labels, modality):
    """`_0000` was cut off labels, too, so that cases numbered from 0000 were one."""
    make("imagesTr", *images)
    root = make("labelsTr", *labels)
    datalist(str(root), modality=modality)
    found = [(Path(case["image"]).name, Path(case["label"]).name) for case in read(root)["training"]]
    assert sorted(found) == sorted(zip(images, labels, strict=True))
    assert read(root)["modality"] == {"0": modality}


def channel_names(*cases):
    return [f"{case}_000{channel}.nii" for case in cases for channel in range(2)]


def test_channels_of_a_case_become_a_list(make):
    make("imagesTr", *channel_names("LA_0000", "LA_0001", "LA_0002"))
    make("labelsTr", "LA_0000.nii", "LA_0001.nii")
    make("imagesTs", *channel_names("LA_0009"))
    root = make("organs", "LA_0001.nii")
    datalist(str(root), modality="FLAIR,T1w", unlabeled="imagesTr", test_images="imagesTs", organs="organs")
    content = read(root)
    assert content["modality"] == {"0": "FLAIR", "1": "T1w"}
    images = [f"imagesTr/{name}" for name in channel_names("LA_0001")]
    assert content["training"][1] == {"image": images, "label": "labelsTr/LA_0001.nii", "organ": "organs/LA_0001.nii"}
    assert content["unlabeled"] == [{"image": [f"imagesTr/{name}" for name in channel_names("LA_0002")]}]
    cases = read_cases(root)
    assert len(cases.training) == 1 and all(len(case["image"]) == 2 for case in cases.pretraining())


@pytest.mark.parametrize(
    ("images", "options", "match"),
    [
        (
            channel_names("a", "b")[:3],
            {"modality": "A,B"},
            r"b_0000.nii: its case must have the channels _0000 to _0001",
        ),
        (channel_names("a", "b"), {"modality": "A,B,C"}, r"a_0000.nii: its case must have the channels _0000 to _0002"),
        (channel_names("a", "b"), {"modality": "CT"}, r"--modality must name each of the 2 channels .*, got 'CT'"),
        (channel_names("a", "b"), {"modality": "CT,"}, r"--modality must name each channel, .*, got 'CT,'"),
    ],
)
def test_refuses_channels_that_are_not_all_there_or_without_names(make, images, options, match):
    make("imagesTr", *images)
    root = make("labelsTr", "a.nii", "b.nii")
    with pytest.raises(ValueError, match=match):
        datalist(str(root), **options)


def test_names_and_channels_come_from_the_file_of_nnunet(make):
    make("imagesTr", *channel_names("a", "b"))
    root = make("labelsTr", "a.nii", "b.nii")
    names = {"channel_names": {"0": "FLAIR", "1": "T1w"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}
    (root / "dataset.json").write_text(json.dumps({**names, "file_ending": ".nii", "numTraining": 2}))
    as_it_is = read_cases(root)
    datalist(str(root), overwrite=True)
    assert read(root)["modality"] == names["channel_names"]
    assert read(root)["labels"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert read_cases(root).training == as_it_is.training


def test_folders_of_patients_are_named_by_patterns(make):
    for number in (1, 2, 10):
        make(f"p{number}", "flair.nii.gz", "t1.nii.gz", "seg.nii.gz")
    root = make("p3", "flair.nii.gz", "t1.nii.gz")
    make(".hidden", "flair.nii.gz")
    images = "*/flair.nii.gz, */t1.nii.gz"
    datalist(str(root), images=images, labels="*/seg.nii.gz", unlabeled=images, modality="FLAIR,T1w")
    assert read(root)["training"] == [
        {"image": [f"{p}/flair.nii.gz", f"{p}/t1.nii.gz"], "label": f"{p}/seg.nii.gz", "patient": p}
        for p in ("p1", "p10", "p2")
    ]
    assert read(root)["unlabeled"] == [{"image": ["p3/flair.nii.gz", "p3/t1.nii.gz"], "patient": "p3"}]
    assert len(read_cases(root).training) == 2


def test_visits_of_a_patient_are_held_out_together(make, tmp_path):
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        for visit in ("1", "2"):
            root = make(f"{patient}/{visit}", f"{patient}{visit}_image.nii", f"{patient}{visit}_label.nii")
    datalist(str(root), images="*/*/*_image.nii", labels="*/*/*_label.nii")
    assert [case["patient"] for case in read(root)["training"]] == ["a", "a", "b", "b"]
    assert {Path(case["image"]).parts[-3] for case in read_cases(root).validation} in ({"a"}, {"b"})


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        ("*/x.nii", "*/label.nii", r"\*/x.nii: must match .* files, got none; look at the pattern"),
        ("**/image.nii", "*/label.nii", r"a \* must stand for one folder, got \*\*; write \*/\* for two"),
        ("*/image.nii,label.nii", "*/label.nii", r"every pattern must have a \*, got"),
        ("../*/image.nii", "*/label.nii", "must lie inside"),
        ("*/*.nii", "*/label.nii", r"label must have an image, got none"),
        (
            "*/image.nii,*/extra.nii",
            "*/label.nii",
            r"b/image.nii: must have a file for each channel, got none that matches",
        ),
        (".", "labels", r"must hold .* files, got none; files in folders are named as --images"),
    ],
)
def test_refuses_patterns_that_do_not_fit(make, images, labels, match):
    make("a", "image.nii", "label.nii", "extra.nii")
    root = make("b", "image.nii", "label.nii")
    with pytest.raises(ValueError, match=match):
        datalist(str(root), images=images, labels=labels, modality="A,B" if "," in images else "")


@pytest.mark.parametrize("names", ["background,x,x", "background,,x"])
def test_refuses_names_of_labels_that_do_not_tell_them_apart(make, names):
    make("imagesTr", "a.nii")
    root = make("labelsTr", "a.nii")
    with pytest.raises(ValueError, match=f"--label_names must be different names, got '{names}'; name each label"):
        datalist(str(root), label_names=names)


def test_refuses_an_image_that_is_its_own_label(make):
    root = make("imagesTr", "a.nii")
    with pytest.raises(
        ValueError, match=r"a.nii: label must be another file than its image; look at images and labels"
    ):
        datalist(str(root), labels="imagesTr")


def test_linked_folders_are_taken_and_broken_links_are_named(make, tmp_path):
    make("imagesTr", "a.nii")
    make("labelsTr", "a.nii")
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (root / name).symlink_to(tmp_path / name)
    datalist(str(root))
    assert read(root)["training"] == [{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}]
    (root / "imagesUn").symlink_to("nowhere")
    with pytest.raises(
        FileNotFoundError, match="imagesUn: must be a folder, got a link to nowhere, which does not exist"
    ):
        datalist(str(root), unlabeled="imagesUn", overwrite=True)
    (tmp_path / "imagesTr" / "b.nii").symlink_to("c.nii")
    with pytest.raises(FileNotFoundError, match=r"b.nii: must exist, is a link to c.nii, which does not exist"):
        datalist(str(root), overwrite=True)


def test_scans_without_any_label_are_a_data_set(make):
    root = make("imagesUn", "a.nii", "b.nii")
    said = datalist(str(root), unlabeled="imagesUn", modality="CT")
    assert said.endswith("0 training, 0 test and 2 unlabeled cases")
    assert len(read_cases(root).pretraining()) == 2
    root = make("imagesTr", "c.nii")
    datalist(str(root), unlabeled="imagesTr", overwrite=True)
    assert read(root)["unlabeled"] == ["imagesTr/c.nii"]


def save_segments(path, array, segments, dimension=3):
    """Write a segmentation as 3D Slicer does, each segment with a name and a value."""
    fields = {
        "type": "uint8",
        "dimension": dimension,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)),
        "space directions": " ".join(["none"] * (dimension - 3) + ["(1,0,0)", "(0,1,0)", "(0,0,1)"]),
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
    }
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items())
    for number, (name, value) in enumerate(segments.items()):
        text += f"Segment{number}_ID:=S\nSegment{number}_LabelValue:={value}\nSegment{number}_Name:={name}\n"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() + b"\n" + np.asfortranarray(array, np.uint8).tobytes(order="F"))


@pytest.fixture
def slicer(make, tmp_path):
    """Two cases whose segmentations have the given segments; voxel (i, 0, 0) of each has the value i."""

    def run(*segments, dimension=3):
        array = np.zeros((6, 5, 4) if dimension == 3 else (2, 6, 5, 4), np.uint8)
        if dimension == 3:
            array[:, 0, 0] = range(6)
        for name, found in zip("ab", segments, strict=False):
            kept = array if dimension == 4 else np.where(np.isin(array, [*found.values()]), array, 0)
            save_segments(tmp_path / "labelsTr" / f"{name}.seg.nrrd", kept, found, dimension)
        for name in "ab"[: len(segments)]:
            image = nib.Nifti1Image(
                np.arange(120, dtype=np.int16).reshape(6, 5, 4) + ord(name), np.diag([-1, -1, 1, 1])
            )
            (tmp_path / "imagesTr").mkdir(exist_ok=True)
            nib.save(image, tmp_path / "imagesTr" / f"{name}.nii.gz")
        return tmp_path

    return run


def test_segments_of_3d_slicer_name_the_labels(slicer):
    root = slicer({"liver": 1, "left kidney": 2}, {"liver": 1, "left kidney": 2, "spleen": 3})
    datalist(str(root))
    assert list(read(root)["labels"].values()) == ["background", "liver", "left kidney", "spleen"]
    assert read(root)["training"][0] == {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.seg.nrrd"}
    assert "renumbered" not in read(root)
    assert len(read_cases(root).training) == 1


def test_segments_of_one_name_get_one_value(slicer):
    """3D Slicer numbers segments in the order in which they were drawn."""
    root = slicer({"liver": 1, "spleen": 2}, {"spleen": 1, "liver": 2, "tumor": 5})
    with pytest.raises(
        ValueError, match=r"b.seg.nrrd: labels must be numbered .*, alike in all files, .*; pass --renumber"
    ):
        datalist(str(root))
    assert not (root / "dataset.json").exists()
    datalist(str(root), renumber=True)
    content = read(root)
    assert list(content["labels"].values()) == ["background", "liver", "spleen", "tumor"]
    assert content["renumbered"]["labelsTr/b.seg.nrrd"] == {"0": 0, "1": 2, "2": 1, "5": 3}
    for case in read_cases(root).labeled("training") + read_cases(root).validation:
        array = itk.array_from_image(itk.imread(case["label"]))[0, 0]
        assert array.tolist() == ([0, 1, 2, 0, 0, 0] if "a.seg" in case["label"] else [0, 2, 1, 0, 0, 3])


def test_segments_have_the_order_of_the_names_that_are_given(slicer):
    root = slicer({"liver": 1, "spleen": 2})
    with pytest.raises(ValueError, match="pass --renumber"):
        datalist(str(root), label_names="background,spleen,liver")
    datalist(str(root), label_names="background,spleen,liver", renumber=True)
    assert read(root)["renumbered"] == {"0": 0, "1": 2, "2": 1}
    with pytest.raises(
        ValueError, match="--label_names must hold background and the names of the segments, liver, spleen"
    ):
        datalist(str(root), label_names="background,organ", overwrite=True)


def test_refuses_segments_that_overlap_or_share_a_name_or_value(slicer):
    root = slicer({"liver": 1, "tumor": 1}, dimension=4)
    with pytest.raises(ValueError, match=r"a.seg.nrrd: segments must not overlap, got an image of 4 dimensions; in 3D"):
        datalist(str(root))
    root = slicer({"liver": 1, "tumor": 1})
    with pytest.raises(ValueError, match=r"a.seg.nrrd: segments must have different values, got"):
        datalist(str(root))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png"])
def test_renumbered_labels_lie_on_the_grid_of_the_old_ones_which_stay(tmp_path, suffix):
    rng = np.random.default_rng(0)
    values = np.array([0, 10, 255], np.uint8)
    label_values = values[rng.integers(0, 3, (6, 5, 4) if suffix != ".png" else (6, 5))]
    affine = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1.0]])
    for folder, array in (("imagesTr", label_values + 1), ("labelsTr", label_values)):
        (tmp_path / folder).mkdir()
        if suffix == ".png":
            Image.fromarray(array).save(tmp_path / folder / "a.png")
            continue
        volume = nib.Nifti1Image(array, affine)
        volume.set_sform(affine, 2)
        volume.set_qform(affine, 3)
        volume.header.set_xyzt_units("mm")
        nib.save(volume, tmp_path / folder / "a.nii")
        if suffix != ".nii":
            itk.imwrite(itk.imread(str(tmp_path / folder / "a.nii")), str(tmp_path / folder / f"a{suffix}"))
            (tmp_path / folder / "a.nii").unlink()
    old = tmp_path / "labelsTr" / f"a{suffix}"
    before = old.read_bytes()
    datalist(str(tmp_path), renumber=True, label_names="background,liver,bone")
    content = read(tmp_path)
    assert content["labels"] == {"0": "background", "1": "liver", "2": "bone"}
    assert content["renumbered"] == {"0": 0, "10": 1, "255": 2}
    assert content["training"][0]["label"] == f"labels_renumbered/labelsTr/a{suffix}"
    assert old.read_bytes() == before
    new = tmp_path / "labels_renumbered" / "labelsTr" / f"a{suffix}"
    if suffix == ".png":
        first, second = (np.asarray(Image.open(path)) for path in (old, new))
    else:
        first, second = (itk.array_from_image(itk.imread(str(path))) for path in (old, new))
    np.testing.assert_array_equal(np.searchsorted(values, first), second)
    if suffix.startswith(".nii"):
        headers = [nib.load(path).header for path in (old, new)]
        for key in ("sform_code", "qform_code", "xyzt_units", "srow_x", "quatern_b", "pixdim", "dim"):
            np.testing.assert_array_equal(headers[0][key], headers[1][key])
    read_cases(tmp_path, allow_2d=suffix == ".png")
    with pytest.raises(ValueError, match="labels_renumbered: must not exist with --renumber, got one; remove it"):
        datalist(str(tmp_path), renumber=True, overwrite=True)


def test_labels_that_count_from_zero_are_not_written_anew(make):
    make("imagesTr", "a.nii")
    root = make("labelsTr", "a.nii")
    datalist(str(root), renumber=True)
    assert read(root)["training"][0]["label"] == "labelsTr/a.nii" and "renumbered" not in read(root)


def test_labels_of_test_cases_are_renumbered_alike(make, tmp_path):
    make("imagesTr", "a.nii")
    make("labelsTr", "a.nii")
    make("imagesTs", "t.nii")
    root = make("labelsTs", "t.nii")
    nib.save(nib.Nifti1Image(np.full((6, 5, 4), 7, np.uint8), np.eye(4)), root / "labelsTs/t.nii")
    datalist(str(root), test_images="imagesTs", test_labels="labelsTs", renumber=True)
    assert read(root)["renumbered"] == {"0": 0, "1": 1, "2": 2, "7": 3}
    assert np.unique(nib.load(root / read(root)["test"][0]["label"]).dataobj).tolist() == [3]


def test_voxels_that_are_not_labeled_keep_their_value_and_are_no_class(make):
    make("imagesTr", "a.nii.gz")
    root = make("labelsTr", "a.nii.gz")
    old = np.array([0, 4, 7, 255], np.uint8)[np.random.RandomState(0).randint(0, 4, (6, 5, 4))]
    nib.save(nib.Nifti1Image(old, np.eye(4)), root / "labelsTr" / "a.nii.gz")
    with pytest.raises(ValueError, match=r"got \[0, 4, 7, 255\] for background, label_4, label_7; pass --renumber"):
        datalist(str(root), ignore=255)
    datalist(str(root), ignore=255, renumber=True)
    content = read(root)
    assert content["ignore"] == 255
    assert content["labels"] == {"0": "background", "1": "label_4", "2": "label_7"}
    new = np.asarray(nib.load(root / content["training"][0]["label"]).dataobj)
    for before, after in ((0, 0), (4, 1), (7, 2), (255, 255)):
        assert np.array_equal(old == before, new == after)
    assert read_cases(root).training[0]["ignore"] == 255


@pytest.mark.parametrize(("ignore", "renumber"), [(2, False), (1, True)])
def test_a_class_is_not_ignored(make, ignore, renumber):
    make("imagesTr", "a.nii.gz")
    root = make("labelsTr", "a.nii.gz")
    with pytest.raises(ValueError, match=rf"--ignore must be no class, which are 0 to \d, got {ignore}; make it 255"):
        datalist(
            str(root), ignore=ignore, renumber=renumber, label_names="background,one,two" if not renumber else None
        )
