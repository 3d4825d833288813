"""Laws of the overrides that put MONAI's networks in the place of a bundle's."""

from __future__ import annotations

import csv

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import BasicUNet, DynUNet
from workflow_helpers import LAYERS_BUNDLE, ROOT

from tools.verify.config_ids import has

RESULTS = ROOT / "docs/results"
NETWORKS = {BasicUNet: ["basic_unet.yaml"], DynUNet: ["basic_unet.yaml", "dynunet.yaml"]}
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)


@every_network
def test_every_overridden_id_is_one_of_the_training(network):
    training = ConfigParser.load_config_file(LAYERS_BUNDLE / "configs/train.yaml")
    for name in NETWORKS[network]:
        assert [id for id in ConfigParser.load_config_file(RESULTS / name) if not has(training, id)] == []


@every_network
def test_the_network_takes_a_patch_and_gives_a_logit_for_each_class(network):
    parser = ConfigParser()
    parser.read_config([LAYERS_BUNDLE / "configs/train.yaml", *(RESULTS / name for name in NETWORKS[network])])
    parser.update({"cases": None, "labels": {0: "background", 1: "a", 2: "b"}, "modality": ["CT"]})
    made = parser.get_parsed_content("network_def")
    assert isinstance(made, network)
    assert made(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


@pytest.mark.slow
@every_network
def test_a_training_keeps_the_last_weights_and_an_evaluation_scores_them(network, phantoms, tmp_path, quiet_hooks):
    overrides = [str(RESULTS / name) for name in NETWORKS[network]]
    options = {"bundle_root": str(LAYERS_BUNDLE), "dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path)}
    options |= {"patch_size": 32, "roi_size": 32, "features": [4, 4, 8, 8, 8, 4][: 6 if network is BasicUNet else 4]}
    options |= {"max_epochs": 2, "iterations_per_epoch": 2, "device": "cpu", "num_labeled": 1, "num_validation": 1}
    configs = [str(LAYERS_BUNDLE / "configs" / name) for name in ("train.yaml", "evaluate.yaml")]
    for files, more in ((configs[:1], {}), (configs, {"evaluation_dir": str(tmp_path / "evaluation")})):
        made = ConfigWorkflow([*files, *overrides], workflow_type="train", logging_file=False, **options, **more)
        made.initialize()
        made.run()
        made.finalize()
        if not more:
            evaluator = made.parser.get_parsed_content("validate::evaluator")
            assert evaluator.state.best_metric_epoch == evaluator.state.epoch == 2
    with (tmp_path / "evaluation/mean_dice_raw.csv").open(encoding="utf-8") as file:
        assert len([*csv.reader(file)]) == 1 + 2
