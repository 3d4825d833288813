"""Command that tunes the votes of an atlas, on phantoms."""

from __future__ import annotations

import re

import pytest
from workflow_helpers import BUNDLES, FAST, SHORT, run

from common.data import write_phantoms
from tools.tune import tune

PLANAR = next(bundle for bundle in BUNDLES if bundle.name.startswith("planar"))


def test_another_method_and_a_folder_without_an_atlas_are_refused(tmp_path):
    with pytest.raises(ValueError, match="method must be one of planar, got 'fnet'"):
        tune("fnet", dataset_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"model\.pt: must exist, got no such file; run a training"):
        tune("planar", dataset_dir=str(tmp_path), ckpt_dir=str(tmp_path))


@pytest.mark.slow
def test_votes_are_tuned_on_validation_cases_and_the_best_options_are_named(tmp_path):
    data, weights = tmp_path / "data", tmp_path / "weights"
    write_phantoms(data, num_training=3, num_test=0, num_unlabeled=0)
    options = {**SHORT, **FAST, "pretrained": None}
    run(PLANAR, "train.yaml", dataset_dir=str(data), ckpt_dir=str(weights), **options)
    folders = {"dataset_dir": str(data), "ckpt_dir": str(weights)}
    text = tune("planar", **folders, override_files="configs/demo.yaml", num_cases=1, step=4, pretrained="null")
    first, *others, last = text.splitlines()
    scores = [float(line.rsplit(" ", 1)[1]) for line in (first, *others)]
    assert scores[-1] == max(scores) >= scores[0] > 0
    assert re.fullmatch(
        r"best on 1 cases.*: --fusion_weight \S+ --smoothing \S+ --num_neighbors \d+ --background_.*", last
    )
