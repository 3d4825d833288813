"""No bad case stops the good ones, in inference and evaluation: in every bundle, as a command, in several processes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bad_inputs import IMAGE, SCANS, write_nifti
from ignite.engine import Events
from workflow_helpers import CONTEXT, ROOT, TABLES, TORCHRUN, bundle_run, every_bundle, workflow

from common.data import fingerprint, hash_file, write_datalist, write_phantoms
from common.data.header import warn_once
from common.training import NoteOrigins

pytestmark = pytest.mark.slow
FNET = ROOT / "bundles" / "fnet_wtacae_stl"
BAD = {  # three of ten: by the header, by the checksum, and by the voxels
    "case_2": ("4D", r"case_2.nii.gz: number of channels must be 1.*, got 3; give"),
    "case_5": ("flipped bit in gz", r"case_5.nii.gz: compressed data must be intact, got CRC check failed.*; copy"),
    "case_8": ("nan", r"case_8.nii.gz: every voxel must be finite, got 1 NaN and 0 infinite; .* --nan replace"),
}
GOOD = [f"case_{number}" for number in range(10) if f"case_{number}" not in BAD]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Folder of ten scans with three bad ones."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(10):
        write_nifti(folder / f"case_{number}.nii.gz", IMAGE)
    for name, (kind, _) in BAD.items():
        (apart := folder / name).mkdir()
        SCANS[kind](apart)
        (apart / "case.nii.gz").replace(folder / f"{name}.nii.gz")
        apart.rmdir()
    return folder


def finish(made) -> int:
    """Run a workflow to its end, and return its exit status."""
    warn_once.cache_clear()
    made.initialize()
    made.run()
    try:
        made.finalize()
    except SystemExit as ended:
        return ended.code
    return 0


def infer(bundle: Path, scans: Path, output: Path, weights: dict[str, Path], **options) -> int:
    places = {"dataset_dir": str(scans), "output_dir": str(output), "ckpt_dir": str(weights[bundle.name])}
    return finish(workflow(bundle, "inference.yaml", kind="infer", device="cpu", **places, **options))


def rows(output: Path) -> dict[str, dict]:
    """Return the rows of a report by the name of their file."""
    cases = json.loads((output / "report.json").read_text(encoding="utf-8"))["cases"]
    return {Path(case["image"]).name.removesuffix(".nii.gz"): case for case in cases}


def segmented(output: Path) -> list[str]:
    return sorted(path.name.removesuffix("_seg.nii.gz") for path in output.glob("*_seg.nii.gz"))


@every_bundle
def test_ten_scans_with_three_bad_ones_are_seven_segmentations_and_a_report_of_ten(
    bundle, scans, weights, tmp_path, quiet_hooks, capsys
):
    assert infer(bundle, scans, tmp_path, weights) == 1
    assert segmented(tmp_path) == GOOD
    found = rows(tmp_path)
    assert sorted(found) == sorted([*GOOD, *BAD])
    for name, (_, sentence) in BAD.items():
        assert found[name]["outcome"] == "refused" and re.search(sentence, found[name]["reason"]), found[name]
    assert not any(found[name].get("reason") for name in GOOD)
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 3 of 10 cases were refused (case_2, case_5, case_8); the first: ")
    assert line.endswith(found["case_2"]["reason"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_it_is_the_same_as_a_command_and_the_others_are_those_of_a_run_without_bad_ones(
    scans, weights, tmp_path, quiet_hooks
):
    options = {"dataset_dir": scans, "ckpt_dir": weights[FNET.name], "device": "cpu"}
    done = bundle_run("inference", FNET, "inference.yaml", output_dir=tmp_path / "ten", **options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 3 of 10 cases were refused (case_2, case_5, case_8); ")
    (good := tmp_path / "good").mkdir()
    for name in GOOD:
        shutil.copy(scans / f"{name}.nii.gz", good)
    assert infer(FNET, good, tmp_path / "seven", weights) == 0
    for name in GOOD:
        first, second = ((tmp_path / part / f"{name}_seg.nii.gz").read_bytes() for part in ("ten", "seven"))
        assert first == second


@every_bundle
def test_of_a_folder_in_which_every_scan_is_bad_all_are_reported(bundle, scans, weights, tmp_path, quiet_hooks):
    (bad := tmp_path / "bad").mkdir()
    for name in BAD:
        shutil.copy(scans / f"{name}.nii.gz", bad)
    assert infer(bundle, bad, tmp_path / "out", weights) == 1
    assert sorted(rows(tmp_path / "out")) == sorted(BAD) and segmented(tmp_path / "out") == []


def test_scans_are_loaded_by_other_processes_just_as_well(scans, weights, tmp_path, quiet_hooks):
    assert infer(FNET, scans, tmp_path, weights, num_workers=2) == 1
    assert segmented(tmp_path) == GOOD
    found = rows(tmp_path)
    assert all(re.search(sentence, found[name]["reason"]) for name, (_, sentence) in BAD.items())


def test_several_processes_report_the_bad_scans_of_all(scans, weights, tmp_path, quiet_hooks):
    options = {"dataset_dir": scans, "ckpt_dir": weights[CONTEXT.name]}
    done = bundle_run("inference", CONTEXT, "inference.yaml", launcher=TORCHRUN, output_dir=tmp_path / "two", **options)
    assert done.returncode == 1, done.stderr[-3000:]
    sentence = "error: 3 of 10 cases were refused (case_2, case_5, case_8); the first: "
    assert done.stderr.count(f"\n{sentence}") == 1 and f": {sentence}" in done.stderr, "as torchrun tells it, too"
    infer(CONTEXT, scans, tmp_path / "one", weights)
    assert rows(tmp_path / "two") == rows(tmp_path / "one") and segmented(tmp_path / "two") == GOOD


# ---- once more -----------------------------------------------------------------------------------


@every_bundle
def test_what_is_whole_is_kept_and_what_is_not_is_made_again(bundle, scans, weights, tmp_path, quiet_hooks):
    (good := tmp_path / "good").mkdir()
    for name in GOOD[:4]:
        shutil.copy(scans / f"{name}.nii.gz", good)
    out = tmp_path / "out"
    assert infer(bundle, good, out, weights, skip_existing=True) == 0
    files = {name: out / f"{name}_seg.nii.gz" for name in GOOD[:4]}
    before = {name: path.read_bytes() for name, path in files.items()}
    kept, cut, missing, other = GOOD[:4]
    files[cut].write_bytes(before[cut][:-20])
    files[missing].unlink()
    write_nifti(files[other], IMAGE[1:].astype(np.uint8))
    times = {name: path.stat().st_mtime_ns for name, path in files.items() if path.exists()}
    assert infer(bundle, good, out, weights, skip_existing=True) == 0
    assert {name: path.read_bytes() for name, path in files.items()} == before
    assert [name for name in files if files[name].stat().st_mtime_ns == times.get(name)] == [kept]
    found = rows(out)
    assert len(found) == 4 and [name for name in found if found[name].get("outcome") == "kept"] == [kept]


def test_without_being_asked_nothing_is_kept(scans, weights, tmp_path, quiet_hooks):
    (good := tmp_path / "good").mkdir()
    shutil.copy(scans / "case_0.nii.gz", good)
    for _ in range(2):
        assert infer(FNET, good, tmp_path / "out", weights) == 0
        assert rows(tmp_path / "out")["case_0"].get("outcome") != "kept"


def test_a_case_whose_probabilities_are_not_there_is_not_whole(scans, weights, tmp_path, quiet_hooks):
    (good := tmp_path / "good").mkdir()
    shutil.copy(scans / "case_0.nii.gz", good)
    infer(FNET, good, tmp_path / "out", weights)
    infer(FNET, good, tmp_path / "out", weights, skip_existing=True, save_probabilities=True)
    assert (tmp_path / "out" / "case_0_probabilities.nii.gz").is_file()
    infer(FNET, good, tmp_path / "out", weights, skip_existing=True, save_probabilities=True)
    assert rows(tmp_path / "out")["case_0"]["outcome"] == "kept"


def test_a_case_that_was_segmented_with_another_option_is_made_again(scans, weights, tmp_path, quiet_hooks):
    (good := tmp_path / "good").mkdir()
    shutil.copy(scans / "case_0.nii.gz", good)
    outcomes = []
    for nan in ("refuse", "replace", "replace", "refuse"):
        assert infer(FNET, good, tmp_path / "out", weights, skip_existing=True, nan=nan) == 0
        outcomes.append(rows(tmp_path / "out")["case_0"]["outcome"])
    assert outcomes == ["segmented", "segmented", "kept", "segmented"]


@every_bundle
def test_what_was_done_before_an_interruption_is_reported_as_if_there_had_been_none(
    bundle, scans, weights, tmp_path, quiet_hooks
):
    """It was lost; or what an older report of other weights told of the same scan was taken for it."""
    (good := tmp_path / "good").mkdir()
    for name in GOOD[:2]:
        shutil.copy(scans / f"{name}.nii.gz", good)
    assert infer(bundle, good, tmp_path / "whole", weights) == 0
    expected = rows(tmp_path / "whole")
    other = json.loads((tmp_path / "whole" / "report.json").read_text(encoding="utf-8"))
    for case in other["cases"]:
        case["warnings"] = ["of other weights"]
    (out := tmp_path / "out").mkdir()
    (out / "report.json").write_text(json.dumps(other), encoding="utf-8")

    places = {"dataset_dir": str(good), "output_dir": str(out), "ckpt_dir": str(weights[bundle.name])}
    made = workflow(bundle, "inference.yaml", kind="infer", device="cpu", **places)
    made.initialize()

    def kill(engine):
        raise KeyboardInterrupt

    made.parser.get_parsed_content("evaluator").add_event_handler(Events.ITERATION_STARTED(once=2), kill)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert infer(bundle, good, out, weights, skip_existing=True) == 0
    first, second = GOOD[:2]
    kept = {**expected[first], "outcome": "kept", "reason": "its outputs are whole"}
    assert rows(out) == {first: kept, second: expected[second]}


def test_another_series_of_a_folder_is_segmented_and_not_kept(weights, tmp_path, quiet_hooks):
    SCANS["dicom of two series"](tmp_path)
    outcomes = []
    for series in ("1.2.3.4.1", "1.2.3.5", "1.2.3.5"):
        options = {"series": series, "skip_existing": True}
        assert infer(FNET, tmp_path / "case", tmp_path / "out", weights, **options) == 0
        outcomes.append(rows(tmp_path / "out")["case"]["outcome"])
    assert outcomes == ["segmented", "segmented", "kept"]


def test_a_scan_that_an_older_file_replaces_is_segmented_and_not_kept(scans, weights, tmp_path, quiet_hooks):
    (good := tmp_path / "good").mkdir()
    outcomes = []
    for name, time in ((GOOD[0], 1.1e9), (GOOD[1], 1e9), (GOOD[1], 1e9)):
        shutil.copy(scans / f"{name}.nii.gz", good / "scan.nii.gz")
        os.utime(good / "scan.nii.gz", (time, time))
        assert infer(FNET, good, tmp_path / "out", weights, skip_existing=True) == 0
        outcomes.append(rows(tmp_path / "out")["scan"]["outcome"])
    assert outcomes == ["segmented", "segmented", "kept"]


CHANGES = {  # by an id of the config, which is no option
    "context_restoration_unet": {"inferer::axis": 1},
    "layer_decomp_tumor": {"inferer::mode": "constant"},
    "planar_heatmap_descriptor": {"preprocessing::transforms#1::axcodes": "LPS"},
    "fnet_wtacae_stl": {"inferer::output_dtype": "$torch.float32"},
    "fnet_wtacae_mtl": {"inferer::output_dtype": "$torch.float32"},
}


@every_bundle
def test_an_origin_is_of_all_that_the_results_depend_on_and_of_nothing_else(
    bundle, scans, weights, tmp_path, quiet_hooks
):
    """Neither the series of a scan nor an override by id was noticed."""
    moved = shutil.copytree(weights[bundle.name], tmp_path / "moved")
    case = {"image": str(scans / "case_0.nii.gz")}

    def origin(**options) -> str:
        places = {"dataset_dir": str(scans), "output_dir": str(tmp_path), "ckpt_dir": str(weights[bundle.name])}
        made = workflow(bundle, "inference.yaml", kind="infer", device="cpu", **{**places, **options})
        made.initialize()
        handlers = made.parser.get_parsed_content("handlers")
        return next(handler for handler in handlers if isinstance(handler, NoteOrigins)).origin(case)

    places = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(moved), "dataset_dir": case["image"]}
    ways = {"num_workers": 1, "formats": ["seg.nrrd"], "save_confidence": True, "skip_existing": True}
    assert origin() == origin(**places, **ways)
    changes: list[dict] = [{"nan": "replace"}, {"series": "1.2"}, CHANGES[bundle.name]]
    if bundle.name == "layer_decomp_tumor":
        changes.append({"overlap": 0.125})
    assert len({origin(), *(origin(**change) for change in changes)}) == 1 + len(changes)


# ---- scores --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    """Data set of six test cases, of which one has NaN, one a label off its grid, one is cut, one lacks its label."""
    folder = write_phantoms(tmp_path_factory.mktemp("set"), num_training=2, num_test=6, num_unlabeled=0, size=24)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    names = [Path(case["image"]).name for case in content["test"]]
    path = folder / "imagesTs" / names[1]
    scan = nib.load(path)
    voxels = np.asarray(scan.dataobj).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, scan.affine), path)
    path = folder / "labelsTs" / names[2]
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), path)
    path = folder / "imagesTs" / names[3]
    path.write_bytes(path.read_bytes()[:-2000])
    (folder / "labelsTs" / names[4]).unlink()
    write_datalist(folder, content)
    return folder


@every_bundle
def test_an_evaluation_scores_the_others_and_names_the_bad_ones(
    bundle, labeled, weights, tmp_path, quiet_hooks, capsys
):
    places = {"dataset_dir": str(labeled), "ckpt_dir": str(weights[bundle.name]), "evaluation_dir": str(tmp_path)}
    assert finish(workflow(bundle, "train.yaml", "evaluate.yaml", device="cpu", **places)) == 1
    *_, line = capsys.readouterr().err.splitlines()
    refused = "phantom_003, phantom_004, phantom_005, phantom_006"
    assert line.startswith(f"error: 4 of 6 cases were refused ({refused}); the first: ")
    tables = sorted(tmp_path.glob("*_raw.csv"))
    assert tables
    for path in tables:
        table = list(csv.DictReader(path.open()))
        scored = {Path(row["filename"]).name.split(".")[0] for row in table if row.get("mean") != "nan"}
        good = {"phantom_002", "phantom_007"}
        assert (
            scored <= good if path.name.startswith("hausdorff") else scored == good
        )  # of nothing there is no distance
        assert {Path(row["filename"]).name.split(".")[0] for row in table} <= good
    with (tmp_path / "mean_dice_raw.csv").open() as file:
        table = {Path(row.pop("filename")).name.split(".")[0]: row for row in csv.DictReader(file)}
    assert table.keys() == {"phantom_002", "phantom_007"}, "nan would say that no class is there"
    check_report(tmp_path, bundle, weights[bundle.name], table)


def check_report(folder: Path, bundle: Path, weights: Path, table: dict[str, dict[str, str]]) -> None:
    """Compare the report of an evaluation of the six cases with the weights and the table of Dice."""
    text = (folder / "report.json").read_text(encoding="utf-8")
    report = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert report["weights"] == {"file": "model.pt", "sha256": hash_file(weights / "model.pt")}
    assert report["bundle"]["name"] and report["versions"] and report["options"]["split"] == "test"
    assert "features" in report["options"] or bundle.name.startswith("planar")
    assert not {"max_epochs", "learning_rate", "config"} & report["options"].keys(), "which say nothing of a score"
    cases = {case["case"]: case for case in report["cases"]}
    assert [*cases] == [f"phantom_{number:03}" for number in range(2, 8)]
    for name, case in cases.items():
        assert Path(case["image"]).name == f"{name}.nii.gz"
        if name not in table:
            assert case["outcome"] == "refused" and name in case["reason"]
            assert case["scores"] == {} and case["picture"] is None
            continue
        assert case["outcome"] == "segmented" and not case["reason"]
        assert {f"{metric}_raw.csv" for metric in case["scores"]} | {"clinical_raw.csv"} >= TABLES[bundle.name]
        assert {"liver", "mean"} <= case["scores"]["hausdorff_95"].keys()
        dice = {key: math.nan if score is None else score for key, score in case["scores"]["mean_dice"].items()}
        assert dice == pytest.approx({key: float(score) for key, score in table[name].items()}, abs=1e-5, nan_ok=True)
        assert (folder / case["picture"]).is_file()


@every_bundle
def test_a_case_that_was_learned_from_under_another_name_costs_the_others_no_score(
    bundle, labeled, weights, tmp_path, quiet_hooks, capsys
):
    """It ended the evaluation, whose scores until then were lost."""
    content = json.loads((labeled / "dataset.json").read_text(encoding="utf-8"))
    scans = shutil.copytree(labeled, tmp_path / "set")
    write_datalist(scans, {**content, "test": [content["test"][0], content["test"][5]]})
    models = shutil.copytree(weights[bundle.name], tmp_path / "models")
    record = json.loads((models / "record.json").read_text(encoding="utf-8"))
    record["learned_from"] = {"patient_9": fingerprint(scans / "imagesTs" / "phantom_007.nii.gz")}
    (models / "record.json").write_text(json.dumps(record), encoding="utf-8")
    places = {"dataset_dir": str(scans), "ckpt_dir": str(models), "evaluation_dir": str(tmp_path / "scores")}
    assert finish(workflow(bundle, "train.yaml", "evaluate.yaml", device="cpu", **places)) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert re.search(r"error: 1 of 2 cases .* \(phantom_007\); .* the weights were trained on \(patient_9\)", line)
    first, second = rows(tmp_path / "scores").values()
    assert first["outcome"] == "segmented" and first["scores"]["mean_dice"].keys() >= {"liver", "mean"}
    assert second["outcome"] == "refused" and "patient_9" in second["reason"] and second["picture"] is None
    with (tmp_path / "scores" / "mean_dice_raw.csv").open() as file:
        assert [Path(row["filename"]).name for row in csv.DictReader(file)] == ["phantom_002.nii.gz"]


def test_several_processes_score_the_others_even_where_one_has_none(labeled, weights, tmp_path, quiet_hooks):
    """MONAI's metrics waited for ever for a process without a score."""
    content = json.loads((labeled / "dataset.json").read_text(encoding="utf-8"))
    scans = shutil.copytree(labeled, tmp_path / "set")
    write_datalist(scans, {**content, "test": content["test"][:2]})
    options = {"dataset_dir": scans, "ckpt_dir": weights[FNET.name], "evaluation_dir": tmp_path / "scores"}
    done = bundle_run("evaluation", FNET, "train.yaml", "evaluate.yaml", processes=2, **options)
    assert done.returncode == 1 and "error: 1 of 2 cases were refused (phantom_003)" in done.stderr, done.stderr[-3000:]
    with (tmp_path / "scores" / "mean_dice_raw.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert Path(row["filename"]).name == "phantom_002.nii.gz" and row["mean"] != "nan"
    cases = json.loads((tmp_path / "scores" / "report.json").read_text(encoding="utf-8"))["cases"]
    assert [(case["case"], case["outcome"]) for case in cases] == [
        ("phantom_002", "segmented"),
        ("phantom_003", "refused"),
    ]
