"""Several processes learn, score and segment what one does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
from itertools import zip_longest
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from workflow_helpers import (
    BUNDLES,
    CONTEXT,
    LAYERS_BUNDLE,
    ROOT,
    SHORT,
    TABLES,
    TORCHRUN,
    bundle_run,
    every_bundle,
    run,
    scratch,
)

pytestmark = pytest.mark.slow
BATCHES = {  # of each of two processes, by the names of the options
    "fnet_wtacae_stl": {"batch_size": 2},
    "fnet_wtacae_mtl": {"batch_size": 2, "unlabeled_batch_size": 3},
    "context_restoration_unet": {"batch_size": 3},
    "planar_heatmap_descriptor": {},  # a training of an atlas has no minibatches
    "layer_decomp_tumor": {"batch_size": 2},
}
# Adam would divide the rounding errors of gradients that are 0, those of biases before a norm, by their own size
SGD = {"_target_": "torch.optim.SGD", "params": "$@module.parameters()", "lr": 0.02}


def train_as_one(bundle: Path, name: str, phantoms: Path, folder: Path, **options) -> dict:
    """Train in this process with minibatches for two, and return the options of each of these two."""
    batches = BATCHES[bundle.name] if name == "train.yaml" else {"batch_size": 2}
    common = SHORT | ({"amp": False, "optimizer": SGD} if batches else {"num_labeled": 2}) | options
    if bundle.name == "planar_heatmap_descriptor":
        common.pop("amp", None)
    if name == "train.yaml":
        common |= {"num_validation": 1, **scratch(bundle)}
    twice = {option: 2 * size for option, size in batches.items()}
    run(bundle, name, dataset_dir=str(phantoms), ckpt_dir=str(folder), device="cpu", **common, **twice)
    return {**common, **batches, "dataset_dir": phantoms}


@pytest.mark.parametrize(
    ("bundle", "name", "options"),
    [
        *(pytest.param(bundle, "train.yaml", {}, id=bundle.name) for bundle in BUNDLES),
        *(
            pytest.param(
                bundle,
                "train.yaml",
                {"pretrained": "random", "freeze_epochs": 1, "max_epochs": 2},
                id=f"{bundle.name}-unfrozen",
            )
            for bundle in (CONTEXT, ROOT / "bundles" / "fnet_wtacae_stl")
        ),
        pytest.param(
            ROOT / "bundles" / "fnet_wtacae_mtl",
            "train.yaml",
            {"alternate": True, "autoencoder_optimizer": SGD},
            id="fnet_wtacae_mtl-alternate",
        ),
        *(
            pytest.param(bundle, "train.yaml", {"weight_averaging": 0.75}, id=f"{bundle.name}-averaged")
            for bundle in (ROOT / "bundles" / "fnet_wtacae_mtl", LAYERS_BUNDLE)
        ),
        *(
            pytest.param(
                bundle,
                "pretrain.yaml",
                {"optimizer": {**SGD, "lr": 1e-4}} if bundle == CONTEXT else {},  # it diverges with more
                id=f"{bundle.name}-pretrain",
            )
            for bundle in BUNDLES
            if (bundle / "configs" / "pretrain.yaml").is_file()
        ),
    ],
)
def test_two_processes_learn_what_one_does_with_twice_the_minibatch(
    bundle, name, options, phantoms, tmp_path, quiet_hooks
):
    """The same patches in every step, and so the same losses and weights. The first process writes them."""
    options = train_as_one(bundle, name, phantoms, tmp_path / "one", **options)
    done = bundle_run("run", bundle, name, processes=2, ckpt_dir=tmp_path / "two", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_two_machines_under_slurm_learn_what_one_process_does_with_twice_the_minibatch(phantoms, tmp_path, quiet_hooks):
    """Two launchers that know nothing of one another but an address; what SLURM does is played by two commands."""
    options = train_as_one(ROOT / "bundles" / "fnet_wtacae_stl", "train.yaml", phantoms, tmp_path / "one")
    commands = {"scontrol": "echo 127.0.0.1", "srun": 'shift 2; "$@" & first=$!; "$@"; wait $first'}
    for name, line in commands.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/usr/bin/env bash\nset -e\n{line}\n", encoding="utf-8")
        command.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": str(port - 10000), "SLURM_JOB_NODELIST": "a,b", "SLURM_JOB_NUM_NODES": "2"}
    environment = {**os.environ, **job, "PATH": f"{command.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    arguments = ["fnet_wtacae_stl", "training", "train.yaml,demo.yaml"]
    for name, value in {**options, "ckpt_dir": tmp_path / "two"}.items():
        arguments += [f"--{name}", str(value)]
    done = subprocess.run(
        ["bash", "tools/slurm.sh", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def assert_same_training(one: Path, two: Path) -> None:
    (path,) = one.rglob("*.pt")
    expected, weights = (torch.load(file, weights_only=True) for file in (path, two / path.relative_to(one)))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
    (path,) = one.rglob("history.csv")
    histories = [list(csv.DictReader(file.open())) for file in (path, two / path.relative_to(one))]
    for row, other in zip(*histories, strict=True):
        assert float(other.get("train_loss", 0)) == pytest.approx(float(row.get("train_loss", 0)), rel=1e-5)
        assert float(other.get("mean_dice") or 0) == pytest.approx(float(row.get("mean_dice") or 0), abs=1e-3)


@pytest.mark.pictures
@every_bundle
def test_several_processes_write_the_tables_and_segmentations_of_one(bundle, phantoms, tmp_path, quiet_hooks):
    """Byte for byte; of three processes, one is not needed for two cases."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    options = {**scratch(bundle), "num_labeled": 1, "num_validation": 1}
    run(bundle, "train.yaml", **common, **SHORT, **options)
    del common["device"]
    expected, written = tmp_path / "one", tmp_path / "several"

    def launch(id: str, num_processes: int, *names: str, **options):
        return bundle_run(id, bundle, *names, processes=num_processes, **{**common, **options})

    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(expected))
    done = launch("evaluation", 2, "train.yaml", "evaluate.yaml", evaluation_dir=written)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in expected.glob("*.csv")} == TABLES[bundle.name]
    images = {"dataset_dir": str(phantoms / "imagesTs")}
    run(bundle, "inference.yaml", kind="infer", **{**common, **images}, output_dir=str(expected))
    done = launch("inference", 3, "inference.yaml", **images, output_dir=written)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(written.glob("*_seg.nii.gz"))) == 2
    files, same = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (expected, written))
    reports = [json.loads(content.pop("report.json")) for content in (files, same)]  # with their commands and times
    assert reports[0]["cases"] == reports[1]["cases"] and len(reports[0]["cases"]) == 2
    assert all(b"data:image/png" in content.pop("report.html") for content in (files, same))
    origins = [sorted(content.pop("origins.jsonl").splitlines()) for content in (files, same)]  # in no order
    assert origins[0] == origins[1] and len(origins[0]) == 2
    assert files.keys() == same.keys()
    assert [_difference(expected / name, written / name) for name in sorted(files) if files[name] != same[name]] == []


