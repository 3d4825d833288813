"""Laws of the checks at the start of a run: where it writes, and whether disk and memory suffice."""

from __future__ import annotations

import os
import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import write_series
from monai.bundle import ConfigParser
from PIL import Image

from common.cli import collect_errors
from common.data import format_size, write_datalist
from common.training import check_run, preflight

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def make_config(tmp_path, write_scan):
    """Return a function that makes the config of an inference of some scans."""

    def _make(output_dir=None, names=("case_0", "case_1"), **content) -> ConfigParser:
        for name in names:
            write_scan(f"scans/{name}.nii.gz", np.zeros((10, 10, 10), "int16"), spacing=(2.0, 2.0, 2.0))
        folder = str(output_dir or tmp_path / "output")
        handlers = [
            {"_target_": "common.training.LoadWeights", "path": "model.pt", "network": None},
            {"_target_": "common.training.InferenceReport", "path": f"{folder}/report.json", "labels": "@labels"},
        ]
        config = {
            "inference": [],
            "output_dir": folder,
            "labels": {0: "background", 1: "liver"},
            "record": {},
            "dataset": {
                "_target_": "Dataset",
                "data": {"_target_": "common.data.list_images", "path": str(tmp_path / "scans")},
                "transform": {},
            },
            "handlers": handlers,
            "postprocessing": [
                {"_target_": "common.transforms.SaveSegmentationd", "keys": "pred", "output_dir": "@output_dir"}
            ],
        }
        return ConfigParser({**config, **content})

    return _make


def test_what_will_be_written_is_told_and_nothing_is_written(make_config, tmp_path):
    plan = check_run(make_config())
    reports = {"report.json", "report.csv", "report.html"}
    assert {file.name for file in plan.files} == reports | {"case_0_seg.nii.gz", "case_1_seg.nii.gz"}
    assert [case["case_id"] for case in plan.data["dataset"]] == ["case_0", "case_1"]
    assert not (tmp_path / "output").exists()


def test_a_folder_that_cannot_be_written_to_is_refused(make_config):
    with pytest.raises(ValueError, match=r"/proc/output: must be a folder that can be written to, got .*--output_dir"):
        check_run(make_config("/proc/output"))


def test_a_file_in_place_of_a_folder_is_refused(make_config, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match=r"taken: must be a folder, since results are written there, got a file; pass"):
        check_run(make_config(tmp_path / "taken" / "output"))


def test_a_disk_that_is_too_full_is_refused_by_its_folder(make_config, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1000))
    with pytest.raises(
        ValueError, match=r"output: must have 20 MB of free disk for what is written, got 0.001 MB; make"
    ):
        check_run(make_config())


def test_a_memory_that_is_too_small_is_warned_of(make_config, monkeypatch, caplog):
    monkeypatch.setattr(preflight, "free_memory", lambda device: 1000)
    check_run(make_config())
    assert "cpu: about 0.012 MB of memory are needed for the volumes, and 0.001 MB are free" in caplog.text


def test_a_case_whose_results_would_have_too_long_a_name_is_refused_and_the_others_are_not(make_config, tmp_path):
    longest = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len(".partial._seg.nii.gz"))
    plan = check_run(make_config(names=[longest, f"{longest}n"]))
    good, bad = plan.data["dataset"]
    assert plan.cases == [good] and good["case_id"] == longest
    assert bad["outcome"] == "refused"
    assert re.search(r"_seg.nii.gz: name of a result must have at most 246 bytes, got 247; rename", bad["reason"])
    reports = {"report.json", "report.csv", "report.html"}
    assert {file.name for file in plan.files} == reports | {f"{longest}_seg.nii.gz"}


def test_a_case_whose_results_would_replace_those_of_another_one_is_refused(make_config, tmp_path):
    """The picture of a_seg.nii.gz would be the segmentation of a.png."""
    config = make_config(names=["a_seg", "b"])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "scans" / "a.png")
    config["dataset::data::allow_2d"] = True
    pictures = {"_target_": "common.training.OverlayPictures", "save_dir": "@output_dir", "labels": {}}
    config["handlers"] = [*config["handlers"], pictures]
    plan = check_run(config)
    assert [case["case_id"] for case in plan.cases] == ["a", "b"]
    (bad,) = plan.refused
    said = r"a_seg\.nii\.gz: results must have names of their own, got a_seg\.png, which .*/a\.png has, too; rename"
    assert re.search(said, bad["reason"])
    assert {file.name for file in plan.files} >= {"a_seg.png", "a_overlay.png", "b_seg.nii.gz", "b.png"}


def test_a_case_with_a_bad_header_is_told_of_before_the_others_are_done(make_config, tmp_path, caplog):
    config = make_config()
    config["dataset::data::keep_refused"] = True
    (tmp_path / "scans" / "case_0.nii.gz").write_bytes(b"")
    plan = check_run(config)
    assert [case["case_id"] for case in plan.cases] == ["case_1"]
    assert "1 of 2 case(s) are refused, the others are done:" in caplog.text
    assert "case_0.nii.gz: a .nii.gz file must be gzip data, got an empty file" in caplog.text


