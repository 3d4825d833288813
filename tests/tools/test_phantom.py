"""Laws of the command that writes phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest

from common.data import read_cases
from tools.phantom import phantom


def test_phantoms_have_lesions_when_asked_to(tmp_path):
    counts = {"num_training": 2, "num_test": 1, "num_unlabeled": 1, "size": 16}
    said = phantom(str(tmp_path / "new"), **counts, lesions=True, num_normal=2)
    assert said.endswith("new: 2 training, 1 test and 1 unlabeled phantoms, and 2 without lesions")
    assert len(read_cases(tmp_path / "new", num_folds=2).normal) == 2


@pytest.mark.parametrize("lesions", [False, True])
def test_phantoms_have_a_second_channel_when_asked_to(lesions, tmp_path):
    counts = {"num_training": 1, "num_test": 0, "num_unlabeled": 1, "size": 16}
    phantom(str(tmp_path / "new"), **counts, num_channels=2, lesions=lesions)
    content = json.loads((tmp_path / "new" / "dataset.json").read_text(encoding="utf-8"))
    assert content["modality"] == {"0": "CT", "1": "PET"}
    for case in (*content["training"], *content["unlabeled"], *content.get("normal", [])):
        assert [Path(file).name[-12:] for file in case["image"]] == ["_0000.nii.gz", "_0001.nii.gz"]
        assert all((tmp_path / "new" / file).is_file() for file in case["image"])


def test_phantoms_are_without_contrast_medium_when_asked_to(tmp_path):
    counts = {"num_training": 1, "num_test": 0, "num_unlabeled": 1, "size": 32}
    kidneys = []
    for native in (False, True):
        folder = tmp_path / str(native)
        phantom(str(folder), **counts, native=native)
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        assert ("without contrast medium" in content["description"]) == native
        image, label = (nib.load(folder / content["training"][0][key]).get_fdata() for key in ("image", "label"))
        kidneys.append((image[label >= 3].mean(), label))
    (bright, label), (faint, same) = kidneys
    assert bright > 120 and faint < 80 and (label == same).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": "big"}, TypeError, "size must be a whole number, got 'big'"),
        ({"num_channels": 3}, ValueError, "num_channels must be one of 1, 2, got 3"),
        ({"num_normal": 2}, ValueError, "num_normal must be given with lesions only, got 2"),
        ({"lesions": "no"}, TypeError, "lesions must be True or False, got 'no'"),
        ({"native": True, "lesions": True}, ValueError, "native must be given without lesions, got both"),
        ({"lesions": True, "num_normal": 1.5}, TypeError, r"num_normal must be a whole number, got 1\.5"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_written(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        phantom(str(tmp_path / "new"), **options)
    assert not (tmp_path / "new").exists()
