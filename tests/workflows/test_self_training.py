"""Laws of students: what a sure and right teacher gives is all labels, and what an unsure one gives is nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from workflow_helpers import BUNDLES, FAST, SHORT, interrupt, run, workflow

from common.data import (
    PseudoLabel,
    read_cases,
    read_dataset_file,
    write_datalist,
    write_phantoms,
    write_pseudo_labels,
)

STUDENTS = [bundle for bundle in BUNDLES if (bundle / "configs" / "self_train.yaml").is_file()]
TAUGHT_BY_THEMSELVES = [bundle for bundle in BUNDLES if (bundle / "configs" / "mean_teacher.yaml").is_file()]
FOLD = {"num_labeled": 2, "num_validation": 1, "num_folds": 4}

every_student = pytest.mark.parametrize("bundle", STUDENTS, ids=lambda path: path.name)
every_mean_teacher = pytest.mark.parametrize("bundle", TAUGHT_BY_THEMSELVES, ids=lambda path: path.name)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, num_training=8, num_test=0, num_unlabeled=0)
    return folder


def write_teaching(data, folder, confidence, left_out=""):
    """Write the true labels as pseudo-labels of all scans whose labels stay unused."""
    folder.mkdir()
    entries = []
    for case in read_cases(data, **FOLD).unlabeled:
        name = case["image"].rsplit("/", 1)[1].removesuffix(".nii.gz")
        truth = nib.load(case["image"].replace("imagesTr", "labelsTr"))
        nib.save(truth, folder / f"{name}.nii.gz")
        sure = np.full(truth.shape, confidence, np.float32)
        nib.save(nib.Nifti1Image(sure, truth.affine), folder / f"{name}_confidence.nii.gz")
        image = case["image"].removeprefix(f"{data}/")
        entries.append(PseudoLabel(image, f"{name}.nii.gz", f"{name}_confidence.nii.gz", left_out))
    write_pseudo_labels(folder, read_dataset_file(data / "dataset.json").labels, entries)
    return str(folder)


def train(bundle, data, ckpt_dir, **options):
    options = {**SHORT, **FAST, **FOLD, "pretrained": None, **options}
    run(bundle, "train.yaml", dataset_dir=str(data), ckpt_dir=str(ckpt_dir), **options)
    return torch.load(ckpt_dir / "model.pt", weights_only=True)


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@every_student
def test_without_confidence_a_student_trains_as_from_scratch_to_the_bit(bundle, data, tmp_path):
    scratch = train(bundle, data, tmp_path / "scratch")
    teaching = write_teaching(data, tmp_path / "none", 0.0, left_out="no voxel is sure enough")
    student = train(bundle, data, tmp_path / "student", pseudo_labels=teaching, labeled_fraction=0.5)
    assert_same(scratch, student)


@every_student
def test_a_teacher_that_is_sure_and_right_is_all_labels_to_the_bit(bundle, data, tmp_path):
    cases = read_cases(data, **FOLD)
    teaching = write_teaching(data, tmp_path / "perfect", 1.0)
    taught = [*cases.training, *read_cases(data, **FOLD, pseudo_labels=teaching).pseudo_labeled]
    labeled = [{"image": case["image"], "label": case["image"].replace("imagesTr", "labelsTr")} for case in taught]
    options = {"labeled_fraction": None, "spacing": 2.0, "clip": [-200.0, 300.0]}
    options = options if bundle.name.startswith("fnet") else {"labeled_fraction": None}
    all_labels = train(bundle, data, tmp_path / "all", **options, **{"train::dataset::data": labeled})
    student = train(bundle, data, tmp_path / "student", **options, **{"train::dataset::data": taught})
    assert_same(all_labels, student)


@every_student
def test_a_student_needs_no_label_where_teachers_need_none(bundle, data, tmp_path, caplog):
    """Masks of no scan are known, but of those that it is tested with."""
    content = json.loads((data / "dataset.json").read_text())
    images = [case["image"] for case in content["training"]]
    bare = tmp_path / "bare"
    shutil.copytree(data, bare)
    write_datalist(bare, {**content, "training": [], "unlabeled": images})
    folder = tmp_path / "perfect"
    folder.mkdir()
    entries = []
    for image in images[:3]:
        name = Path(image).name.removesuffix(".nii.gz")
        truth = nib.load(data / image.replace("imagesTr", "labelsTr"))
        nib.save(truth, folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(truth.shape, np.float32), truth.affine), folder / f"{name}_sure.nii.gz")
        entries.append(PseudoLabel(image, f"{name}.nii.gz", f"{name}_sure.nii.gz", ""))
    write_pseudo_labels(folder, read_dataset_file(data / "dataset.json").labels, entries)
    options = {**SHORT, **FAST, "pretrained": None, "pseudo_labels": str(folder), "labeled_fraction": 0.5}
    run(bundle, "train.yaml", dataset_dir=str(bare), ckpt_dir=str(tmp_path / "student"), **options)
    weights = torch.load(tmp_path / "student" / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert "no validation case has a label" in caplog.text


@every_student
def test_a_student_of_doubtful_labels_learns_something_else(bundle, data, tmp_path):
    scratch = train(bundle, data, tmp_path / "scratch")
    teaching = write_teaching(data, tmp_path / "doubtful", 0.6)
    student = train(bundle, data, tmp_path / "student", pseudo_labels=teaching, labeled_fraction=0.5)
    assert any(not torch.equal(scratch[name], student[name]) for name in scratch)
    assert all(torch.isfinite(value).all() for value in student.values())


@every_mean_teacher
def test_a_killed_training_with_a_mean_teacher_goes_on_with_the_same_numbers(bundle, data, tmp_path, quiet_hooks):
    options = {**SHORT, **FAST, **FOLD, "pretrained": None, "dataset_dir": str(data), "max_epochs": 3, "ramp_up": 2}
    run(bundle, "train.yaml", "mean_teacher.yaml", ckpt_dir=str(tmp_path / "whole"), **options)
    killed = workflow(bundle, "train.yaml", "mean_teacher.yaml", ckpt_dir=str(tmp_path / "killed"), **options)
    interrupt(killed, epoch=3)
    run(bundle, "train.yaml", "mean_teacher.yaml", ckpt_dir=str(tmp_path / "killed"), **options)
    assert_same(*(torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "killed")))
    header, *rows = (tmp_path / "whole" / "history.csv").read_text().splitlines()
    losses = [float(row.split(",")[header.split(",").index("consistency_loss")]) for row in rows]
    assert all(loss > 0 for loss in losses)


@every_mean_teacher
def test_a_mean_teacher_without_weight_is_the_training_on_labels_to_the_bit(bundle, data, tmp_path):
    labeled = {"train::dataset::data": read_cases(data, **FOLD).training}
    common = {"weight_averaging": 0.9}
    plain = train(bundle, data, tmp_path / "plain", **common, **labeled)
    options = {**SHORT, **FAST, **FOLD, "pretrained": None, "dataset_dir": str(data), **common}
    files = ("train.yaml", "mean_teacher.yaml")
    run(bundle, *files, ckpt_dir=str(tmp_path / "no"), consistency_weight=0.0, **options, **labeled)
    run(bundle, *files, ckpt_dir=str(tmp_path / "yes"), **options)
    silent, taught = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("no", "yes"))
    assert_same(plain, silent)
    assert any(not torch.equal(plain[name], taught[name]) for name in plain)
