"""Every bundle trains, validates and evaluates where labels leave something open, and what is open changes nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from workflow_helpers import LAYERS_BUNDLE, SHORT, every_bundle, run, scratch

from common.data import PseudoLabel, write_datalist, write_pseudo_labels

pytestmark = pytest.mark.slow

Change = Callable[[int, np.ndarray, dict], np.ndarray]  # of the label of a case, given its number and its entry

AXIAL = 1  # axis of the files of phantoms that runs to the feet


def keep_slices(index: int, label: np.ndarray, case: dict) -> np.ndarray:
    """Return a label of every fourth axial slice."""
    is_kept = np.arange(label.shape[AXIAL]) % 4 == 0
    return np.where(is_kept[:, None], label, 255)


def keep_scribbles(index: int, label: np.ndarray, case: dict) -> np.ndarray:
    """Return a label of a tenth of the voxels."""
    return np.where(np.random.default_rng(index).uniform(size=label.shape) < 0.1, label, 255)


def keep_organs(index: int, label: np.ndarray, case: dict) -> np.ndarray:
    """Return a label without one of the organs, of all cases but two."""
    if index < 2:
        return label
    case["classes"] = sorted({1, 2, 3, 4} - {1 + index % 4})
    return np.where(label == 1 + index % 4, 0, label)


def write_set(phantoms: Path, root: Path, change: Change, **keys: Any) -> Path:
    """Write a data set of links to the scans of another one, with other labels and further keys of dataset.json."""
    root.mkdir()
    for name in ("imagesTr", "imagesTs", "imagesUn", "imagesNo"):
        (root / name).symlink_to(phantoms / name)
    content = json.loads((phantoms / "dataset.json").read_text(encoding="utf-8"))
    for index, case in enumerate([*content["training"], *content["test"]]):
        label = nib.load(phantoms / case["label"])
        (root / case["label"]).parent.mkdir(exist_ok=True)
        values = change(index, np.asarray(label.dataobj), case).astype(np.uint8)
        nib.save(nib.Nifti1Image(values, label.affine), root / case["label"])
    write_datalist(root, {**content, **keys})
    return root


def short(bundle: Path) -> dict[str, Any]:
    return {} if bundle.name == "planar_heatmap_descriptor" else SHORT


def train(bundle: Path, scans: Path, models: Path, *names: str, **options: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a short training."""
    common = {"dataset_dir": str(scans), "ckpt_dir": str(models), "device": "cpu"}
    run(bundle, "train.yaml", *names, **common, **short(bundle), **{**scratch(bundle), **options})
    return torch.load(models / "model.pt", weights_only=True)


