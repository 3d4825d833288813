"""A training that is interrupted goes on as if it had not been, and never with other settings."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch
from ignite.engine import Events
from workflow_helpers import LAYERS_BUNDLE, PLANAR, SHORT, every_bundle, interrupt, last_words, run, scratch, workflow

pytestmark = pytest.mark.slow


@every_bundle
def test_a_killed_training_goes_on_with_the_same_numbers(bundle, phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "num_validation": 1, "device": "cpu"}
    options = {**common, **scratch(bundle), "max_epochs": 3, "iterations_per_epoch": 2, "val_interval": 1}
    run(bundle, "train.yaml", ckpt_dir=str(tmp_path / "whole"), **options)

    killed = workflow(bundle, "train.yaml", ckpt_dir=str(tmp_path / "killed"), **options)
    interrupt(killed, epoch=3)
    run(bundle, "train.yaml", ckpt_dir=str(tmp_path / "killed"), **options)

    whole, resumed = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed"))
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=0)
    histories = [list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("whole", "killed")]
    assert [{**row, "seconds": ""} for row in histories[0]] == [{**row, "seconds": ""} for row in histories[1]]


def test_an_atlas_outlives_a_validation_that_fails(phantoms, tmp_path, quiet_hooks):
    """Described scans must not be lost by a broken validation case: the weights are there, and the checkpoint, too."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", **scratch(PLANAR)}
    made = workflow(PLANAR, "train.yaml", **common, num_labeled=1, num_validation=1, descriptor="coord")
    made.initialize()

    def fail(engine):
        raise RuntimeError("a broken case")

    made.parser.get_parsed_content("validate::evaluator").add_event_handler(Events.STARTED, fail)
    with pytest.raises(RuntimeError):
        made.run()
    assert (tmp_path / "model.pt").is_file() and (tmp_path / "training.ckpt").is_file()


@pytest.mark.parametrize(
    ("name", "value"), [("half_width", 0.3), ("padding", "zeros"), ("spacing", 7.0), ("field_of_view", [260, 200, 200])]
)
def test_a_pretraining_does_not_go_on_with_another_geometry(name, value, phantoms, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", "val_iterations": 1}
    common |= {"max_epochs": 2, "iterations_per_epoch": 1}
    interrupt(workflow(PLANAR, "pretrain.yaml", **common), epoch=2)
    (line,) = last_words(workflow(PLANAR, "pretrain.yaml", **{**common, name: value}), capsys)
    assert line.startswith("error: ") and name in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("clip", [-200, 400]), ("alpha", [0.2, 0.3]), ("mask_weight", 0.5), ("patch_size", [16, 16, 16])],
)
def test_a_pretraining_does_not_go_on_with_other_simulations(name, value, lesions, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", "val_iterations": 1}
    common |= {"max_epochs": 2, "iterations_per_epoch": 1, "batch_size": 1}
    interrupt(workflow(LAYERS_BUNDLE, "pretrain.yaml", **common), epoch=2)
    (line,) = last_words(workflow(LAYERS_BUNDLE, "pretrain.yaml", **{**common, name: value}), capsys)
    assert line.startswith("error: ") and "checkpoint must be of the same settings" in line


def test_an_adaptation_does_not_go_on_with_other_scans_or_weights(lesions, tmp_path, quiet_hooks, capsys):
    """It went on in silence with another fold's scans, or from a pretraining that it had not started from."""
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", "val_iterations": 1}
    common |= {"max_epochs": 2, "iterations_per_epoch": 1, "batch_size": 1}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common)
    copied = shutil.copytree(tmp_path / "pretrained", tmp_path / "others") / "layer_unet.pt"
    interrupt(workflow(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **common), epoch=2)
    scans = "$@cases.pretraining(num_unlabeled=1)"
    for options, name in (
        ({"adapted": str(copied)}, "adapted"),
        ({"train::real_dataset::data": scans}, "real_data"),
        ({"real_batch_size": 2}, "real_batch_size"),
    ):
        (line,) = last_words(workflow(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **common, **options), capsys)
        assert line.startswith("error: ") and f"checkpoint must be of the same settings, got {name} " in line


@every_bundle
def test_weights_keep_their_record_until_others_replace_them(bundle, phantoms, tmp_path, quiet_hooks):
    """A second training that ended before its first weights left its own preprocessing beside those of the first."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT, "num_validation": 1}
    common |= {"num_labeled": 1, **scratch(bundle)}
    if bundle == PLANAR:
        common |= {"preprocessing_like": "null", "resume": False}

    def seed() -> int:
        return json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["settings"]["seed"]

    run(bundle, "train.yaml", **common, seed=0)
    assert seed() == 0
    interrupt(workflow(bundle, "train.yaml", **common, seed=1), epoch=1)
    assert seed() == 0
    run(bundle, "train.yaml", **common, seed=1)
    assert seed() == 1


def test_an_adaptation_keeps_the_preprocessing_of_its_weights(lesions, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, val_iterations=1)
    (line,) = last_words(workflow(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **common, clip=[-200, 400]), capsys)
    assert line.startswith("error: clip must be that of the pretraining of")


def test_a_fine_tuning_beside_simulations_is_given_both_and_goes_on_with_the_same(
    lesions, tmp_path, quiet_hooks, capsys
):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", "pretrained": "null"}
    common |= {"max_epochs": 2, "iterations_per_epoch": 1, "batch_size": 1, "normal_batch_size": 2}
    files = ("train.yaml", "joint.yaml")
    made = workflow(LAYERS_BUNDLE, *files, **common)
    batch = next(iter(made.parser.get_parsed_content("train::dataloader")))
    images, labels = made.parser.get_parsed_content("train::trainer").prepare_batch(batch)
    assert torch.equal(images[:1], batch["labeled"]["image"]) and torch.equal(labels[:1], batch["labeled"]["label"])
    assert len(images) == len(labels) == 3
    assert labels[1:].any()
    changed = (images[1:] - batch["normal"]["image"]).abs() > 1e-6
    assert not (labels[1:].bool() & ~changed).any()  # what counts as a tumor was put into the scan
    interrupt(workflow(LAYERS_BUNDLE, *files, **common), epoch=2)
    for options, name in (({"alpha": [0.2, 0.3]}, "alpha"), ({"normal_batch_size": 1}, "normal_batch_size")):
        (line,) = last_words(workflow(LAYERS_BUNDLE, *files, **{**common, **options}), capsys)
        assert line.startswith("error: ") and f"checkpoint must be of the same settings, got {name} " in line
    run(LAYERS_BUNDLE, *files, **common)
    assert (tmp_path / "model.pt").is_file()
