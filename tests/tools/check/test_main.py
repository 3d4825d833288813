"""Laws of the check of a run before it is started."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from workflow_helpers import BUNDLES, PRETRAINED, bundle_run, scratch

from common.data import write_phantoms

WORKFLOWS = [
    *((bundle, "training", "train.yaml") for bundle in BUNDLES),
    *((bundle, "pretraining", "pretrain.yaml") for bundle in PRETRAINED if bundle.name != "layer_decomp_tumor"),
]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), num_training=4, num_test=2, num_unlabeled=2, size=32)


@pytest.fixture
def check(run_tool, capsys):
    """Return a function that checks a run, and returns whether it would start and the lines of the summary."""

    def _check(*arguments, **options) -> tuple[bool, list[str]]:
        words = [str(word) for word in arguments]
        words += [f"--{name}={value}" for name, value in options.items()]
        try:
            printed, _ = run_tool("tools.check", *words)
        except SystemExit as ended:
            assert ended.code == 1
            return False, capsys.readouterr().out.splitlines()
        return True, printed.splitlines()

    return _check


def problems(lines, kind="problem") -> list[str]:
    return [line.removeprefix(kind).strip() for line in lines if line.startswith(f"{kind} ")]


def copy(source: Path, target: Path, change=lambda voxels: voxels) -> None:
    """Write an image anew, as floats, perhaps with other voxels."""
    image = nib.load(source)
    voxels = change(np.asarray(image.dataobj).astype(np.float32))
    nib.save(nib.Nifti1Image(voxels, image.affine), target)


@pytest.mark.parametrize(
    ("bundle", "workflow", "name"), WORKFLOWS, ids=[f"{bundle.name}-{workflow}" for bundle, workflow, _ in WORKFLOWS]
)
def test_of_a_run_that_would_start_it_is_told_what_it_reads_and_writes(
    bundle, workflow, name, phantoms, tmp_path, check
):
    options = scratch(bundle) if workflow == "training" else {}
    options |= {"config_file": f"{name},demo.yaml", "dataset_dir": phantoms, "ckpt_dir": tmp_path / "models"}
    starts, lines = check(bundle.name, workflow, **options, report=tmp_path / "report.json")
    assert starts and lines[-1].startswith("would start, 0 warnings")
    assert len(lines) < 16
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["would_start"] and report["problems"] == []
    assert {name: len(cases) for name, cases in report["cases"].items()} | {"training": 3} == {
        **{"training": 3, "validation": 1, "test": 2, "unlabeled": 2},
    }
    assert sum(report["memory"].values()) > 0 and report["disk"] > 0
    assert {"history.csv", "record.json"} <= {Path(file).name for file in report["files"]}
    assert not (tmp_path / "models").exists()


def test_all_problems_are_told_and_not_only_the_first(phantoms, tmp_path, check):
    scans = shutil.copytree(phantoms, tmp_path / "scans")

    def spoil(voxels):
        voxels[0, 0, :2] = np.nan
        return voxels

    def renumber(voxels):
        voxels[0, 0, 0] = 9
        return voxels

    copy(scans / "imagesTr" / "phantom_000.nii.gz", scans / "imagesTr" / "phantom_000.nii.gz", spoil)
    copy(scans / "labelsTr" / "phantom_001.nii.gz", scans / "labelsTr" / "phantom_001.nii.gz", renumber)
    (scans / "imagesUn" / "phantom_006.nii.gz").unlink()
    (scans / "imagesTs" / "phantom_004.nii.gz").write_bytes(b"<html>")
    starts, lines = check(
        *("fnet_wtacae_stl", "training", "--deep"),
        dataset_dir=scans,
        ckpt_dir="/proc/models",
        pretrained="null",
        max_epoch=3,
        seed="abc",
        fold=9,
    )
    assert not starts and len(problems(lines)) == 8, problems(lines)
    for part in (
        *("did you mean --max_epochs?", "seed must be a whole number", "fold must be between 0 and 3"),
        *("phantom_006.nii.gz: must exist", "phantom_004.nii.gz: a .nii.gz file must be gzip data, got an HTML"),
        *("/proc/models: must be a folder that can be written to", "phantom_000.nii.gz: every voxel must be finite"),
        "phantom_001.nii.gz: labels must be among [0, 1, 2, 3, 4], got 9",
    ):
        assert [problem for problem in problems(lines) if part in problem], part


def test_a_training_on_the_voxels_of_a_test_scan_is_refused_when_voxels_are_read(phantoms, tmp_path, check):
    """The file is another one: it holds floats."""
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    _, lines = check("context_restoration_unet", "training", "--verbose", dataset_dir=scans, pretrained="null")
    learned = next(line for line in lines if line.startswith("training")).rpartition(" ")[2]
    for kind in ("images", "labels"):
        copy(scans / f"{kind}Tr" / f"{learned}.nii.gz", scans / f"{kind}Ts" / "phantom_004.nii.gz")
    options = {"dataset_dir": scans, "ckpt_dir": tmp_path, "pretrained": "null"}
    assert check("context_restoration_unet", "training", **options)[0]
    starts, lines = check("context_restoration_unet", "training", "--deep", **options)
    (problem,) = problems(lines)
    assert (
        not starts and f"imagesTs/phantom_004.nii.gz: must not hold the voxels of {scans}/imagesTr/{learned}" in problem
    )


def test_unlabeled_voxels_of_a_test_scan_and_a_class_without_labels_are_warned_of(phantoms, tmp_path, check):
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    copy(scans / "imagesTs" / "phantom_004.nii.gz", scans / "imagesUn" / "phantom_006.nii.gz")
    for path in sorted((scans / "labelsTr").iterdir()):
        copy(path, path, lambda voxels: voxels * (voxels != 2))
    options = {"dataset_dir": scans, "ckpt_dir": tmp_path, "pretrained": "null"}
    starts, lines = check("fnet_wtacae_stl", "training", "--deep", **options)
    warnings = "\n".join(line for line in lines if line.startswith("warning"))
    assert starts
    assert "imagesUn/phantom_006.nii.gz (unlabeled): holds the voxels of" in warnings
    assert "has" in warnings and "(2), so that nothing will be segmented as it" in warnings


def test_a_broken_scan_that_the_run_does_not_read_is_warned_of(phantoms, tmp_path, check):
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    path = scans / "imagesTs" / "phantom_004.nii.gz"
    copy(path, path, lambda voxels: voxels * np.nan)
    options = {"dataset_dir": scans, "ckpt_dir": tmp_path, "pretrained": "null"}
    starts, lines = check("fnet_wtacae_stl", "training", "--deep", **options)
    assert starts and [line for line in lines if line.startswith("warning") and f"{path}: every voxel must" in line]


def test_scans_are_looked_at_where_the_weights_are_missing(phantoms, tmp_path, check):
    scans = shutil.copytree(phantoms / "imagesTs", tmp_path / "scans")
    (scans / "phantom_004.nii.gz").write_bytes(b"")
    starts, lines = check("layer_decomp_tumor", "inference", "--deep", dataset_dir=scans, ckpt_dir=tmp_path)
    (record,), (scan,) = problems(lines), problems(lines, "refused")
    assert not starts and "weights must exist; " in record
    assert "phantom_004.nii.gz: a .nii.gz file must be gzip data, got an empty file" in scan


@pytest.mark.slow
def test_bad_cases_of_an_evaluation_and_an_inference_are_told_apart_from_what_would_stop_it(phantoms, tmp_path, check):
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    bundle = next(bundle for bundle in BUNDLES if bundle.name == "context_restoration_unet")
    places = {"dataset_dir": scans, "ckpt_dir": tmp_path / "models"}
    length = {"max_epochs": 1, "iterations_per_epoch": 1, "pretrained": "null"}
    done = bundle_run("training", bundle, "train.yaml", **places, **length)
    assert done.returncode == 0, done.stderr[-2000:]
    bad = scans / "imagesTs" / "phantom_004.nii.gz"
    copy(bad, bad, lambda voxels: np.where(voxels > voxels.mean(), np.nan, voxels))
    for workflow in ("evaluation", "inference"):
        places["dataset_dir"] = scans if workflow == "evaluation" else scans / "imagesTs"
        starts, lines = check(bundle.name, workflow, **places)
        assert starts, "the header is sound"
        starts, lines = check(bundle.name, workflow, "--deep", **places, report=tmp_path / "report.json")
        assert not starts and problems(lines) == []
        (reason,) = problems(lines, "refused")
        assert "phantom_004.nii.gz: every voxel must be finite, got" in reason
        assert lines[-1].startswith("would start and leave out 1 of 2 cases, ")
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        assert report["would_start"] and report["refused"] == [reason]


def test_an_evaluation_without_weights_and_an_inference_without_scans_would_not_start(phantoms, tmp_path, check):
    starts, lines = check("fnet_wtacae_stl", "evaluation", dataset_dir=phantoms, ckpt_dir=tmp_path)
    assert not starts and "model.pt: weights must exist; train first" in problems(lines)[0]
    starts, lines = check("fnet_wtacae_stl", "inference", dataset_dir=tmp_path / "missing", ckpt_dir=tmp_path)
    assert not starts and lines[-1].startswith("would not start")


@pytest.mark.slow
def test_the_words_are_those_of_the_run(phantoms, tmp_path, check):
    bundle = next(bundle for bundle in BUNDLES if bundle.name == "fnet_wtacae_stl")
    done = bundle_run("training", bundle, "train.yaml", dataset_dir=phantoms, ckpt_dir=tmp_path, learning_rate=-1)
    _, lines = check("fnet_wtacae_stl", "training", dataset_dir=phantoms, ckpt_dir=tmp_path, learning_rate=-1)
    assert done.stderr.strip().splitlines()[-1] == f"error: {problems(lines)[0]}"


def test_the_headers_of_a_hundred_scans_are_read_in_seconds(phantoms, tmp_path, check):
    (scans := tmp_path / "scans").mkdir()
    for number in range(100):
        shutil.copy(phantoms / "imagesTr" / "phantom_000.nii.gz", scans / f"case_{number:03}.nii.gz")
    started = time.perf_counter()
    check("fnet_wtacae_stl", "inference", dataset_dir=scans, ckpt_dir=tmp_path)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fnet_wtacae_mtl", "pretraining"), "config of a pretraining must exist, got no such file; name one of"),
        (("fnet_wtacae_stl", "trainig"), "workflow must be one of pretraining, training, evaluation, inference"),
        (("fnet_wtacae_stl", "training", "--config_file=tran.yaml"), "config of a training must exist"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(arguments, message, tmp_path, run_tool):
    with pytest.raises(SystemExit, match=message):
        run_tool("tools.check", *arguments, f"--dataset_dir={tmp_path}")
