"""Every workflow of every bundle works from one labeled scan on, and a pretraining without any."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from workflow_helpers import BUNDLES, every_bundle, every_pretrained_bundle, run, scratch, workflow

from common.data import write_datalist

pytestmark = pytest.mark.slow
ONCE = {"max_epochs": 1, "iterations_per_epoch": 1, "val_iterations": 1}


def once(bundle: Path, name: str) -> dict:
    """Return the options that make a workflow as short as it can be, of those that it has."""
    text = (bundle / "configs" / name).read_text(encoding="utf-8")
    return {key: value for key, value in ONCE.items() if f"\n{key}:" in text}


@pytest.fixture
def label_few(phantoms, tmp_path):
    """Return a function that makes a data set of links: labeled scans in a folder for each patient, no test label."""

    def make(number: int) -> Path:
        root = tmp_path / f"labels_{number}"
        root.mkdir()
        for name in ("imagesTs", "imagesUn", "imagesNo"):
            (root / name).symlink_to(phantoms / name)
        content = json.loads((phantoms / "dataset.json").read_text(encoding="utf-8"))
        for index, case in enumerate(content["training"][:number]):
            folder = root / f"patient_{index}"
            folder.mkdir()
            for key in ("image", "label"):
                (folder / f"{key}.nii.gz").symlink_to(phantoms / case[key])
                case[key] = f"{folder.name}/{key}.nii.gz"
            case["patient"] = folder.name
        content["training"] = content["training"][:number]
        content["test"] = [case["image"] for case in content["test"]]
        write_datalist(root, content)
        return root

    return make


@every_bundle
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_few_labels_train_evaluate_and_infer(bundle, number, label_few, tmp_path, quiet_hooks, caplog):
    scans = label_few(number)
    common = {"dataset_dir": str(scans), "ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    run(bundle, "train.yaml", **common, **once(bundle, "train.yaml"), **scratch(bundle))
    assert ("training and validation share them" in caplog.text) == (number == 1)
    run(bundle, "train.yaml", "evaluate.yaml", **common, split="validation", evaluation_dir=str(tmp_path / "scores"))
    assert len(list(csv.DictReader((tmp_path / "scores" / "mean_dice_raw.csv").open()))) == 1
    image = scans / "imagesTs" / "phantom_005.nii.gz"
    output = tmp_path / "output"
    run(bundle, "inference.yaml", kind="infer", **{**common, "dataset_dir": str(image)}, output_dir=str(output))
    assert (output / "phantom_005_seg.nii.gz").is_file()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_default_options_leave_labels_to_train_on_and_to_validate_with(number, label_few):
    scans = str(label_few(number))
    for bundle in BUNDLES:
        made = workflow(bundle, "train.yaml", dataset_dir=scans, **scratch(bundle))
        cases = made.parser.get_parsed_content("cases")
        assert len(cases.labeled("training")) == max(number - 1, 1)
        assert len(cases.labeled("validation")) == 1
        assert len(cases.unlabeled) == 2


@every_pretrained_bundle
def test_pretraining_needs_no_label(bundle, label_few, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(label_few(0)), "ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    run(bundle, "pretrain.yaml", **common, **once(bundle, "pretrain.yaml"), fold=4)
    assert list((tmp_path / "models" / "pretrained").glob("*.pt"))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_every_pretraining_has_scans_to_learn_from_whatever_has_a_label(number, label_few):
    scans = str(label_few(number))
    for bundle in BUNDLES:
        if not (bundle / "configs" / "pretrain.yaml").is_file():
            continue
        for fold in (0, 4):
            cases = workflow(bundle, "pretrain.yaml", dataset_dir=scans, fold=fold).parser.get_parsed_content("cases")
            assert (
                cases.pretraining() and cases.held_out() and cases.normals("training") and cases.normals("validation")
            )
