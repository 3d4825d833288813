"""Every workflow of every bundle runs, in the order in which a user runs them, on phantoms."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from PIL import Image

from common.active_learning import load_describer
from common.data import PHANTOM_LABELS, write_datalist, write_lesion_phantoms, write_phantoms

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
PRETRAINED = [bundle for bundle in BUNDLES if (bundle / "configs" / "pretrain.yaml").is_file()]
every_pretrained_bundle = pytest.mark.parametrize("bundle", PRETRAINED, ids=lambda path: path.name)
PICTURES = {  # drawn while a network is trained, besides its learning curves
    "fnet_wtacae_stl": {"kernels.png", "reconstructions.png"},
    "fnet_wtacae_mtl": {"kernels.png", "reconstructions.png"},
    "context_restoration_unet": {"restorations.png"},
    "planar_heatmap_descriptor": {"pairs.png", "embedding.png"},
    "layer_decomp_tumor": {"layers.png", "simulation.png"},
}
TABLES = {  # of an evaluation
    "fnet_wtacae_stl": {"mean_dice_raw.csv"},
    "fnet_wtacae_mtl": {"mean_dice_raw.csv"},
    "context_restoration_unet": {"mean_dice_raw.csv", "clinical_raw.csv"},
    "planar_heatmap_descriptor": {"mean_dice_raw.csv"},
    "layer_decomp_tumor": {
        *("mean_dice_raw.csv", "hausdorff_95_raw.csv", "sensitivity_raw.csv", "specificity_raw.csv"),
    },
}
CONTEXT = ROOT / "bundles" / "context_restoration_unet"
SHORT = {"max_epochs": 1, "iterations_per_epoch": 2}
FAST = {"num_workers": 0, "device": "cpu"}
COARSE = {"planar_heatmap_descriptor": {"step": 4}}  # voxels between described ones: an eighth of the work


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    scans = write_phantoms(tmp_path_factory.mktemp("phantoms"), num_training=5, num_test=2, num_unlabeled=2, size=48)
    shutil.copytree(scans / "imagesUn", scans / "imagesNo")  # no phantom has a lesion
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    normal = [f"imagesNo/{path.name}" for path in sorted((scans / "imagesNo").iterdir())]
    write_datalist(scans, {**content, "normal": normal})
    return scans


@pytest.fixture
def quiet_hooks(monkeypatch):
    """The workflows install an exception hook; it shall not outlive a test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def workflow(bundle: Path, *names: str, kind: str = "train", **options) -> ConfigWorkflow:
    files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
    options = {**COARSE.get(bundle.name, {}), **options}
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, bundle_root=str(bundle), **options)


def run(*args, **kwargs) -> ConfigWorkflow:
    made = workflow(*args, **kwargs)
    made.initialize()
    assert made.check_properties() == []
    made.run()
    made.finalize()
    return made


def bundle_run(id: str, bundle: Path, *names: str, cwd: Path = ROOT, launcher=("-m", "monai.bundle"), **options):
    files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
    command = [sys.executable, *launcher, "run", id, "--config_file", str(files)]
    coarse = {} if "pretrain.yaml" in names else COARSE.get(bundle.name, {})
    for name, value in {"bundle_root": bundle, **coarse, **options}.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


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