def test_all_that_is_wrong_is_found_at_once(make_config, tmp_path):
    config = make_config("/proc/output")
    for name in ("case_0", "case_1"):
        (tmp_path / "scans" / f"{name}.nii.gz").write_bytes(b"")
    with collect_errors() as errors:
        check_run(config)
    files = {error.partition(": ")[0].rpartition("/")[2] for error in errors}
    assert files == {"case_0.nii.gz", "case_1.nii.gz", "output"}


def test_what_is_held_in_memory_is_what_the_class_of_the_data_set_says(make_config, tmp_path, write_scan):
    """Two cases of 1000 voxels of 2 mm, resampled to 1 mm, of four levels of floats and a label of two bytes."""
    cases = []
    for index in range(3):
        image = write_scan(f"image_{index}.nii.gz", np.ones((10, 10, 10), "int16"), spacing=(2.0, 2.0, 2.0))
        label = write_scan(f"label_{index}.nii.gz", np.ones((10, 10, 10), "uint8"), spacing=(2.0, 2.0, 2.0))
        cases.append({"image": Path(image).name, "label": Path(label).name})
    write_datalist(tmp_path, {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": cases})
    config = ConfigParser(
        {
            "training": [],
            "spacing": 1.0,
            "record": {"_target_": "common.data.fit_preprocessing", "from_weights": None},
            "cases": {"_target_": "common.data.read_cases", "dataset_dir": str(tmp_path)},
            "train": {
                "dataset": {
                    "_target_": "common.fnet.PatchDataset",
                    "data": "$@cases.training",
                    "transform": {},
                    "geometry": {"_target_": "common.fnet.FNetGeometry", "num_levels": 4},
                }
            },
        }
    )
    plan = check_run(config)
    assert plan.spacing == 1.0
    assert plan.memory == {"cpu": 2 * 8000 * (4 * 4 + 2)}
    config["cache"] = {"_target_": "common.data.ScanCache", "memory": 0.0001, "folder": str(tmp_path)}
    assert check_run(config).memory == {"cpu": 100_000}


@pytest.mark.parametrize(("size", "text"), [(1500, "0.0015 MB"), (2.5e7, "25 MB"), (1.25e9, "1.25 GB")])
def test_sizes_are_told_in_units_of_disks(size, text):
    assert format_size(size) == text


def test_a_check_takes_nothing_of_the_chance_of_the_run(tmp_path, write_scan):
    """The networks of a run draw the same weights with and without it."""
    write_scan("image.nii.gz", np.ones((10, 10, 10), "int16"), spacing=(2.0, 2.0, 2.0))
    write_datalist(tmp_path, {"modality": {"0": "CT"}, "unlabeled": ["image.nii.gz"]})
    network = {"_target_": "common.fnet.FNet", "in_channels": 1, "out_channels": 2, "features": [2, 2]}
    config = {
        "pretraining": [],
        "cases": {"_target_": "common.data.read_cases", "dataset_dir": str(tmp_path), "is_pretraining": True},
        "network_def": network,
        "module": "@network_def",
        "train": {
            "dataset": {
                "_target_": "common.fnet.PatchDataset",
                "data": "$@cases.pretraining()",
                "transform": {},
                "geometry": "$@network_def.geometry",
            }
        },
    }
    weights = []
    for is_checked in (True, False):
        torch.manual_seed(0)
        parser = ConfigParser(config)
        if is_checked:
            assert check_run(parser).memory["cpu"] > 0
        torch.rand(1)
        weights.append(parser.get_parsed_content("module").state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_scan_that_cannot_have_a_format_is_refused_before_the_work_and_the_others_are_not(make_config, tmp_path):
    write_series(tmp_path / "scans" / "series")
    config = make_config(formats=["nifti", "rtstruct"])
    plan = check_run(config)
    outcomes = {case["case_id"]: case.get("reason", "") for case in plan.data["dataset"]}
    assert outcomes.pop("series") == ""
    assert all("must be a folder with a DICOM series for --formats rtstruct" in reason for reason in outcomes.values())
    assert len(outcomes) == 2


def test_the_files_of_every_format_are_told_and_their_tables(make_config, tmp_path):
    writer = {"_target_": "common.transforms.SaveSegmentationd", "keys": "pred", "output_dir": "@output_dir"}
    confidence = {"_target_": "common.transforms.SaveConfidenced", "keys": "pred", "output_dir": "@output_dir"}
    options = {"labels": "@labels", "formats": ["nifti", "seg.nrrd"]}
    plan = check_run(make_config(postprocessing=[{**writer, **options}, confidence], names=["a"]))
    files = {"a_seg.nii.gz", "a.seg.nrrd", "a_confidence.nii.gz", "labels.txt", "labels.ctbl"}
    assert {file.name for file in plan.files if file.stem != "report"} == files
