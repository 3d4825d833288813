"""Laws of nnU-Net's data set and of the configuration for few minutes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data import read_cases
from tools.nnunet.dataset import name_case, quick_configuration, write_raw_dataset


@pytest.fixture
def dataset_dir(tmp_path):
    """Six small labeled scans of two channels, and one for the test."""
    folder = tmp_path / "data"
    folder.mkdir()
    cases = []
    for number in range(7):
        for seed, kind in enumerate(("ct", "pet", "label")):
            array = np.random.RandomState([number, seed]).randint(0, 3, (6, 6, 6)).astype(np.uint8)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{kind}_{number}.nii.gz")
        cases.append({"image": [f"ct_{number}.nii.gz", f"pet_{number}.nii.gz"], "label": f"label_{number}.nii.gz"})
    content = {
        "modality": {"0": "CT", "1": "PET"},
        "labels": {"0": "air", "1": "a", "2": "b"},
        "training": cases[:6],
        "test": cases[6:],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("fold", "num_labeled"), [(0, 1), (0, 3), (2, 3), (1, None)])
def test_nnunet_sees_the_labeled_cases_of_the_fold_and_no_others(dataset_dir, tmp_path, fold, num_labeled):
    cases = read_cases(dataset_dir, fold, 3, num_labeled, 1)
    raw = write_raw_dataset(cases, tmp_path / "raw")
    images = sorted(path.resolve() for path in (raw / "imagesTr").iterdir())
    assert images == sorted(Path(file).resolve() for case in cases.training for file in case["image"])
    labels = sorted(path.resolve() for path in (raw / "labelsTr").iterdir())
    assert labels == sorted(Path(case["label"]).resolve() for case in cases.training)
    assert {path.name for path in raw.iterdir()} == {"imagesTr", "labelsTr", "dataset.json"}


def test_image_channels_and_label_of_a_case_have_one_name(dataset_dir, tmp_path):
    cases = read_cases(dataset_dir, num_labeled=2)
    raw = write_raw_dataset(cases, tmp_path / "raw")
    for case in cases.training:
        name = name_case(case)
        assert (raw / "labelsTr" / f"{name}.nii.gz").resolve() == Path(case["label"]).resolve()
        for channel, file in enumerate(case["image"]):
            assert (raw / "imagesTr" / f"{name}_{channel:04d}.nii.gz").resolve() == Path(file).resolve()


def test_nnunet_is_told_the_channels_the_classes_and_the_number_of_cases(dataset_dir, tmp_path):
    raw = write_raw_dataset(read_cases(dataset_dir, num_labeled=2), tmp_path / "raw")
    assert json.loads((raw / "dataset.json").read_text(encoding="utf-8")) == {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "x/ct.nii.gz"}, "ct.nii.gz: image must have one file for each of 2 channels"),
        ({"label": "x/label.mha"}, "ending must be .mha as of the other files"),
        ({"ignore": 9}, "label must be complete for nnU-Net"),
        ({"classes": [0, 1]}, "label must be complete for nnU-Net"),
    ],
)
def test_what_nnunet_would_take_for_something_else_is_refused(dataset_dir, tmp_path, change, message):
    cases = read_cases(dataset_dir, num_labeled=1)
    with pytest.raises(ValueError, match=message):
        write_raw_dataset(replace(cases, training=[cases.training[0] | change]), tmp_path / "raw")


def test_the_quick_configuration_changes_nothing_but_resolution_patches_and_network():
    kept = {"normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False]}
    planned = {"network_class_name": "PlainConvUNet", "arch_kwargs": {"n_stages": 6, "conv_bias": True}}
    configuration = {"spacing": [2.5, 3.9, 3.9], "patch_size": [96, 128, 128], "batch_size": 7, "architecture": planned}
    plans = {"configurations": {"3d_fullres": kept | configuration}}
    quick = quick_configuration(plans, spacing=3.0, patch_size=32, features=(8, 16, 32))
    assert {key: quick[key] for key in kept} == kept
    assert (quick["spacing"], quick["patch_size"], quick["batch_size"]) == ([3.0, 3.9, 3.9], [32, 32, 32], 2)
    network = quick["architecture"]["arch_kwargs"]
    assert network["conv_bias"] and network["n_stages"] == 3
    assert {len(network[key]) for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage")} == {3}
    assert len(network["n_conv_per_stage_decoder"]) == 2
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [96, 128, 128]
    assert quick_configuration(plans)["spacing"] == [2.5, 3.9, 3.9]