@every_bundle
def test_pretrain_train_evaluate_infer(bundle, phantoms, tmp_path, quiet_hooks):
    weights, scores, output = tmp_path / "models", tmp_path / "scores", tmp_path / "output"
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(weights), "device": "cpu"}

    def describe():
        return load_describer(bundle, ["configs/demo.yaml"], {"ckpt_dir": str(weights)})(scan)

    scan = sorted(str(path) for path in (phantoms / "imagesUn").iterdir())[0]
    if bundle in PRETRAINED:
        run(bundle, "pretrain.yaml", **common, **SHORT)
        pretrained = describe()
    trained = run(bundle, "train.yaml", **common, **SHORT, num_labeled=2, num_validation=1)
    assert trained.parser.get_parsed_content("train::trainer").state.iteration == 2
    assert not list(weights.rglob("*.ckpt")), "a finished training leaves no checkpoint"
    assert {path.name for path in weights.rglob("*.png")} == PICTURES[bundle.name] | {"learning_curve.png"}

    if bundle in PRETRAINED:
        assert torch.equal(describe(), pretrained), "the order of the scans to label outlives a training"
        shutil.rmtree(weights / "pretrained")
    assert describe().isfinite().all()

    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(scores))
    rows = list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
    assert [Path(row["filename"]).name for row in rows] == ["phantom_005.nii.gz", "phantom_006.nii.gz"]
    assert list(rows[0]) == ["filename", "liver", "spleen", "right kidney", "left kidney", "mean"]
    assert len(list(scores.glob("*.png"))) == 2
    assert {path.name for path in scores.glob("*.csv")} == TABLES[bundle.name]

    images = phantoms / "imagesTs"
    run(bundle, "inference.yaml", kind="infer", **{**common, "dataset_dir": str(images)}, output_dir=str(output))
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert len(report["cases"]) == 2
    for path in sorted(images.glob("*.nii.gz")):
        image, segmentation = nib.load(path), nib.load(output / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert segmentation.shape == image.shape
        np.testing.assert_allclose(segmentation.affine, image.affine, atol=1e-4)
        assert segmentation.get_data_dtype() == np.uint8


@every_bundle
def test_inference_gives_what_evaluation_scores(bundle, phantoms, tmp_path, quiet_hooks):
    """Both read the same weights and the same fitted preprocessing, in workflows of their own."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(bundle, "train.yaml", **common, max_epochs=3, iterations_per_epoch=10, num_validation=1, **scratch(bundle))
    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(tmp_path))
    images = phantoms / "imagesTs"
    exact = {**common, "dataset_dir": str(images)}
    if "output_dtype" in (bundle / "configs" / "inference.yaml").read_text(encoding="utf-8"):
        exact["inferer::output_dtype"] = "$torch.float32"
    run(bundle, "inference.yaml", kind="infer", **exact, output_dir=str(tmp_path))
    for row in csv.DictReader((tmp_path / "mean_dice_raw.csv").open()):
        name = Path(row["filename"]).name
        label = np.asarray(nib.load(phantoms / "labelsTs" / name).dataobj)
        segmentation = np.asarray(nib.load(tmp_path / name.replace(".nii.gz", "_seg.nii.gz")).dataobj)
        for value, organ in enumerate(("liver", "spleen", "right kidney", "left kidney"), start=1):
            both = np.sum((label == value) & (segmentation == value))
            dice = 2 * both / (np.sum(label == value) + np.sum(segmentation == value))
            assert float(row[organ]) == pytest.approx(dice, abs=1e-6)


@every_bundle
@pytest.mark.parametrize("form", ["scan.nii", "scan.nrrd", "scan.mha", "series"])
def test_every_file_form_gives_the_same_segmentation(bundle, form, phantoms, tmp_path, quiet_hooks):
    weights = tmp_path / "models"
    common = {"ckpt_dir": str(weights), "device": "cpu"}
    fitted = {"num_labeled": 1, "num_validation": 1, **scratch(bundle)}
    run(bundle, "train.yaml", **common, **SHORT, **fitted, dataset_dir=str(phantoms))
    original = phantoms / "imagesTs" / "phantom_005.nii.gz"
    convert(original, tmp_path / form)

    def segment(path: Path) -> np.ndarray:
        output = tmp_path / f"{path.name}_output"
        run(bundle, "inference.yaml", kind="infer", **common, dataset_dir=str(path), output_dir=str(output))
        (segmentation,) = output.glob("*_seg.nii.gz")
        return np.asarray(nib.as_closest_canonical(nib.load(segmentation)).dataobj)

    np.testing.assert_array_equal(segment(tmp_path / form), segment(original))


def convert(source: Path, target: Path) -> None:
    """Write a scan as another type of file or, without a suffix, as a folder of DICOM slices."""
    image = itk.imread(source, itk.SS)
    if target.suffix:
        itk.imwrite(image, str(target))
        return
    target.mkdir()
    direction = itk.array_from_matrix(image.GetDirection())
    for index, values in enumerate(itk.array_from_image(image)):
        position = np.array(itk.origin(image)) + direction @ (np.array(itk.spacing(image)) * (0, 0, index))
        single = itk.image_from_array(values[None].copy())
        single.SetSpacing(image.GetSpacing())
        tags = single.GetMetaDataDictionary()
        tags["0008|0060"], tags["0020|000d"], tags["0020|000e"] = "CT", "1.2.3.1", "1.2.3.2"
        tags["0020|0013"] = str(index + 1)
        tags["0020|0032"] = "\\".join(f"{value:.6f}" for value in position)
        tags["0020|0037"] = "\\".join(f"{value:.6f}" for value in direction[:, :2].T.ravel())
        dicom = itk.GDCMImageIO.New()
        dicom.KeepOriginalUIDOn()
        itk.ImageFileWriter[type(single)].New(
            Input=single, FileName=str(target / f"{index}.dcm"), ImageIO=dicom
        ).Update()


@every_bundle
def test_runs_by_command_from_another_folder(bundle, phantoms, tmp_path):
    done = bundle_run(
        "training",
        bundle,
        "train.yaml",
        cwd=tmp_path,
        dataset_dir=phantoms,
        ckpt_dir=tmp_path / "models",
        num_validation=1,
        **scratch(bundle),
        **SHORT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "models" / "model.pt").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


@every_pretrained_bundle
def test_missing_pretrained_weights_end_in_one_sentence(bundle, phantoms, tmp_path):
    missing = tmp_path / "nothing.pt"
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=phantoms, ckpt_dir=tmp_path, pretrained=missing)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}")
    assert "Traceback" not in done.stderr


@every_bundle
def test_a_wrong_bundle_root_ends_in_one_sentence(bundle, phantoms, tmp_path):
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=phantoms, bundle_root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path}: bundle_root must be")
    assert list(tmp_path.iterdir()) == []


@every_bundle
def test_a_misspelled_option_ends_in_the_one_that_was_meant(bundle, tmp_path):
    """MONAI added it to the config in silence, and the training took as long as it does without."""
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=tmp_path, max_epoch=1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    *_, sentence = done.stderr.strip().splitlines()
    assert sentence.startswith("error: --max_epoch must be an option of ")
    assert sentence.endswith("did you mean --max_epochs?")
    assert list(tmp_path.iterdir()) == []


TORCHRUN = ("-m", "torch.distributed.run")
MONAI = ("-m", "monai.bundle")
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
        pytest.param(
            ROOT / "bundles" / "fnet_wtacae_mtl",
            "train.yaml",
            {"alternate": True, "autoencoder_optimizer": SGD},
            id="fnet_wtacae_mtl-alternate",
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
    launcher = (*TORCHRUN, "--standalone", "--nproc_per_node=2", *MONAI)
    done = bundle_run(
        "run", bundle, name, "multi_gpu_train.yaml", launcher=launcher, ckpt_dir=tmp_path / "two", **options
    )
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
    arguments = ["fnet_wtacae_stl", "training", "train.yaml,multi_gpu_train.yaml,demo.yaml"]
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


@every_bundle
def test_several_processes_write_the_tables_and_segmentations_of_one(bundle, phantoms, tmp_path, quiet_hooks):
    """Byte for byte; of three processes, one is not needed for two cases."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    options = {**scratch(bundle), "num_labeled": 1, "num_validation": 1}
    run(bundle, "train.yaml", **common, **SHORT, **options)
    del common["device"]
    expected, written = tmp_path / "one", tmp_path / "several"

    def launch(id: str, num_processes: int, *names: str, **options):
        launcher = (*TORCHRUN, "--standalone", f"--nproc_per_node={num_processes}", *MONAI)
        return bundle_run(id, bundle, *names, launcher=launcher, **{**common, **options})

    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(expected))
    done = launch("evaluation", 2, "train.yaml", "evaluate.yaml", "multi_gpu_evaluate.yaml", evaluation_dir=written)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in expected.glob("*.csv")} == TABLES[bundle.name]
    images = {"dataset_dir": str(phantoms / "imagesTs")}
    run(bundle, "inference.yaml", kind="infer", **{**common, **images}, output_dir=str(expected))
    done = launch("inference", 3, "inference.yaml", "multi_gpu_inference.yaml", **images, output_dir=written)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(written.glob("*_seg.nii.gz"))) == 2
    files, same = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (expected, written))
    assert files == same