def _difference(file: Path, other: Path) -> str:
    """Describe how two files differ, in a line."""
    if file.name.endswith(".nii.gz"):
        first, second = (np.asanyarray(nib.load(path).dataobj) for path in (file, other))
        return f"{file.name}: {np.count_nonzero(first != second)} voxels"
    lines = (path.read_bytes().splitlines() for path in (file, other))
    return f"{file.name}: {[pair for pair in zip_longest(*lines) if pair[0] != pair[1]][:2]}"


def test_a_scan_that_one_of_several_processes_cannot_read_leaves_the_others_alone(phantoms, tmp_path, quiet_hooks):
    """The second process has nothing to report but that."""
    options = {"ckpt_dir": str(tmp_path / "models"), "pretrained": "null", "num_labeled": 1, "num_validation": 1}
    run(CONTEXT, "train.yaml", **options, **SHORT, dataset_dir=str(phantoms), device="cpu")
    scans = shutil.copytree(phantoms / "imagesTs", tmp_path / "scans")
    path = scans / "phantom_006.nii.gz"
    scan = nib.load(path)
    values = np.asarray(scan.dataobj).astype(np.float32)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), path)
    folders = {"dataset_dir": scans, "ckpt_dir": options["ckpt_dir"], "output_dir": tmp_path / "output"}
    done = bundle_run("inference", CONTEXT, "inference.yaml", launcher=TORCHRUN, **folders)
    assert done.returncode == 1
    sentence = (
        f"error: 1 of 2 cases were refused (phantom_006); the first: {path}: every voxel must be finite, got 1 NaN"
    )
    assert f"\n{sentence}" in done.stderr and f": {sentence}" in done.stderr
    report = json.loads((tmp_path / "output" / "report.json").read_text(encoding="utf-8"))
    assert len(report["cases"]) == 2 and len([*(tmp_path / "output").glob("*_seg.nii.gz")]) == 1


def test_two_processes_learn_beside_simulations_what_one_does(lesions, tmp_path, quiet_hooks):
    files = ("train.yaml", "joint.yaml")
    common = {**SHORT, "amp": False, "optimizer": SGD, "num_validation": 1, "pretrained": "null", "device": "cpu"}
    one = {**common, "dataset_dir": str(lesions), "ckpt_dir": str(tmp_path / "one"), "batch_size": 4}
    run(LAYERS_BUNDLE, *files, **one, normal_batch_size=2)
    two = {**common, "dataset_dir": lesions, "batch_size": 2, "normal_batch_size": 1}
    del two["device"]
    done = bundle_run(*("run", LAYERS_BUNDLE, *files), processes=2, ckpt_dir=tmp_path / "two", **two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "one", tmp_path / "two")
