"""Every workflow of every bundle stops at a signal, and a training goes on with the same numbers."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from ignite.engine import Events
from workflow_helpers import BUNDLES, PRETRAINED, every_bundle, run, scratch, workflow

from common.cli import Interruption

pytestmark = pytest.mark.slow

FIRST = Events.ITERATION_COMPLETED(once=1)
COMMON = {"num_validation": 1, "device": "cpu", "num_labeled": 3}
SHORT = {"max_epochs": 3, "iterations_per_epoch": 2, "val_iterations": 1, "val_interval": 1}


@pytest.fixture(autouse=True)
def handlers(quiet_hooks):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop(made, engine: str, number: signal.Signals, event=FIRST) -> Interruption:
    """Run a workflow that is sent a signal in the course of an engine, and return what stopped it."""
    made.initialize()
    sender = made.parser.get_parsed_content(engine)
    sender.add_event_handler(event, lambda engine: os.kill(os.getpid(), number))
    with pytest.raises(Interruption) as stopped:
        made.run()
    return stopped.value


@every_bundle
def test_a_training_that_was_stopped_goes_on_with_the_same_numbers(bundle, phantoms, tmp_path):
    options = {**COMMON, **SHORT, **scratch(bundle), "dataset_dir": str(phantoms)}
    run(bundle, "train.yaml", ckpt_dir=str(tmp_path / "whole"), **options)
    stopped = workflow(bundle, "train.yaml", ckpt_dir=str(tmp_path / "stopped"), **options)
    error = stop(stopped, "train::trainer", signal.SIGTERM, Events.EPOCH_STARTED(once=2))
    assert error.status == 143 and str(error).startswith("interrupted in epoch ")
    assert "the same command goes on after epoch " in str(error)
    run(bundle, "train.yaml", ckpt_dir=str(tmp_path / "stopped"), **options)
    whole, resumed = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "stopped"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@every_bundle
def test_evaluation_inference_and_validation_stop_between_two_cases(bundle, phantoms, tmp_path):
    options = {**COMMON, **scratch(bundle), "dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path)}
    short = {**SHORT, "max_epochs": 1}
    error = stop(
        workflow(bundle, "train.yaml", **options, **short, resume=False),
        "validate::evaluator",
        signal.SIGINT,
        Events.STARTED,
    )
    assert error.status == 130 and "the same command without --resume False goes on from the last" in str(error)
    run(bundle, "train.yaml", **options, **short)
    places = {"ckpt_dir": str(tmp_path), "evaluation_dir": str(tmp_path / "scores"), "device": "cpu"}
    made = workflow(bundle, "train.yaml", "evaluate.yaml", dataset_dir=str(phantoms), **places)
    error = stop(made, "validate::evaluator", signal.SIGINT)
    assert error.status == 130 and str(error).startswith("interrupted after 1 of 2; ")
    places = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    made = workflow(bundle, "inference.yaml", kind="infer", dataset_dir=str(phantoms / "imagesTs"), **places)
    error = stop(made, "evaluator", signal.SIGTERM)
    assert error.status == 143 and str(error).startswith("interrupted after 1 of 2; ")


@pytest.mark.parametrize("bundle", [bundle for bundle in BUNDLES if bundle in PRETRAINED], ids=lambda path: path.name)
def test_a_pretraining_stops_at_a_signal(bundle, phantoms, tmp_path):
    options = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT}
    error = stop(workflow(bundle, "pretrain.yaml", **options), "train::trainer", signal.SIGINT)
    assert error.status == 130 and str(error).startswith("interrupted in epoch 1 of 3; ")
    assert not list(tmp_path.rglob("*.partial*"))