def test_a_scan_that_one_of_several_processes_cannot_read_ends_all_in_one_sentence(phantoms, tmp_path, quiet_hooks):
    """The other one has nothing left to do but to wait for it."""
    options = {"ckpt_dir": str(tmp_path / "models"), "pretrained": "null", "num_labeled": 1, "num_validation": 1}
    run(CONTEXT, "train.yaml", **options, **SHORT, dataset_dir=str(phantoms), device="cpu")
    scans = shutil.copytree(phantoms / "imagesTs", tmp_path / "scans")
    path = scans / "phantom_006.nii.gz"
    scan = nib.load(path)
    values = np.asarray(scan.dataobj).astype(np.float32)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), path)
    launcher = (*TORCHRUN, "--standalone", "--nproc_per_node=2", *MONAI)
    folders = {"dataset_dir": scans, "ckpt_dir": options["ckpt_dir"], "output_dir": tmp_path / "output"}
    done = bundle_run("inference", CONTEXT, "inference.yaml", "multi_gpu_inference.yaml", launcher=launcher, **folders)
    assert done.returncode == 1
    sentence = f"error: {path}: every voxel must be finite, got 1 NaN"
    assert f"[rank1]: {sentence}" in done.stderr and f"traceback : {sentence}" in done.stderr
    assert "[rank0]: error:" not in done.stderr.replace("[rank0]: error: another process has failed", "")
    assert not (tmp_path / "output" / "report.json").exists()


