"""Laws of the command that trains and scores nnU-Net; it is run only where its environment is set up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from common.data import read_cases
from tools.nnunet.__main__ import nnunet
from tools.phantom import phantom
from tools.study.report import read_dice

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-nnunet/bin/python"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "quik"}, "variant"),
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"spacing": 4.0}, "spacing must be left out with nnU-Net's own plan"),
        ({"split": "training"}, "split"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        nnunet("training", dataset_dir=str(tmp_path), output_dir=str(tmp_path), **options)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.is_file(), reason="needs .venv-nnunet, see tools/nnunet.sh")
def test_a_short_training_leaves_a_score_for_each_test_case(tmp_path):
    phantom(str(tmp_path / "data"))
    options = ["--dataset_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--num_labeled", "1"]
    options += ["--variant", "quick", "--steps", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for workflow in ("training", "evaluation"):
        subprocess.run([PYTHON, "-m", "tools.nnunet", workflow, *options], env=environment, check=True)
    assert json.loads((tmp_path / "run/nnunet/training.json").read_text(encoding="utf-8"))["steps"] == 3
    cases = read_cases(tmp_path / "data", num_labeled=1)
    dice = read_dice(tmp_path / "run/evaluation/mean_dice_raw.csv")
    assert [*dice] == [case["image"] for case in cases.labeled("test")]
    assert {*next(iter(dice.values()))} == {*list(cases.labels.values())[1:], "mean"}