def evaluate(bundle: Path, scans: Path, folder: Path) -> list[dict[str, str]]:
    """Return the rows of the Dice of the test cases."""
    options = {"dataset_dir": str(scans), "ckpt_dir": str(folder / "models"), "device": "cpu"}
    run(bundle, "train.yaml", "evaluate.yaml", **options, evaluation_dir=str(folder / "scores"), num_pictures=1)
    return list(csv.DictReader((folder / "scores" / "mean_dice_raw.csv").open()))


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell whether weights are the same to the bit, but for the hashes of paths that an atlas has."""
    names = first.keys() - {"volume_ids"}
    return names == second.keys() - {"volume_ids"} and all(torch.equal(first[name], second[name]) for name in names)


@every_bundle
@pytest.mark.parametrize(
    ("change", "keys"),
    [(keep_slices, {"ignore": 255}), (keep_scribbles, {"ignore": 255}), (keep_organs, {})],
    ids=["slices", "scribbles", "organs"],
)
def test_labels_with_open_voxels_train_validate_and_evaluate(bundle, change, keys, phantoms, tmp_path, quiet_hooks):
    scans = write_set(phantoms, tmp_path / "scans", change, **keys)
    train(bundle, scans, tmp_path / "models")
    rows = evaluate(bundle, scans, tmp_path)
    assert len(rows) == 2
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    for row, case in zip(sorted(rows, key=lambda row: row["filename"]), content["test"], strict=True):
        names = [
            content["labels"][str(value)] for value in range(1, 5) if value not in case.get("classes", [1, 2, 3, 4])
        ]
        for name, value in row.items():
            if name in content["labels"].values():
                assert math.isnan(float(value or "nan")) == (name in names)


@every_bundle
def test_the_number_that_stands_for_open_voxels_changes_nothing_and_known_voxels_do(
    bundle, phantoms, tmp_path, quiet_hooks
):
    def write_another(index: int, label: np.ndarray, case: dict) -> np.ndarray:
        sparse = keep_slices(index, label, case)
        return np.where(sparse == 255, 9, sparse)

    first = write_set(phantoms, tmp_path / "first", keep_slices, ignore=255)
    second = write_set(phantoms, tmp_path / "second", write_another, ignore=9)
    weights = train(bundle, first, tmp_path / "models")
    assert are_equal(weights, train(bundle, second, tmp_path / "other_models"))
    assert not are_equal(weights, train(bundle, phantoms, tmp_path / "whole_models"))


@pytest.fixture
def pseudo_labels(request, tmp_path):
    """Return a function that writes pseudo-labels of the unlabeled scans of a data set, one half of each foreground."""

    def write(scans: Path, confidence: float) -> Path:
        folder = tmp_path / f"pseudo_labels_{confidence}"
        folder.mkdir()
        content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
        entries = []
        for image in (case if isinstance(case, str) else case["image"] for case in content["unlabeled"]):
            scan, name = nib.load(scans / image), Path(image).name
            label = np.zeros(scan.shape, np.uint8)
            label[: len(label) // 2] = 1
            nib.save(nib.Nifti1Image(label, scan.affine), folder / f"label_{name}")
            trust = np.full(scan.shape, confidence, np.float32)
            trust[:, ::2] = 0.0
            nib.save(nib.Nifti1Image(trust, scan.affine), folder / f"confidence_{name}")
            entries.append(PseudoLabel(image, f"label_{name}", f"confidence_{name}"))
        labels = {int(value): name for value, name in content["labels"].items()}
        write_pseudo_labels(folder, labels, entries)
        return folder

    return write


@every_bundle
def test_pseudo_labels_are_learned_from_beside_labels(bundle, phantoms, pseudo_labels, tmp_path, quiet_hooks):
    folder = str(pseudo_labels(phantoms, 1.0))
    options = {} if bundle.name == "planar_heatmap_descriptor" else {"labeled_fraction": 0.5}
    weights = train(bundle, phantoms, tmp_path / "models", pseudo_labels=folder, **options)
    assert not are_equal(weights, train(bundle, phantoms, tmp_path / "other_models"))


def test_pseudo_labels_are_a_third_stream_beside_labels_and_simulations(lesions, pseudo_labels, tmp_path, quiet_hooks):
    options = {"pseudo_labels": str(pseudo_labels(lesions, 1.0)), "labeled_fraction": 0.5}
    weights = train(LAYERS_BUNDLE, lesions, tmp_path / "models", "joint.yaml", **options)
    assert not are_equal(weights, train(LAYERS_BUNDLE, lesions, tmp_path / "other_models", "joint.yaml"))


def test_an_atlas_has_no_voxel_that_is_more_likely_wrong_than_right(phantoms, pseudo_labels, tmp_path, quiet_hooks):
    """Beyond the border of a scan is background without doubt."""
    bundle = LAYERS_BUNDLE.parent / "planar_heatmap_descriptor"
    weights = train(bundle, phantoms, tmp_path / "models", pseudo_labels=str(pseudo_labels(phantoms, 0.4)))
    without = train(bundle, phantoms, tmp_path / "other_models")
    assert torch.equal(weights["class_counts"][1:], without["class_counts"][1:])
    assert len(weights["volume_ids"]) == len(without["volume_ids"]) + 2
