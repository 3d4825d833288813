"""Scans with several channels in layer decomposition and planar descriptors, whose tasks treat the channels alike."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from workflow_helpers import LAYERS_BUNDLE, PLANAR, SHORT, last_words, run, workflow

from common.data import write_lesion_phantoms, write_phantoms

pytestmark = pytest.mark.slow
SMALL = {"features": [8, 16], "organ": "given"}
CPU = {"device": "cpu"}
REFUSAL = "must be trained on images of 1 channel (CT), got 2 channels (CT, PET); train on such images, or"


@pytest.fixture(scope="module")
def lesions(tmp_path_factory) -> Path:
    """Return phantoms whose lesions show in the second channel alone."""
    counts = {"num_training": 8, "num_test": 3, "num_unlabeled": 0, "num_normal": 6}
    return write_lesion_phantoms(tmp_path_factory.mktemp("lesions"), **counts, size=40, num_channels=2)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """Return phantoms whose left kidney shows in the second channel alone."""
    counts = {"num_training": 8, "num_test": 3, "num_unlabeled": 2}
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), **counts, size=40, num_channels=2)


def first_alone(scans: Path, folder: Path) -> Path:
    """Return a copy of a data set that lists the first channel only."""
    shutil.copytree(scans, folder)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    for case in [case for name in ("training", "test", "unlabeled", "normal") for case in content.get(name, [])]:
        case["image"] = case["image"][0]
    content["modality"] = {"0": content["modality"]["0"]}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def scores(folder: Path, column: str) -> list[float]:
    return [float(row[column]) for row in csv.DictReader((folder / "mean_dice_raw.csv").open())]


def test_the_tumor_of_the_second_channel_is_found_with_both_and_not_with_the_first_alone(
    lesions, tmp_path, quiet_hooks
):
    dice = {}
    for name, scans in (("both", lesions), ("first", first_alone(lesions, tmp_path / "scans"))):
        common = {**SMALL, **CPU, "dataset_dir": str(scans), "ckpt_dir": str(tmp_path / name)}
        schedule = {"max_epochs": 8, "iterations_per_epoch": 10, "val_interval": 8, "num_validation": 1}
        run(LAYERS_BUNDLE, "train.yaml", **common, **schedule, pretrained="null")
        run(LAYERS_BUNDLE, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(tmp_path / name))
        dice[name] = scores(tmp_path / name, "mean")
    assert min(dice["both"]) > 0.7 and max(dice["first"]) < 0.5


def test_the_organ_of_the_second_channel_is_found_with_both_and_not_with_the_first_alone(
    phantoms, tmp_path, quiet_hooks
):
    dice = {}
    for name, scans in (("both", phantoms), ("first", first_alone(phantoms, tmp_path / "scans"))):
        common = {**CPU, "dataset_dir": str(scans), "ckpt_dir": str(tmp_path / name)}
        options = {"descriptor": "gvdiff_centered", "step": 3}
        run(PLANAR, "train.yaml", **common, **options, pretrained="null", num_validation=1)
        run(PLANAR, "train.yaml", "evaluate.yaml", **common, **options, evaluation_dir=str(tmp_path / name))
        dice[name] = scores(tmp_path / name, "left kidney")
        assert np.mean(scores(tmp_path / name, "liver")) > 0.6, "which shows in the first channel"
    assert min(dice["both"]) > 0.4 and max(dice["first"]) < 0.1


def test_a_tumor_is_found_without_labels_where_the_simulation_has_a_ratio_for_each_channel(
    lesions, tmp_path, quiet_hooks
):
    common = {**SMALL, **CPU, "features": [8, 16, 32], "ckpt_dir": str(tmp_path)}
    ratios = [[[1.0, 1.0]], [[2.5, 6.0]]]  # a lesion does not show in the first channel
    schedule = {"max_epochs": 12, "iterations_per_epoch": 20, "val_interval": 12, "val_iterations": 2}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, **schedule, dataset_dir=str(lesions), intensity_ratio=ratios)
    names = ("train.yaml", "evaluate.yaml", "zero_shot.yaml")
    run(LAYERS_BUNDLE, *names, **common, dataset_dir=str(lesions), evaluation_dir=str(tmp_path))
    assert np.mean(scores(tmp_path, "mean")) > 0.6


def test_layers_of_all_channels_are_adapted_written_and_fine_tuned(lesions, tmp_path, quiet_hooks, capsys):
    models = tmp_path / "models"
    common = {**SMALL, **CPU, "ckpt_dir": str(models)}
    learning = {**common, **SHORT, "val_interval": 1, "dataset_dir": str(lesions)}
    clips = [[-100, 300], [0, 200]]
    run(LAYERS_BUNDLE, "pretrain.yaml", **learning, val_iterations=1, clip=clips)
    assert {path.name for path in models.rglob("*.png")} == {"layers.png", "simulation.png", "learning_curve.png"}
    run(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **learning, val_iterations=1, clip=clips)

    folders = {"dataset_dir": str(lesions / "imagesTs"), "organ_dir": str(lesions / "organs")}
    output = tmp_path / "output"
    options = {**common, **folders, "output_dir": str(output), "layers": True}
    run(LAYERS_BUNDLE, "inference.yaml", "zero_shot.yaml", kind="infer", **options)
    for name in ("phantom_008", "phantom_009", "phantom_010"):
        image = nib.load(lesions / "imagesTs" / f"{name}_0000.nii.gz")
        for postfix, shape in (("seg", image.shape), ("organ", (*image.shape, 2)), ("tumor", (*image.shape, 2))):
            written = nib.load(output / f"{name}_{postfix}.nii.gz")
            assert written.shape == shape
            np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
    assert len(list(output.glob("*.png"))) == 3

    run(LAYERS_BUNDLE, "train.yaml", "joint.yaml", **learning, clip=clips, transferred="network")
    alone = first_alone(lesions, tmp_path / "scans")
    made = workflow(LAYERS_BUNDLE, "train.yaml", **{**learning, "dataset_dir": str(alone)}, clip=clips[0])
    assert REFUSAL in last_words(made, capsys)[-1]


@pytest.mark.parametrize("task", ["restoration", "rotation", "location", "jigsaw"])
def test_other_pretext_tasks_of_layers_learn_from_all_channels(task, lesions, tmp_path, quiet_hooks):
    common = {**SMALL, **CPU, "dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), **SHORT}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, task=task, val_iterations=1)
    weights = torch.load(tmp_path / "pretrained" / "layer_unet.pt", weights_only=True)
    assert weights["encoder.0.0.weight"].shape[1] == 2
    run(LAYERS_BUNDLE, "train.yaml", **common)


@pytest.mark.parametrize(("task", "descriptor"), [("heatmap", "joint"), ("reg2d", "planar"), ("doersch", "cubic")])
def test_descriptors_of_all_channels_are_learned_and_make_an_atlas(
    task, descriptor, phantoms, tmp_path, quiet_hooks, capsys
):
    common = {**CPU, "ckpt_dir": str(tmp_path / "models"), "dataset_dir": str(phantoms)}
    clips = [[-160, 300], [0, 150]]
    run(PLANAR, "pretrain.yaml", **common, **SHORT, task=task, val_iterations=1, clip=clips)
    assert (tmp_path / "models" / "pretrained" / "pairs.png").is_file()
    options = {"descriptor": descriptor, "step": 5, "num_labeled": 2, "num_validation": 1}
    run(PLANAR, "train.yaml", **common, **options, clip=clips, descriptor_cache=str(tmp_path / "cache"))
    record = json.loads((tmp_path / "models" / "record.json").read_text(encoding="utf-8"))
    assert record["modality"] == ["CT", "PET"] and record["clip"] == clips
    alone = first_alone(phantoms, tmp_path / "scans")
    made = workflow(PLANAR, "train.yaml", **{**common, "dataset_dir": str(alone)}, **options, clip=clips[0])
    assert REFUSAL in last_words(made, capsys)[-1]
