"""Laws of the segmentation by a threshold."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from tools.experiments.threshold import threshold


@pytest.fixture
def scans(tmp_path):
    """Five scans of an organ of 1 with a tumor of 2, and something as bright outside of the organ."""
    cases = []
    for index in range(5):
        rng = np.random.default_rng(index)
        organ = np.zeros((12, 12, 8), np.uint8)
        organ[2:10, 2:10, 1:7] = 1
        label = np.zeros_like(organ)
        label[3:6, 3:6, 2 : 4 + index % 2] = 1
        image = (100 * (organ + label) + rng.uniform(-5, 5, organ.shape)).astype(np.float32)
        image[0] = 200
        case = {}
        for key, array in {"image": image, "label": label, "organ": organ}.items():
            case[key] = f"{key}s/case_{index}.nii.gz"
            (tmp_path / f"{key}s").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1, 1, 2, 1])), tmp_path / case[key])
        cases.append(case)
    content = {"name": "x", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "tumor"}}
    (tmp_path / "dataset.json").write_text(
        json.dumps({**content, "training": cases[:3], "test": cases[3:]}), encoding="utf-8"
    )
    return tmp_path


def scores(path):
    return {row["filename"]: float(row["mean"]) for row in csv.DictReader(path.open())}


def test_a_bright_tumor_is_found_by_every_rule_and_what_is_outside_the_organ_is_not(scans, tmp_path):
    text = threshold(str(scans), str(tmp_path / "out"))
    assert scores(tmp_path / "out" / "otsu.csv") == {"case_3": 1.0, "case_4": 1.0}
    assert scores(tmp_path / "out" / "multiple.csv") == {"case_3": 1.0, "case_4": 1.0}
    assert min(scores(tmp_path / "out" / "percentile.csv").values()) > 0.7, "tumors differ in size"
    assert [line.split(":")[0].split()[0] for line in text.splitlines()] == ["Otsu's", "percentile", "1.05"]
    assert text.endswith("n 2")


def test_in_an_organ_of_one_value_otsu_finds_nothing(scans, tmp_path):
    constant = np.full((12, 12, 8), 100.0, np.float32)
    nib.save(nib.Nifti1Image(constant, np.diag([-1, 1, 2, 1])), scans / "images/case_4.nii.gz")
    threshold(str(scans), str(tmp_path / "out"))
    assert scores(tmp_path / "out" / "otsu.csv") == {"case_3": 1.0, "case_4": 0.0}


def test_a_tumor_on_the_other_side_is_not_found(scans, tmp_path):
    text = threshold(str(scans), str(tmp_path / "out"), side="below")
    assert max(scores(tmp_path / "out" / "otsu.csv").values()) < 0.2
    percentile = float(
        next(line for line in text.splitlines() if line.startswith("percentile")).split(":")[0].split()[1]
    )
    assert percentile <= 50, "of the organ's intensities, from the lowest on"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"side": "beside"}, ValueError, "side must be one of above, below, got 'beside'"),
        ({"organ": "liver"}, ValueError, "organ must be one of"),
        ({"clip": 5}, TypeError, "clip must be a list"),
        ({"clip": (1, 2, 3)}, ValueError, r"clip must be two intensities, got \[1, 2, 3\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(scans, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        threshold(str(scans), str(tmp_path / "out"), **options)


def test_of_several_channels_the_named_one_is_used(scans, tmp_path):
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    alone = threshold(str(scans), str(tmp_path / "alone"))
    for case in [*content["training"], *content["test"]]:
        image = nib.load(scans / case["image"])
        other = case["image"].replace("case", "t1w")
        nib.save(nib.Nifti1Image(0 * np.asarray(image.dataobj) + 50, image.affine), scans / other)
        case["image"] = [other, case["image"]]
    content["modality"] = {"0": "T1w", "1": "FLAIR"}
    (scans / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    assert threshold(str(scans), str(tmp_path / "flair"), channel="FLAIR") == alone
    threshold(str(scans), str(tmp_path / "t1w"), channel="T1w")
    assert set(scores(tmp_path / "t1w" / "otsu.csv").values()) == {0.0}
    with pytest.raises(ValueError, match="channel must be one of T1w, FLAIR, got none; pass --channel T1w"):
        threshold(str(scans), str(tmp_path / "none"))
    with pytest.raises(ValueError, match="channel must be one of T1w, FLAIR, got 'T2w'"):
        threshold(str(scans), str(tmp_path / "other"), channel="T2w")