@every_bundle
def test_tracking_with_mlflow_has_the_numbers_of_the_history(bundle, phantoms, tmp_path, quiet_hooks, monkeypatch):
    """In a file beside the weights, without a server. MONAI's tracking stumbled over the output of every training."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path / "models"), "device": "cpu", "tracking": "mlflow"}

    def track(*names: str, **options) -> None:
        made = workflow(bundle, *names, **{**common, **options})
        made.initialize()
        made.run()

    track("train.yaml", **SHORT, **scratch(bundle), num_labeled=1, num_validation=1)
    folders = {tmp_path / "models": "FINISHED"}
    if bundle == CONTEXT:
        track("pretrain.yaml", **SHORT)
        track("train.yaml", "evaluate.yaml", evaluation_dir=str(tmp_path / "scores"))
        images = {"dataset_dir": str(phantoms / "imagesTs"), "output_dir": str(tmp_path / "output")}
        track("inference.yaml", kind="infer", **images)
        folders |= {tmp_path / "models" / "pretrained": "FINISHED", tmp_path / "output": "FINISHED"}
        folders |= {tmp_path / "scores": "RUNNING"}  # MONAI does not close it
    for folder, status in folders.items():
        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
        (experiment,) = [found for found in client.search_experiments() if found.name == "monai_experiment"]
        (tracked,) = client.search_runs(experiment.experiment_id)
        assert tracked.info.status == status
        if (folder / "history.csv").is_file():
            (row,) = csv.DictReader((folder / "history.csv").open())
            numbers = {name: float(value) for name, value in row.items() if name not in ("epoch", "seconds")}
            assert tracked.data.metrics == pytest.approx(numbers)
    assert {path.name for path in tmp_path.iterdir()} == {path.relative_to(tmp_path).parts[0] for path in folders}


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


def test_the_weights_of_one_f_net_bundle_serve_the_other(phantoms, tmp_path, quiet_hooks):
    """What S-MTL trains is an F-Net like that of S-TL: same names, same preprocessing, same segmentation."""
    weights = {"ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    multi_task, transfer = (ROOT / "bundles" / f"fnet_wtacae_{method}" for method in ("mtl", "stl"))
    run(multi_task, "train.yaml", **weights, **SHORT, dataset_dir=str(phantoms), num_labeled=2, num_validation=1)
    image = phantoms / "imagesTs" / "phantom_005.nii.gz"
    for bundle in (multi_task, transfer):
        output = str(tmp_path / bundle.name)
        run(bundle, "inference.yaml", kind="infer", **weights, dataset_dir=str(image), output_dir=output)
    first, second = (tmp_path / bundle.name / "phantom_005_seg.nii.gz" for bundle in (multi_task, transfer))
    np.testing.assert_array_equal(np.asarray(nib.load(first).dataobj), np.asarray(nib.load(second).dataobj))


@pytest.mark.parametrize("options", [{"alternate": True}, {"tie_norm": True}, {"gamma": 0.5}], ids=str)
def test_every_way_of_multi_task_training_learns_and_is_recorded(options, phantoms, tmp_path, quiet_hooks):
    bundle = ROOT / "bundles" / "fnet_wtacae_mtl"
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", "num_validation": 1}
    run(bundle, "train.yaml", **common, **options, max_epochs=3, iterations_per_epoch=8)
    history = list(csv.DictReader((tmp_path / "history.csv").open()))
    for name in ("train_loss", "segmentation_loss", "reconstruction_loss"):
        assert float(history[-1][name]) < float(history[0][name])
    for row in history:
        total = float(row["segmentation_loss"]) + float(row["gamma"]) * float(row["reconstruction_loss"])
        if "gamma" in options:
            assert float(row["train_loss"]) == pytest.approx(total, rel=1e-4)


def test_mr_is_learned_from_and_has_no_hounsfield_units(phantoms, tmp_path, quiet_hooks):
    scans = tmp_path / "scans"
    shutil.copytree(phantoms, scans)
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(scans, {**content, "modality": {"0": "MRI"}})
    weights, scores = tmp_path / "models", tmp_path / "scores"
    common = {"dataset_dir": str(scans), "ckpt_dir": str(weights), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", "mr.yaml", **common, **SHORT)
    trained = run(CONTEXT, "train.yaml", "mr.yaml", **common, **SHORT, num_labeled=2, num_validation=1)
    assert trained.parser.get_parsed_content("module").encoder[0].conv.in_channels == 1
    run(CONTEXT, "train.yaml", "evaluate.yaml", "mr.yaml", **common, evaluation_dir=str(scores))
    assert list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
    assert not any("hu" in column for column in next(csv.DictReader((scores / "clinical_raw.csv").open())))
    images = {**common, "dataset_dir": str(scans / "imagesTs")}
    run(CONTEXT, "inference.yaml", "mr.yaml", kind="infer", **images, output_dir=str(tmp_path / "output"))
    assert len(list((tmp_path / "output").glob("*_seg.nii.gz"))) == 2


def test_prediction_empties_what_restoration_swaps(phantoms, tmp_path, quiet_hooks):
    seen = {}
    for name in ("RandContextPrediction", "RandContextRestoration"):
        options = {"corruption::_target_": f"common.transforms.{name}", **SHORT, "device": "cpu"}
        made = run(CONTEXT, "pretrain.yaml", dataset_dir=str(phantoms), ckpt_dir=str(tmp_path / name), **options)
        output = made.parser.get_parsed_content("train::trainer").state.output
        seen[name] = (output["image"], output["label"])
        assert (tmp_path / name / "pretrained" / "context_unet.pt").is_file()
    image, target = seen["RandContextPrediction"]
    assert not image[image != target].any() and (image != target).any()
    image, target = seen["RandContextRestoration"]
    assert not torch.equal(image, target)
    torch.testing.assert_close(image.flatten(2).sort().values, target.flatten(2).sort().values)


def test_png_images_with_png_labels_get_png_label_maps(tmp_path, quiet_hooks):
    """A picture of 40 x 56 pixels, wide as most are, keeps its pixels in their places."""
    rng = np.random.default_rng(0)
    listed: dict[str, list] = {"training": [], "test": [], "unlabeled": []}
    for index, split in enumerate([*["training"] * 5, *["test"] * 2, *["unlabeled"] * 2]):
        row, column = rng.integers(8, 24, 2)
        label = np.zeros((40, 56), np.uint8)
        label[row : row + 10, column : column + 20] = 1
        image = (60 + 120 * label + rng.integers(0, 30, label.shape)).astype(np.uint8)
        case = {"image": f"image_{index}.png", "label": f"label_{index}.png"}
        for name, pixels in zip(case.values(), (image, label), strict=True):
            Image.fromarray(pixels).save(tmp_path / name)
        listed[split].append(case["image"] if split == "unlabeled" else case)
    write_datalist(tmp_path, {"labels": {"0": "background", "1": "bone"}, "modality": {"0": "US"}, **listed})

    weights, output = tmp_path / "models", tmp_path / "output"
    common = {"dataset_dir": str(tmp_path), "ckpt_dir": str(weights), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", "mr.yaml", **common, **SHORT)
    run(CONTEXT, "train.yaml", "mr.yaml", **common, max_epochs=4, iterations_per_epoch=15, num_validation=1)
    run(CONTEXT, "train.yaml", "evaluate.yaml", "mr.yaml", **common, evaluation_dir=str(tmp_path / "scores"))
    rows = list(csv.DictReader((tmp_path / "scores" / "mean_dice_raw.csv").open()))
    for case, row in zip(listed["test"], rows, strict=True):
        image = {**common, "dataset_dir": str(tmp_path / case["image"])}
        run(CONTEXT, "inference.yaml", "mr.yaml", kind="infer", **image, output_dir=str(output))
        label = np.asarray(Image.open(tmp_path / case["label"]))
        segmentation = np.asarray(Image.open(output / case["image"].replace(".png", "_seg.png")))
        assert segmentation.shape == label.shape and segmentation.dtype == np.uint8
        dice = 2 * np.sum(segmentation * label) / np.sum(segmentation + label)
        assert dice > 0.5 and dice == pytest.approx(float(row["bone"]), abs=1e-6)


@pytest.mark.parametrize("softmax", [False, True])
def test_probabilities_are_one_file_with_a_map_for_each_class(softmax, phantoms, tmp_path, quiet_hooks):
    common = {"ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    options = {**SHORT, "num_validation": 1, "pretrained": "null", "softmax": softmax}
    trained = run(CONTEXT, "train.yaml", **common, dataset_dir=str(phantoms), **options)
    assert trained.parser.get_parsed_content("loss").softmax is softmax
    image, output = phantoms / "imagesTs" / "phantom_005.nii.gz", tmp_path / "output"
    options = {"dataset_dir": str(image), "output_dir": str(output), "save_probabilities": True}
    run(CONTEXT, "inference.yaml", kind="infer", **common, **options)
    (path,) = output.glob("*_probability.nii.gz")
    probabilities = np.asarray(nib.load(path).dataobj)
    assert probabilities.shape == (*nib.load(image).shape, 4)
    assert 0 <= probabilities.min() < probabilities.max() <= 1
    np.testing.assert_allclose(nib.load(path).affine, nib.load(image).affine, atol=1e-4)
    segmentation = np.asarray(nib.load(output / "phantom_005_seg.nii.gz").dataobj)
    expected = np.where(probabilities.max(-1) > 0.5, probabilities.argmax(-1) + 1, 0)
    np.testing.assert_array_equal(segmentation, expected)


@pytest.mark.parametrize("max_epochs", [1, 2])
def test_the_encoder_is_frozen_for_as_long_as_asked(max_epochs, phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", **common, **SHORT)
    options = {"num_validation": 1, "freeze_epochs": 1, "iterations_per_epoch": 2, "max_epochs": max_epochs}
    trained = run(CONTEXT, "train.yaml", **common, **options).parser.get_parsed_content("module").state_dict()
    pretrained = torch.load(tmp_path / "pretrained" / "context_unet.pt", weights_only=True)
    for name, value in pretrained.items():
        if name.startswith("encoder."):
            assert torch.equal(trained[name], value) == (max_epochs == 1), name
    assert not torch.equal(trained["decoder.0.conv.weight"], pretrained["decoder.0.conv.weight"])


def test_clinical_metrics_are_those_of_the_label_and_the_segmentation(phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(CONTEXT, "train.yaml", **common, **SHORT, num_validation=1, pretrained="null")
    run(CONTEXT, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "clinical_raw.csv").open()))
    assert len(rows) == 2 * 4
    for row in rows:
        label = nib.load(row["filename"].replace("imagesTs", "labelsTs"))
        mask = np.asarray(label.dataobj) == PHANTOM_LABELS.index(row["class"])
        assert float(row["volume_mm3_label"]) == pytest.approx(mask.sum() * np.prod(label.header.get_zooms()), rel=1e-4)
        hounsfield = np.asarray(nib.load(row["filename"]).dataobj)[mask].mean()
        assert float(row["mean_hu_label"]) == pytest.approx(hounsfield, abs=1e-3)


def last_words(made: ConfigWorkflow, capsys) -> list[str]:
    """Run a workflow that fails, and return the lines that a user sees."""
    with pytest.raises(Exception) as raised:  # MONAI wraps it
        made.initialize()
        made.run()
    capsys.readouterr()
    sys.excepthook(raised.type, raised.value, raised.tb)
    return capsys.readouterr().err.splitlines()


OPTIONS = {  # what text and numbers out of range are given for
    "max_epochs": 0,
    "iterations_per_epoch": 0,
    "val_interval": 0,
    "val_iterations": 0.5,
    "batch_size": 0,
    "unlabeled_batch_size": -1,
    "num_workers": -1,
    "learning_rate": 0,
    "transferred_learning_rate": -1,
    "patience": 0,
    "freeze_epochs": -1,
    "seed": -1,
    "num_labeled": 1.5,
    "num_validation": 0,
    "num_unlabeled": -1,
    "num_pictures": -1,
    "tile_size": 0,
    "kernel_size": 2.5,
    "gain": 0,
    "features": [8, 0],
    "image_channels": 0,
    "in_channels": 0,
    "num_groups": 0,
    "cache_rate": 2,
    "step": 0,
    "num_neighbors": 0,
    "half_width": 0,
    "half_depth": -1,
    "cube_half_width": 0,
    "position_weight": -1,
    "search_radius": 0,
    "smoothing": -1,
    "background_weight": 0,
    "max_background": 0,
    "max_voxels": 0.5,
    "snapshot_interval": 0,
    "field_of_view": [100, 0, 100],
    "softmax": 1,
    "save_probabilities": 1,
    "layers": 1,
    "organ_margin": -1,
    "max_findings": 0,
    "roi_size": 0,
    "overlap": 2,
    "kernel_sizes": [0],
    "strides": [0],
    "roughness": 2,
    "tumor_prob": 2,
    "composition_delay": -1,
    "organ_weight": -1,
    "foreground_fraction": 2,
}


@every_bundle
@pytest.mark.parametrize(
    "names", [["pretrain.yaml"], ["train.yaml"], ["train.yaml", "evaluate.yaml"], ["inference.yaml"]]
)
def test_text_and_numbers_out_of_range_end_in_one_sentence_with_the_name_of_the_option(
    bundle, names, phantoms, tmp_path, quiet_hooks, capsys
):
    if not (bundle / "configs" / names[0]).is_file():
        pytest.skip("its method is a single training")
    kind = "infer" if names[0] == "inference.yaml" else "train"
    tried = 0
    for option, out_of_range in OPTIONS.items():
        for value in ("abc", out_of_range):
            common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path)}
            made = workflow(bundle, *names, kind=kind, **common, **{option: value})
            if f"'@{option}'" in str(made.parser["initialize"]):
                tried += 1
                (line,) = last_words(made, capsys)
                assert line.startswith(f"error: {option} must be ") and line.endswith(f", got {value!r}")
    assert tried >= 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("organ", "liver", "one of brain, body, given"),
        ("tumor_target", "foo", "one of texture, blended"),
        ("task", "foo", "one of layers, restoration, rotation, location, jigsaw"),
        ("norm", "foo", 'batch, instance or ["group", {"num_groups": 8}], whose groups divide 8 maps'),
    ],
)
def test_a_word_that_is_no_choice_ends_in_one_sentence_before_any_scan_is_read(
    option, value, choices, tmp_path, quiet_hooks, capsys
):
    """The error named the argument of whoever used the word much later, or listed what PyTorch calls its norms."""
    missing = {"dataset_dir": str(tmp_path / "missing"), "ckpt_dir": str(tmp_path)}
    (line,) = last_words(workflow(LAYERS_BUNDLE, "pretrain.yaml", **missing, **{option: value}), capsys)
    assert line == f"error: {option} must be {choices}, got {value!r}"
    assert list(tmp_path.iterdir()) == []


def test_text_for_a_number_ends_in_one_sentence_on_a_command_line(phantoms, tmp_path):
    done = bundle_run("training", CONTEXT, "train.yaml", dataset_dir=phantoms, ckpt_dir=tmp_path, learning_rate="abc")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == "error: learning_rate must be a number above 0, got 'abc'"


@every_bundle
def test_a_data_set_without_cases_to_learn_from_ends_in_what_to_look_at(
    bundle, phantoms, tmp_path, quiet_hooks, capsys
):
    content = json.loads((phantoms / "dataset.json").read_text(encoding="utf-8"))
    images = [case["image"] for case in content["training"]]
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    ids = [Path(image).name.split(".")[0] for image in images]
    for change, split in (
        ({"training": [], "unlabeled": images}, "training"),
        ({"folds": [ids, []]}, "training"),
        ({"folds": [[], ids]}, "validation"),
    ):
        write_datalist(scans, {**content, **change})
        common = {"dataset_dir": str(scans), "ckpt_dir": str(tmp_path), **FAST, **SHORT, **scratch(bundle)}
        (line,) = last_words(workflow(bundle, "train.yaml", **common), capsys)
        assert line.startswith(f"error: split {split} must hold cases with labels, got none; look at training, folds")


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pretrain.yaml", {"patch_size": 64}, "patch_size must let two patches fit into a quarter of the image"),
        ("pretrain.yaml", {"patch_size": "big"}, "patch_size must be a whole number from 1, got 'big'"),
        ("pretrain.yaml", {"sampling": "poison"}, "sampling must be poisson or uniform, got 'poison'"),
        ("train.yaml", {"features": [10, 20]}, "features must be multiples of num_groups 8, got (10, 20)"),
        ("train.yaml", {"features": "16,32"}, "features must be a list, each entry a whole number from 1, got '16,32'"),
        ("train.yaml", {"in_channels": 1}, "image must have in_channels 1, got 3 channels"),
        ("train.yaml", {"axis": "axial"}, "axis must be 0, 1 or 2, got 'axial'"),
        ("train.yaml", {"slice_size": 32}, "slice_size must be height and width in pixels, such as [256, 256], got 32"),
        ("train.yaml", {"transferred_parts": "head"}, "parts must be one of ['encoder', "),
        ("train.yaml", {"freeze_epochs": -1}, "freeze_epochs must be a whole number from 0, got -1"),
        ("inference.yaml", {"save_probabilities": "no"}, "save_probabilities must be True or False, got 'no'"),
        ("inference.yaml", {}, "{phantoms}: is a data set with labels; name the folder of its scans"),
    ],
    ids=str,
)
def test_bad_options_end_in_one_sentence(name, options, sentence, phantoms, tmp_path, quiet_hooks, capsys):
    common = {"ckpt_dir": str(tmp_path), "dataset_dir": str(phantoms), **FAST, **SHORT, "pretrained": "null"}
    kind = "infer" if name == "inference.yaml" else "train"
    made = workflow(CONTEXT, name, kind=kind, **{**common, **options})
    (line,) = last_words(made, capsys)
    assert line.startswith("error: " + sentence.format(phantoms=phantoms))
    assert not list(tmp_path.rglob("*.pt"))


PLANAR = ROOT / "bundles" / "planar_heatmap_descriptor"


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
    ("task", "descriptor"),
    [
        ("reg2d", "planar"),
        ("heatmap", "joint"),
        ("doersch", "cubic"),
        (None, "gvdiff"),
        (None, "gvdiff_centered"),
        (None, "coord"),
    ],
)
def test_every_task_and_descriptor_segments(task, descriptor, phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    if task is not None:
        run(PLANAR, "pretrain.yaml", **common, **SHORT, task=task, val_iterations=1, snapshot_interval=1)
        pretrained = tmp_path / "pretrained"
        assert {"pairs.png", "descriptors.pt", "descriptors_0001.pt"} <= {path.name for path in pretrained.iterdir()}
    options = {"descriptor": descriptor, **({} if task else scratch(PLANAR))}
    made = run(PLANAR, "train.yaml", **common, **options, num_labeled=2, num_validation=1)
    atlas = made.parser.get_parsed_content("module")
    assert len(atlas.volume_ids) == 2 and atlas.class_counts.min() > 0
    if task is not None:
        learned = torch.load(tmp_path / "pretrained" / "descriptors.pt", weights_only=True)
        learning = atlas.descriptor.parts[0] if descriptor == "joint" else atlas.descriptor
        for name, value in learning.state_dict().items():
            assert torch.equal(value, learned[name]), name
    image, output = phantoms / "imagesTs" / "phantom_005.nii.gz", tmp_path / "output"
    options |= {"dataset_dir": str(image), "output_dir": str(output), "save_confidence": True}
    options.pop("pretrained", None)
    run(PLANAR, "inference.yaml", kind="infer", **{**common, **options})
    confidence = np.asarray(nib.load(output / "phantom_005_confidence.nii.gz").dataobj)
    segmentation = np.asarray(nib.load(output / "phantom_005_seg.nii.gz").dataobj)
    assert confidence.shape == segmentation.shape == nib.load(image).shape
    assert segmentation.any() and confidence.max() <= 1 + 1e-5
    assert confidence.min() > 0.2 - 1e-5  # of five classes, the winner has most, and beyond the box all votes


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pretrain.yaml", {"task": "heat"}, "task must be one of heatmap, reg2d, doersch, got 'heat'"),
        ("pretrain.yaml", {"sampling": "cubic"}, "sampling must be one of bilinear, nearest, got 'cubic'"),
        ("pretrain.yaml", {"field_of_view": [20, 20, 20]}, "field_of_view must be at least 32 mm along each axis"),
        (
            "train.yaml",
            {"descriptor": "sift"},
            "descriptor must be one of planar, cubic, gvdiff, gvdiff_centered, coord, joint",
        ),
        ("train.yaml", {"voting": "loud"}, "voting must be one of"),
        ("train.yaml", {"max_voxels": 10}, "max_voxels must be at least"),
        ("train.yaml", {"resume": "no"}, "resume must be True or False, got 'no'"),
        ("inference.yaml", {"save_confidence": "no"}, "save_confidence must be True or False, got 'no'"),
    ],
    ids=str,
)
def test_bad_options_of_descriptors_end_in_one_sentence(
    name, options, sentence, phantoms, tmp_path, quiet_hooks, capsys
):
    common = {"ckpt_dir": str(tmp_path), "dataset_dir": str(phantoms), "device": "cpu", "pretrained": "null"}
    kind = "infer" if name == "inference.yaml" else "train"
    made = workflow(PLANAR, name, kind=kind, **{**common, "step": 4, **options})
    (line,) = last_words(made, capsys)
    assert line.startswith("error: " + sentence)
    assert not list(tmp_path.rglob("*.pt"))


def test_an_atlas_of_another_descriptor_is_refused_at_inference(phantoms, tmp_path, quiet_hooks, capsys):
    common = {"ckpt_dir": str(tmp_path), "device": "cpu"}
    options = {"descriptor": "coord", "step": 4, "num_labeled": 2, "num_validation": 1, **scratch(PLANAR)}
    run(PLANAR, "train.yaml", **common, **options, dataset_dir=str(phantoms))
    images = {"dataset_dir": str(phantoms / "imagesTs"), "output_dir": str(tmp_path / "output")}
    (line,) = last_words(workflow(PLANAR, "inference.yaml", kind="infer", **common, **images), capsys)
    assert line.startswith(
        f"error: {tmp_path}/model.pt: weights must be those of the network that the config describes"
    )
    assert not (tmp_path / "output").exists()


LAYERS_BUNDLE = ROOT / "bundles" / "layer_decomp_tumor"


@pytest.fixture(scope="module")
def lesions(tmp_path_factory) -> Path:
    counts = {"num_training": 5, "num_test": 2, "num_unlabeled": 2, "num_normal": 3}
    return write_lesion_phantoms(tmp_path_factory.mktemp("lesions"), **counts, size=48)


def test_tumors_are_segmented_without_any_label_and_the_layers_written(lesions, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, **SHORT)
    run(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **common, **SHORT)
    for weights in ("pretrained", "adapted"):
        scores, path = tmp_path / f"{weights}_scores", str(tmp_path / "models" / weights / "layer_unet.pt")
        evaluated = run(
            *(LAYERS_BUNDLE, "train.yaml", "evaluate.yaml", "zero_shot.yaml"),
            **common,
            evaluation_dir=str(scores),
            weights=path,
        )
        assert evaluated.parser.get_parsed_content("network_def").head.out_channels == 3
        rows = list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
        assert [list(row) for row in rows] == 2 * [["filename", "tumor", "mean"]]

    output = tmp_path / "output"
    images = {**common, "dataset_dir": str(lesions / "imagesTs"), "organ_dir": str(lesions / "organs")}
    run(
        *(LAYERS_BUNDLE, "inference.yaml", "zero_shot.yaml"),
        kind="infer",
        **images,
        output_dir=str(output),
        layers=True,
    )
    for path in sorted((lesions / "imagesTs").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        image = nib.load(path)
        found, organ, tumor = (nib.load(output / f"{name}_{kind}.nii.gz") for kind in ("seg", "organ", "tumor"))
        assert found.shape == image.shape and {organ.shape, tumor.shape} == {image.shape}
        inside = np.asarray(nib.load(lesions / "organs" / path.name).dataobj) > 0
        assert not np.asarray(found.dataobj)[~inside].any()


def test_an_evaluation_has_no_layers(lesions, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT, "val_iterations": 1}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common)
    files = ("train.yaml", "evaluate.yaml", "zero_shot.yaml")
    (line,) = last_words(workflow(LAYERS_BUNDLE, *files, **common, layers=True), capsys)
    assert line.startswith("error: layers must be one of False, got True")


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


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, (1, 1, 0, 1, 0)),
        ({"organ_weight": 0, "tumor_weight": 0}, (0, 0, 0, 1, 0)),
        ({"organ_weight": 0, "tumor_weight": 0, "composition_weight": 0}, (0, 0, 1, 0, 1)),
    ],
)
def test_a_pretraining_chooses_its_weights_by_what_it_learns(options, weights, lesions, tmp_path):
    made = workflow(LAYERS_BUNDLE, "pretrain.yaml", dataset_dir=str(lesions), ckpt_dir=str(tmp_path), **options)
    assert made.parser.get_parsed_content("validate::errors::layers").weights == weights


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


def test_weights_keep_their_preprocessing_until_others_replace_them(lesions, tmp_path, quiet_hooks):
    """A second pretraining that ended before its first weights left its own preprocessing beside those of the first."""
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu", **SHORT, "val_iterations": 1}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common)
    stored = tmp_path / "pretrained" / "preprocessing.json"
    assert json.loads(stored.read_text(encoding="utf-8"))["clip"] == [0, 200]
    interrupt(workflow(LAYERS_BUNDLE, "pretrain.yaml", **common, clip=[-200, 400]), epoch=1)
    assert json.loads(stored.read_text(encoding="utf-8"))["clip"] == [0, 200]
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, clip=[-200, 400])
    assert json.loads(stored.read_text(encoding="utf-8"))["clip"] == [-200, 400]


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
    for options, name in (({"alpha": [0.2, 0.3]}, "simulation"), ({"normal_batch_size": 1}, "normal_batch_size")):
        (line,) = last_words(workflow(LAYERS_BUNDLE, *files, **{**common, **options}), capsys)
        assert line.startswith("error: ") and f"checkpoint must be of the same settings, got {name} " in line
    run(LAYERS_BUNDLE, *files, **common)
    assert (tmp_path / "model.pt").is_file()


def test_two_processes_learn_beside_simulations_what_one_does(lesions, tmp_path, quiet_hooks):
    files = ("train.yaml", "joint.yaml")
    common = {**SHORT, "amp": False, "optimizer": SGD, "num_validation": 1, "pretrained": "null", "device": "cpu"}
    one = {**common, "dataset_dir": str(lesions), "ckpt_dir": str(tmp_path / "one"), "batch_size": 4}
    run(LAYERS_BUNDLE, *files, **one, normal_batch_size=2)
    launcher = (*TORCHRUN, "--standalone", "--nproc_per_node=2", *MONAI)
    two = {**common, "dataset_dir": lesions, "batch_size": 2, "normal_batch_size": 1}
    del two["device"]
    done = bundle_run(
        *("run", LAYERS_BUNDLE, *files, "multi_gpu_train.yaml"), launcher=launcher, ckpt_dir=tmp_path / "two", **two
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "one", tmp_path / "two")


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


def test_settings_of_the_liver_learn_from_tumors_that_keep_the_noise_of_their_scan(lesions, tmp_path, quiet_hooks):
    """Smooth tumors in a noisy scan would be found by their smoothness, which real ones do not have."""
    made = liver_pretraining(lesions, tmp_path)
    made.initialize()
    made.run()
    assert (tmp_path / "models" / "pretrained" / "layer_unet.pt").is_file()

    simulation = made.parser.get_parsed_content("simulation")
    generator = torch.Generator().manual_seed(0)
    scan, donor = (1 + 0.2 * torch.randn(1, 64, 64, 16, generator=generator) for _ in range(2))
    kept = []
    for seed in range(16):
        layers = simulation.set_random_state(seed)(scan, torch.ones_like(scan), donor, (2.0, 2.0, 5.0))
        inside = layers[2] > 0.9
        if inside.sum() > 50:
            kept.append(float(layers[4][inside].std() / scan[0][inside].std()))
    assert len(kept) > 6
    assert min(kept) > 0.45


def test_settings_of_the_liver_want_its_mask(lesions, tmp_path, quiet_hooks, capsys):
    scans = shutil.copytree(lesions, tmp_path / "scans")
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(scans, {**content, "normal": [entry["image"] for entry in content["normal"]]})
    (line,) = last_words(liver_pretraining(scans, tmp_path), capsys)
    assert line.startswith("error: ") and "organ" in line


@pytest.mark.parametrize("task", ["restoration", "rotation", "location", "jigsaw"])
def test_every_pretext_task_leaves_an_encoder_to_train_from(task, lesions, tmp_path, quiet_hooks, monkeypatch):
    if task in ("location", "jigsaw"):
        # oneDNN's gradients of maps of two voxels, which the cells of a small patch have, are now and then NaN
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, **SHORT, task=task)
    trained = run(LAYERS_BUNDLE, "train.yaml", **common, **SHORT, num_labeled=1, num_validation=1, learning_rate=1e-9)
    pretrained = torch.load(tmp_path / "pretrained" / "layer_unet.pt", weights_only=True)
    network = trained.parser.get_parsed_content("module")
    torch.testing.assert_close(network.encoder[0][0].weight, pretrained["encoder.0.0.weight"])


def test_scans_without_normal_ones_end_in_how_to_get_them(lesions, tmp_path, quiet_hooks, capsys):
    scans = shutil.copytree(lesions, tmp_path / "scans")
    write_datalist(scans, {**json.loads((scans / "dataset.json").read_text(encoding="utf-8")), "normal": []})
    made = workflow(
        LAYERS_BUNDLE, "pretrain.yaml", dataset_dir=str(scans), ckpt_dir=str(tmp_path / "models"), device="cpu"
    )
    (line,) = last_words(made, capsys)
    assert line.startswith("error: normal must list at least one scan") and "tools.normals" in line
