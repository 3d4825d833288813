"""What cannot be run ends in one sentence that says what to change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from workflow_helpers import (
    CONTEXT,
    FAST,
    LAYERS_BUNDLE,
    PLANAR,
    SHORT,
    bundle_run,
    every_bundle,
    every_pretrained_bundle,
    last_words,
    liver_pretraining,
    run,
    scratch,
    workflow,
)

from common.data import make_record, write_datalist


@pytest.mark.slow
@every_pretrained_bundle
def test_missing_pretrained_weights_end_in_one_sentence(bundle, phantoms, tmp_path):
    missing = tmp_path / "nothing.pt"
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=phantoms, ckpt_dir=tmp_path, pretrained=missing)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@every_bundle
def test_a_wrong_bundle_root_ends_in_one_sentence(bundle, phantoms, tmp_path):
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=phantoms, bundle_root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}: bundle_root must be")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@every_bundle
def test_a_misspelled_option_ends_in_the_one_that_was_meant(bundle, tmp_path):
    """MONAI added it to the config in silence, and the training took as long as it does without."""
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=tmp_path, max_epoch=1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    *_, sentence = done.stderr.strip().splitlines()
    assert sentence.startswith("error: --max_epoch must be an option of ")
    assert sentence.endswith("did you mean --max_epochs?")
    assert list(tmp_path.iterdir()) == []


@every_bundle
@pytest.mark.parametrize("option", ["seed", "fold", "num_folds"])
def test_an_option_that_is_no_number_ends_in_one_sentence_before_any_scan_is_read(
    bundle, option, tmp_path, quiet_hooks, capsys
):
    """The table itself, option by option, is tested in tests/cli/test_options.py."""
    missing = {"dataset_dir": str(tmp_path / "missing"), "ckpt_dir": str(tmp_path)}
    (line,) = last_words(workflow(bundle, "train.yaml", **missing, **{option: "abc"}), capsys)
    assert line.startswith(f"error: {option} must be a whole number from ") and line.endswith(", got 'abc'")
    assert list(tmp_path.iterdir()) == []


@every_bundle
@pytest.mark.parametrize("device", ["cuda:99", "nonsense", 0])
def test_a_device_that_is_not_there_ends_in_one_sentence_before_any_scan_is_read(
    bundle, device, tmp_path, quiet_hooks, capsys
):
    """PyTorch said that it was not compiled with CUDA, after a traceback, in a run that had begun."""
    missing = {"dataset_dir": str(tmp_path / "missing"), "ckpt_dir": str(tmp_path), "device": device}
    for kind, name in (("train", "train.yaml"), ("infer", "inference.yaml")):
        (line,) = last_words(workflow(bundle, name, kind=kind, **missing), capsys)
        assert line.startswith(f"error: device must be cpu, or a GPU of this machine, such as cuda:0, got {device!r}; ")
        assert line.endswith("; pass --device cpu, or leave it out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("organ", "liver", "one of brain, body, given"),
        ("tumor_target", "foo", "one of texture, blended"),
        ("task", "foo", "one of layers, restoration, rotation, location, jigsaw"),
        ("norm", "foo", 'batch, instance or ["group", {"num_groups": 8}]'),
    ],
)
def test_a_word_that_is_no_choice_ends_in_one_sentence_before_any_scan_is_read(
    option, value, choices, tmp_path, quiet_hooks, capsys
):
    """The error named the argument of whoever used the word much later, or listed what PyTorch calls its norms."""
    missing = {"dataset_dir": str(tmp_path / "missing"), "ckpt_dir": str(tmp_path)}
    (line,) = last_words(workflow(LAYERS_BUNDLE, "pretrain.yaml", **missing, **{option: value}), capsys)
    assert line == f"error: {option} must be {choices}, got {value!r}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_text_for_a_number_ends_in_one_sentence_on_a_command_line(phantoms, tmp_path):
    done = bundle_run("training", CONTEXT, "train.yaml", dataset_dir=phantoms, ckpt_dir=tmp_path, learning_rate="abc")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == "error: learning_rate must be a number above 0, got 'abc'"


@every_bundle
def test_a_data_set_without_cases_to_learn_from_ends_in_what_to_look_at(
    bundle, phantoms, tmp_path, quiet_hooks, capsys
):
    content = json.loads((phantoms / "dataset.json").read_text(encoding="utf-8"))
    images = [case["image"] for case in content["training"]]
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    ids = [Path(image).name.split(".")[0] for image in images]
    for change, split in (
        ({"training": [], "unlabeled": images}, "training"),
        ({"folds": [ids, []]}, "training"),
        ({"folds": [[], ids]}, "validation"),
    ):
        write_datalist(scans, {**content, **change})
        common = {"dataset_dir": str(scans), "ckpt_dir": str(tmp_path), **FAST, **SHORT, **scratch(bundle)}
        (line,) = last_words(workflow(bundle, "train.yaml", **common), capsys)
        assert line.startswith(f"error: split {split} must hold cases with labels, got none; look at training, folds")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pretrain.yaml", {"patch_size": 64}, "patch_size must let two patches fit into a quarter of the image"),
        ("pretrain.yaml", {"patch_size": "big"}, "patch_size must be a whole number from 1, got 'big'"),
        ("pretrain.yaml", {"sampling": "poison"}, "sampling must be one of poisson, uniform, got 'poison'"),
        ("train.yaml", {"features": [10, 20]}, "features must be multiples of num_groups 8, got (10, 20)"),
        (
            "train.yaml",
            {"features": "16,32"},
            "features must be a list of 2 or more, each entry a whole number from 1, got '16,32'",
        ),
        ("train.yaml", {"in_channels": 1}, "image must have in_channels 1, got 3 channels"),
        ("train.yaml", {"axis": "axial"}, "axis must be one of 0, 1, 2, got 'axial'"),
        (
            "train.yaml",
            {"slice_size": 32},
            "slice_size must be height and width in pixels, such as [256, 256], or null, got 32",
        ),
        (
            "train.yaml",
            {"transferred_parts": "head"},
            "transferred_parts must be one of encoder, encoder_decoder, statistics",
        ),
        ("train.yaml", {"freeze_epochs": -1}, "freeze_epochs must be a whole number from 0, got -1"),
        ("inference.yaml", {"save_probabilities": "no"}, "save_probabilities must be True or False, got 'no'"),
        ("inference.yaml", {}, "{phantoms}: is a data set with labels; name the folder of its scans"),
    ],
    ids=str,
)
def test_bad_options_end_in_one_sentence(name, options, sentence, phantoms, tmp_path, quiet_hooks, capsys):
    common = {"ckpt_dir": str(tmp_path), "dataset_dir": str(phantoms), **FAST, **SHORT, "pretrained": "null"}
    kind = "infer" if name == "inference.yaml" else "train"
    make_record(labels={0: "background", 1: "liver"}, modality=["CT"]).save_beside(tmp_path / "model.pt")
    made = workflow(CONTEXT, name, kind=kind, **{**common, **options})
    (line,) = last_words(made, capsys)
    assert line.startswith("error: " + sentence.format(phantoms=phantoms))
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pretrain.yaml", {"task": "heat"}, "task must be one of heatmap, reg2d, doersch, got 'heat'"),
        ("pretrain.yaml", {"sampling": "cubic"}, "sampling must be one of bilinear, nearest, got 'cubic'"),
        ("pretrain.yaml", {"field_of_view": [20, 20, 20]}, "field_of_view must be at least 32 mm along each axis"),
        (
            "train.yaml",
            {"descriptor": "sift"},
            "descriptor must be one of planar, cubic, gvdiff, gvdiff_centered, coord, joint",
        ),
        ("train.yaml", {"voting": "loud"}, "voting must be one of"),
        ("train.yaml", {"max_voxels": 10}, "max_voxels must be at least"),
        ("train.yaml", {"resume": "no"}, "resume must be True or False, got 'no'"),
        ("inference.yaml", {"save_confidence": "no"}, "save_confidence must be True or False, got 'no'"),
    ],
    ids=str,
)
def test_bad_options_of_descriptors_end_in_one_sentence(
    name, options, sentence, phantoms, tmp_path, quiet_hooks, capsys
):
    common = {"ckpt_dir": str(tmp_path), "dataset_dir": str(phantoms), "device": "cpu", "pretrained": "null"}
    kind = "infer" if name == "inference.yaml" else "train"
    made = workflow(PLANAR, name, kind=kind, **{**common, "step": 4, **options})
    (line,) = last_words(made, capsys)
    assert line.startswith("error: " + sentence)
    assert not list(tmp_path.rglob("*.pt"))


def test_an_atlas_of_another_descriptor_is_refused_at_inference(phantoms, tmp_path, quiet_hooks, capsys):
    common = {"ckpt_dir": str(tmp_path), "device": "cpu"}
    options = {"descriptor": "coord", "step": 4, "num_labeled": 2, "num_validation": 1, **scratch(PLANAR)}
    run(PLANAR, "train.yaml", **common, **options, dataset_dir=str(phantoms))
    images = {"dataset_dir": str(phantoms / "imagesTs"), "output_dir": str(tmp_path / "output")}
    other = {"descriptor": "gvdiff"}
    (line,) = last_words(workflow(PLANAR, "inference.yaml", kind="infer", **common, **images, **other), capsys)
    assert line.startswith("error: descriptor must be that of the training of the weights, coord, got gvdiff; leave")
    assert not (tmp_path / "output").exists()


def test_an_evaluation_has_no_layers(lesions, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT, "val_iterations": 1}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common)
    files = ("train.yaml", "evaluate.yaml", "zero_shot.yaml")
    (line,) = last_words(workflow(LAYERS_BUNDLE, *files, **common, layers=True), capsys)
    assert line.startswith("error: layers must be one of False, got True")


def test_settings_of_the_liver_want_its_mask(lesions, tmp_path, quiet_hooks, capsys):
    scans = shutil.copytree(lesions, tmp_path / "scans")
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(scans, {**content, "normal": [entry["image"] for entry in content["normal"]]})
    (line,) = last_words(liver_pretraining(scans, tmp_path), capsys)
    assert line.startswith("error: ") and "organ" in line


def test_scans_without_normal_ones_end_in_how_to_get_them(lesions, tmp_path, quiet_hooks, capsys):
    scans = shutil.copytree(lesions, tmp_path / "scans")
    write_datalist(scans, {**json.loads((scans / "dataset.json").read_text(encoding="utf-8")), "normal": []})
    made = workflow(
        LAYERS_BUNDLE, "pretrain.yaml", dataset_dir=str(scans), ckpt_dir=str(tmp_path / "models"), device="cpu"
    )
    (line,) = last_words(made, capsys)
    assert line.startswith("error: normal must list at least one scan") and "tools.normals" in line
