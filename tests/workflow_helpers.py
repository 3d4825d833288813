"""How the tests of the workflows run a bundle: in this process, by a command, and until it is interrupted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from warm_process import run_python

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
PRETRAINED = [bundle for bundle in BUNDLES if (bundle / "configs" / "pretrain.yaml").is_file()]
CONTEXT = ROOT / "bundles" / "context_restoration_unet"
PLANAR = ROOT / "bundles" / "planar_heatmap_descriptor"
LAYERS_BUNDLE = ROOT / "bundles" / "layer_decomp_tumor"
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
every_pretrained_bundle = pytest.mark.parametrize("bundle", PRETRAINED, ids=lambda path: path.name)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
SHORT = {"max_epochs": 1, "iterations_per_epoch": 2}
FAST = {"num_workers": 0, "device": "cpu"}
COARSE = {"planar_heatmap_descriptor": {"step": 4}}  # voxels between described ones: an eighth of the work
SCORES = {"mean_dice_raw.csv", "surface_dice_raw.csv", "hausdorff_95_raw.csv"}
TABLES = {  # of an evaluation
    "fnet_wtacae_stl": SCORES,
    "fnet_wtacae_mtl": SCORES,
    "context_restoration_unet": SCORES | {"clinical_raw.csv"},
    "planar_heatmap_descriptor": SCORES,
    "layer_decomp_tumor": SCORES | {"sensitivity_raw.csv", "specificity_raw.csv"},
}


def workflow(bundle: Path, *names: str, kind: str = "train", **options) -> ConfigWorkflow:
    files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
    options = {**({} if "pretrain.yaml" in names else COARSE.get(bundle.name, {})), **options}
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, bundle_root=str(bundle), **options)


def run(*args, **kwargs) -> ConfigWorkflow:
    made = workflow(*args, **kwargs)
    made.initialize()
    assert made.check_properties() == []
    made.run()
    made.finalize()
    return made


def bundle_run(id: str, bundle: Path, *names: str, cwd: Path = ROOT, launcher=(), processes: int = 1, **options):
    files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
    command = [*launcher, "-m", "monai.bundle", "run", id, "--config_file", str(files)]
    coarse = {} if "pretrain.yaml" in names else COARSE.get(bundle.name, {})
    for name, value in {"bundle_root": bundle, **coarse, **options}.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return run_python(command, cwd, environment, processes)


def interrupt(made: ConfigWorkflow, epoch: int) -> None:
    """Run a workflow up to the start of an epoch."""
    made.initialize()

    def kill(engine):
        raise KeyboardInterrupt

    made.parser.get_parsed_content("train::trainer").add_event_handler(Events.EPOCH_STARTED(once=epoch), kill)
    with pytest.raises(KeyboardInterrupt):
        made.run()


def scratch(bundle: Path) -> dict:
    """Return the option by which a training of a bundle does without pretrained weights."""
    return {"pretrained": "null"} if bundle in PRETRAINED else {}


def last_words(made: ConfigWorkflow, capsys) -> list[str]:
    """Run a workflow that fails, and return the lines that a user sees."""
    with pytest.raises(Exception) as raised:  # MONAI wraps it
        made.initialize()
        made.run()
    capsys.readouterr()
    sys.excepthook(raised.type, raised.value, raised.tb)
    return capsys.readouterr().err.splitlines()


def liver_pretraining(scans: Path, folder: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        [str(LAYERS_BUNDLE / "configs" / name) for name in ("pretrain.yaml", "small.yaml", "liver.yaml")],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(LAYERS_BUNDLE),
        dataset_dir=str(scans),
        ckpt_dir=str(folder / "models"),
        device="cpu",
        features=[4, 4, 4, 4],
        **SHORT,
        val_iterations=1,
    )
