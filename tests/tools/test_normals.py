"""Laws of the command that cuts blocks without a tumor."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data import case_id, read_cases, write_datalist
from tools.normals import normals

SHAPE = (6, 7, 20)
AFFINE = np.array([[-0.9, 0.1, 0, 30.0], [0.1, 1.1, 0.2, -12.0], [0, -0.2, 2.5, 7.0], [0, 0, 0, 1]])
TUMORS = {"a": [(5, 9)], "b": [(0, 3), (6, 12)], "c": []}  # slices
FREE = {"a": [(0, 5), (9, 20)], "b": [(12, 20)], "c": [(0, 20)]}  # runs of at least 4 slices outside of these


def save(path, volume):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(volume, AFFINE), path)


@pytest.fixture
def source(tmp_path):
    """Three training scans with an organ of value 1 and tumors of value 2, a test scan and an unlabeled one."""
    root = tmp_path / "source"
    root.mkdir()
    random = np.random.RandomState(0)
    for folder, names in (("Tr", "abc"), ("Ts", "t"), ("Un", "u")):
        for name in names:
            save(root / f"images{folder}/{name}.nii.gz", random.randint(-1000, 1000, SHAPE).astype(np.int16))
            label = np.zeros(SHAPE, np.uint8)
            label[1:5, 1:6] = 1
            for first, last in TUMORS.get(name, []):
                label[2:4, 3, first:last] = 2
            if folder != "Un":
                save(root / f"labels{folder}/{name}.nii.gz", label)
    training = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "abc"]
    test = [{"image": "imagesTs/t.nii.gz", "label": "labelsTs/t.nii.gz"}]
    labels = {"0": "background", "1": "liver", "2": "tumor"}
    listed = {"labels": labels, "modality": {"0": "CT"}, "folds": [["a"], ["b"]], "training": training, "test": test}
    write_datalist(root, {**listed, "unlabeled": ["imagesUn/u.nii.gz"]})
    return root


def cut(source, **options):
    options = {"tumor_labels": 2, "organ_labels": (1, 2), **options}
    target = source.parent / "target"
    normals(str(source), str(target), **options)
    return target, read_cases(target)


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def world(affine, index):
    return affine[:3, :3] @ index + affine[:3, 3]


def state(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_blocks_are_the_long_runs_of_slices_without_a_tumor(source):
    _, cases = cut(source)
    found = sorted((case_id(case["image"]), nib.load(case["image"]).shape[2]) for case in cases.normal)
    assert found == [(f"{name}_{first:04d}", last - first) for name, runs in FREE.items() for first, last in runs]


def test_blocks_of_a_scan_are_held_out_together(source):
    """Those of one patient were learned from and held out."""
    target, _ = cut(source)
    blocks = json.loads((target / "dataset.json").read_text(encoding="utf-8"))["normal"]
    assert all(block["patient"] == case_id(block["image"]).split("_")[0] for block in blocks)
    for fold in range(2):
        cases = read_cases(target, fold)
        learned, held_out = (
            {case_id(case["image"]).split("_")[0] for case in cases.normals(split)}
            for split in ("training", "validation")
        )
        assert learned and held_out and not learned & held_out


def test_blocks_follow_the_fold_of_their_scan(source):
    """A block of a scan was learned from while the scan itself was held out."""
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(source, {key: value for key, value in content.items() if key != "folds"})
    target, _ = cut(source)
    for fold in range(3):
        cases = read_cases(target, fold)
        scans = {case_id(case["image"]) for case in cases.validation}
        assert {case_id(case["image"]).split("_")[0] for case in cases.normal_validation} == scans


def test_one_labeled_scan_is_enough(source):
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(source, {**content, "training": content["training"][:1], "folds": []})
    _, cases = cut(source, min_slices=1)
    assert cases.normals("training") and cases.normals("validation")


def test_no_block_holds_a_labeled_voxel_of_a_tumor_and_no_test_scan_yields_one(source):
    _, cases = cut(source, min_slices=1)
    assert {case_id(case["image"])[0] for case in cases.normal} == {"a", "b", "c"}
    for case in cases.normal:
        name, first = case_id(case["image"]).split("_")
        depth = nib.load(case["image"]).shape[2]
        label = voxels(source / f"labelsTr/{name}.nii.gz")[:, :, int(first) : int(first) + depth]
        assert depth and not (label == 2).any()


@pytest.mark.parametrize("axis", range(3))
def test_voxels_of_a_block_stay_at_their_place_in_the_world(source, axis):
    _, cases = cut(source, axis=axis, min_slices=1)
    for case in cases.normal:
        name, first = case_id(case["image"]).split("_")
        block = nib.load(case["image"])
        shift = np.eye(3)[axis] * int(first)
        for index in np.argwhere(np.ones(block.shape))[::17]:
            there = (index + shift).astype(int)
            np.testing.assert_allclose(world(block.affine, index), world(AFFINE, there), atol=1e-4)
            original = voxels(source / f"imagesTr/{name}.nii.gz")
            assert voxels(case["image"])[tuple(index)] == original[tuple(there)]
        assert block.get_data_dtype() == np.int16
        np.testing.assert_allclose(nib.load(case["organ"]).affine, block.affine, atol=1e-5)


def test_voxels_that_the_file_scales_keep_their_values(source):
    path = source / "imagesTr/a.nii.gz"
    image = nib.Nifti1Image(np.linspace(-1, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, path)
    _, cases = cut(source)
    block = next(case["image"] for case in cases.normal if case_id(case["image"]) == "a_0000")
    np.testing.assert_allclose(voxels(block), voxels(path)[:, :, :5], atol=1e-7)


def test_tumors_become_1_and_the_organ_a_mask(source):
    target, cases = cut(source)
    assert cases.labels == {0: "background", 1: "tumor"}
    for case in [*cases.training, *cases.validation, *cases.test]:
        before = voxels(source / Path(case["label"]).relative_to(target))
        np.testing.assert_array_equal(voxels(case["label"]), before == 2)
        np.testing.assert_array_equal(voxels(case["organ"]), before > 0)
    for case in cases.normal:
        name, first = case_id(case["image"]).split("_")
        part = slice(int(first), int(first) + nib.load(case["image"]).shape[2])
        before = voxels(source / f"labelsTr/{name}.nii.gz")[:, :, part]
        np.testing.assert_array_equal(voxels(case["organ"]), before > 0)


def test_without_tumor_labels_every_value_is_a_tumor_and_files_stay_as_they_are(source):
    for path in source.glob("labels*/*.nii.gz"):
        label = voxels(path)
        save(path, np.where(label == 2, 3, 0).astype(np.uint8))
    write_datalist(source, {**json.loads((source / "dataset.json").read_text(encoding="utf-8")), "labels": {}})
    target, cases = cut(source, tumor_labels=None, organ_labels=None)
    assert [list(case) for case in cases.normal] == [["image"]] * 4
    kept = [*source.glob("images*/*"), *source.glob("labels*/*")]
    assert all((target / path.relative_to(source)).read_bytes() == path.read_bytes() for path in kept)


def test_all_other_cases_and_folds_are_still_there_and_the_input_is_as_it_was(source):
    before = state(source)
    target, cases = cut(source)
    assert state(source) == before
    old = read_cases(source)
    for name in ("training", "validation", "test", "unlabeled"):
        images = [[Path(case["image"]).name for case in getattr(part, name)] for part in (old, cases)]
        assert images[0] == images[1]
    assert all(path.parent == source.parent for path in (source, target))
    assert sorted(path.name for path in source.parent.iterdir()) == ["source", "target"]


def test_a_block_must_hold_some_of_the_organ(source):
    label = voxels(source / "labelsTr/c.nii.gz")
    label[:, :, 3:] = 0
    save(source / "labelsTr/c.nii.gz", label)
    _, cases = cut(source)
    assert {case_id(case["image"])[0] for case in cases.normal} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"min_slices": 21}, ValueError, "must have 21 slices without a tumor in a row, got none"),
        ({"min_slices": 0}, ValueError, "min_slices must be a whole number from 1, got 0"),
        ({"min_slices": "few"}, TypeError, "min_slices must be a whole number from 1, got 'few'"),
        ({"axis": 3}, ValueError, "axis must be one of 0, 1, 2, got 3"),
        (
            {"organ_labels": (1, 2, 3)},
            ValueError,
            r"tumor_labels and organ_labels must be among \[0, 1, 2\], got \[3\]",
        ),
        ({"tumor_labels": "2 3"}, TypeError, r"tumor_labels must be a list, .* a whole number from 1, got \('2 3',\)"),
        ({"tumor_labels": (0, 2)}, ValueError, "tumor_labels must be a list, each entry a whole number from 1"),
        ({"tumor_labels": None}, ValueError, r"tumor_labels must be given with organ_labels, got none with \(1, 2\)"),
        ({"organ_labels": 1}, ValueError, r"organ_labels must include tumor_labels \(2,\), got \(1,\)"),
    ],
)
def test_refuses_options_that_make_no_sense_and_writes_nothing(source, options, error, match):
    with pytest.raises(error, match=match):
        cut(source, **options)
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_refuses_data_that_makes_no_sense(source):
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    for change, match in (
        ({"training": [], "folds": []}, r"dataset\.json: training must list at least 1 labeled scan, got none"),
        ({"normal": content["unlabeled"], "unlabeled": []}, r"dataset\.json: must list no normal scans yet, got 1"),
    ):
        write_datalist(source, {**content, **change})
        with pytest.raises(ValueError, match=match):
            cut(source)
    content["training"][0]["organ"] = "organs/a.nii.gz"
    save(source / "organs/a.nii.gz", np.ones(SHAPE, np.uint8))
    write_datalist(source, content)
    with pytest.raises(ValueError, match="organ_labels must not be given for a data set that lists organs"):
        cut(source)


@pytest.mark.parametrize("name", ["imagesTr/b.nii.gz", "labelsTr/c.nii.gz", "imagesUn/u.nii.gz"])
def test_a_damaged_file_is_refused_and_not_written_anew(source, name):
    """nibabel reads it, and what was written had a checksum that was right."""
    content = bytearray((source / name).read_bytes())
    content[-6] ^= 1
    (source / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: compressed data must be intact"):
        cut(source, extent=(40, 40, 40))
    assert not (source.parent / "target").exists()


@pytest.mark.parametrize("name", ["normal/imagesTr/c_0000.nii.gz", "organs/labelsTr/a.nii.gz"])
def test_never_writes_over_a_file_of_the_data_set(source, name):
    """A block went through a hard link into the file of the input."""
    (source / name).parent.mkdir(parents=True)
    (source / "imagesUn/u.nii.gz").rename(source / name)
    write_datalist(source, {**json.loads((source / "dataset.json").read_text(encoding="utf-8")), "unlabeled": [name]})
    before = state(source)
    with pytest.raises(ValueError, match=f"{Path(name).name}: only one file must have this name, got one of the data"):
        cut(source)
    assert state(source) == before


def test_refuses_a_folder_that_holds_something(source):
    (source.parent / "target").mkdir()
    (source.parent / "target/mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="target: output folder must be new or empty"):
        cut(source)
    assert [path.name for path in (source.parent / "target").iterdir()] == ["mine.txt"]


def test_the_command_takes_lists_with_commas_and_refuses_blanks(source, run_tool):
    command = ["tools.normals", str(source), "--output_dir", str(source.parent / "007"), "--tumor_labels", "2"]
    with pytest.raises(SystemExit, match=r"error: operands of .*, got also 2; a list has commas, no blanks"):
        run_tool(*command, "--organ_labels", "1", "2")
    said = run_tool(*command, "--organ_labels", "1,2").out
    assert said.endswith("007: 4 blocks without a tumor, of 3 training scans\n")


# ---- voxel sizes and organs ----------------------------------------------------------------------


def directions(affine):
    return affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.float32])
def test_an_extent_sets_the_voxel_sizes_keeps_directions_and_values_and_leaves_the_input(source, kind):
    for path in source.rglob("*.nii.gz"):
        volume = voxels(path).astype(kind)
        nib.save(nib.Nifti1Image(volume, AFFINE, dtype=kind), path)
    before = state(source)
    target, cases = cut(source, extent=(120, 70, 50))
    assert state(source) == before
    whole = [*cases.training, *cases.validation, *cases.test, *cases.unlabeled]
    for case in whole:
        for key in ("image", "label", "organ"):
            if key not in case:
                continue
            file = nib.load(case[key])
            np.testing.assert_allclose(file.header.get_zooms(), (20, 10, 2.5), rtol=1e-5)
            np.testing.assert_allclose(directions(file.affine), directions(AFFINE), atol=1e-5)
            np.testing.assert_allclose(file.affine[:3, 3], AFFINE[:3, 3], atol=1e-4)
        original = voxels(source / Path(case["image"]).relative_to(target))
        np.testing.assert_array_equal(voxels(case["image"]), original)
    for case in cases.normal:
        np.testing.assert_allclose(nib.load(case["image"]).header.get_zooms(), (20, 10, 2.5), rtol=1e-5)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_an_organ_is_found_on_the_grid_of_each_file(source, flips, order):
    """The same body in the world, whatever the order and the directions of the axes of its file."""
    shape = (9, 10, 20)
    body = np.zeros(shape, bool)
    body[2:7, 1:6, 3:18] = True
    volume = np.where(body, 40, -1000).astype(np.int16)
    volume[4, 3, 8] = -900  # air inside of it
    affine = np.eye(4)[:, [*order, 3]] @ np.diag([*flips, 1.0])
    affine[:3, 3] = (5, -3, 2)
    for path in source.rglob("images*/*.nii.gz"):
        nib.save(nib.Nifti1Image(volume, affine), path)
    for path in source.rglob("labels*/*.nii.gz"):
        nib.save(nib.Nifti1Image((volume == 41).astype(np.uint8), affine), path)
    before = state(source)
    target, cases = cut(source, tumor_labels=None, organ_labels=None, organ="body")
    assert state(source) == before
    whole = [*cases.training, *cases.validation, *cases.test, *cases.unlabeled]
    assert len(whole) == 5

    for case in whole:
        assert Path(case["organ"]).relative_to(target).parts[0] == "organs"
        mask = nib.load(case["organ"])
        np.testing.assert_allclose(mask.affine, nib.load(case["image"]).affine, atol=1e-5)
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj) > 0, body)  # air inside is filled
    assert all("organ" in case for case in cases.normal)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"extent": (1, 2)}, r"extent must be three lengths in mm, got \(1, 2\)"),
        ({"extent": (1, 2, 0)}, "extent must be a list, each entry a number above 0"),
        ({"extent": 240}, "extent must be a list, each entry a number above 0"),
        ({"organ": "body"}, r"organ must not be given with organ_labels, got 'body' and \(1, 2\)"),
        ({"organ": "liver", "organ_labels": None}, "organ must be .*'liver'"),
        ({"organ": "body", "organ_labels": None, "min_slices": 21}, "must have 21 slices"),
    ],
)
def test_extents_and_organs_that_make_no_sense_are_refused(source, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        cut(source, **options)
    assert [path.name for path in source.parent.iterdir()] == ["source"]


# ---- several channels ----------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_file", [False, True])
def test_all_channels_of_a_scan_are_cut_alike(source, in_one_file):
    """Each channel is a file of its own, or the last axis of one file."""
    _, cases = cut(source)
    blocks = [voxels(case["image"]) for case in cases.normal]
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    content["modality"] = {"0": "CT", "1": "PET"}
    content.pop("folds")
    for case in [*content["training"], *content["test"], *content["unlabeled"]]:
        first = voxels(source / (case if isinstance(case, str) else case["image"]))
        name = case if isinstance(case, str) else case["image"]
        if in_one_file:
            save(source / name, np.stack((first, -first), axis=-1))
        else:
            save(source / name.replace(".nii.gz", "_0001.nii.gz"), -first)
    if not in_one_file:
        for key in ("training", "test", "unlabeled"):
            content[key] = [{"image": case} if isinstance(case, str) else case for case in content[key]]
            for case in content[key]:
                case["image"] = [case["image"], case["image"].replace(".nii.gz", "_0001.nii.gz")]
    write_datalist(source, content)
    target = source.parent / "channels"
    normals(str(source), str(target), tumor_labels=2, organ_labels=(1, 2))
    listed = json.loads((target / "dataset.json").read_text(encoding="utf-8"))["normal"]
    assert len(listed) == len(blocks)
    for case, block in zip(sorted(listed, key=lambda case: str(case["image"])), blocks, strict=True):
        if in_one_file:
            both = voxels(target / case["image"])
            channels = [both[..., 0], both[..., 1]]
        else:
            channels = [voxels(target / file) for file in case["image"]]
        np.testing.assert_array_equal(channels[0], block)
        np.testing.assert_array_equal(channels[1], -block)
        assert voxels(target / case["organ"]).shape == block.shape


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"ignore": 255}, {}),
        ({"classes": ["liver"]}, {"tumor_labels": None, "organ_labels": None}),
    ],
)
def test_labels_in_which_a_tumor_may_be_missed_are_refused(source, change, options):
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (content if "ignore" in change else content["training"][0]).update(change)
    write_datalist(source, content)
    with pytest.raises(
        ValueError, match=f"labels must be whole, so that no tumor is missed, got {next(iter(change))}; list"
    ):
        cut(source, **options)


def test_slices_that_are_not_labeled_are_in_no_block(source):
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(source, {**content, "ignore": 255})
    label = np.zeros(SHAPE, np.uint8)
    label[..., 10:] = 255
    (source / "labelsTr" / "c.nii.gz").unlink()
    save(source / "labelsTr" / "c.nii.gz", label)
    _, cases = cut(source, tumor_labels=None, organ_labels=None)
    (block,) = cases.normal  # in the other scans, each slice has the organ
    assert np.array_equal(voxels(block["image"]), voxels(source / "imagesTr" / "c.nii.gz")[..., :10])


# ---- a table in place of labels ------------------------------------------------------------------


def write_table(source, *rows):
    path = source.parent / "tumors.csv"
    path.write_text("\n".join(("image,first,last", *rows)) + "\n", encoding="utf-8")
    return str(path)


def without_labels(source):
    """List all scans without their labels."""
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    images = [f"imagesTr/{name}.nii.gz" for name in "abc"] + content["unlabeled"]
    write_datalist(source, {**content, "folds": [], "training": [], "test": [], "unlabeled": images})


def test_a_table_of_slices_gives_the_blocks_that_the_labels_give(source):
    rows = [f"imagesTr/{name}.nii.gz,{first},{last - 1}" for name, runs in TUMORS.items() for first, last in runs]
    expected = {case_id(case["image"]): voxels(case["image"]) for case in cut(source)[1].normal}
    (source.parent / "target").rename(source.parent / "labeled")
    without_labels(source)
    target, cases = cut(source, tumor_slices=write_table(source, *rows, "c,,"), tumor_labels=None, organ_labels=None)
    found = {case_id(case["image"]): voxels(case["image"]) for case in cases.normal}
    assert found.keys() == expected.keys()  # none of u, which has no row
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    blocks = json.loads((target / "dataset.json").read_text(encoding="utf-8"))["normal"]
    assert all(block["patient"] == case_id(block["image"]).split("_")[0] for block in blocks)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], r"tumors.csv: must have the columns image, first and last and a row"),
        (["z,1,2"], r"line 2: image must be a training or an unlabeled scan of dataset.json, got 'z'"),
        (["t,1,2"], r"line 2: image must be a training or an unlabeled scan"),  # a test scan
        (["a,1,2", "b,one,2"], r"line 3: first and last must be whole numbers from 0, got \['one', '2'\]"),
        (["a,3,"], r"line 2: first and last must be whole numbers from 0, got \['3', ''\]"),
        (["a,1.5,2"], r"line 2: first and last must be whole numbers from 0"),
        (["a,4,2"], r"a: tumor_slices must be runs within 0 to 19, got 4 to 2; look at axis"),
        (["a,4,20"], r"a: tumor_slices must be runs within 0 to 19, got 4 to 20; look at axis"),
    ],
)
def test_a_table_that_is_wrong_is_refused_and_nothing_is_left(rows, match, source):
    table = write_table(source, *rows)
    with pytest.raises(ValueError, match=match):
        cut(source, tumor_slices=table)
    assert not (source.parent / "target").exists()


def test_a_table_that_is_not_there_is_refused(source):
    with pytest.raises(FileNotFoundError, match="tumor_slices must be a file, got none"):
        cut(source, tumor_slices=str(source.parent / "nothing.csv"))
