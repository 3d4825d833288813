"""Networks of a study that become part of their bundles."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from tools.experiments import ship_weights as module


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A finished study of one run, and bundles to ship to."""
    bundle = tmp_path / "bundles" / "some_bundle"
    (bundle / "configs").mkdir(parents=True)
    monkeypatch.setattr(module, "all_bundles", lambda: [bundle])
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps({"name": "scans", "description": "Some scans.", "licence": "MIT"}))
    (tmp_path / "LICENSE").write_text("Free.\n")
    run = tmp_path / "study" / "runs" / "some_bundle_n4_fold0_seed0"
    (run / "evaluation").mkdir(parents=True)
    (run / "model.pt").write_bytes(b"weights")
    (run / "record.json").write_text(json.dumps({"learned_from": {"a": "1", "b": "2"}}))
    (run / "evaluation" / "mean_dice_raw.csv").write_text("filename,liver,mean\nc,0.5,0.5\nd,nan,0.7\n")
    options = {"dataset_dir": str(data), "bundle_root": "bundles/some_bundle", "seed": 3}
    for folder, word in ((run, "training"), (run / "evaluation", "evaluation")):
        command = ["/usr/bin/python3", "-m", "monai.bundle", "run", word, "--dataset_dir", str(data)]
        (folder / "done.json").write_text(json.dumps({"command": command, "options": options, "seconds": 90}))
    return tmp_path


def ship(study):
    return module.ship_weights(str(study / "study"), data_license=str(study / "LICENSE"), commit="0123456789abcdef")


def test_a_network_comes_with_its_data_its_commands_its_scores_and_its_checksum(study):
    folder = study / "bundles" / "some_bundle" / "models" / "scans"
    assert ship(study) == str(folder)
    assert {path.name for path in folder.iterdir()} == {"model.pt", "record.json", "weights.md", "data_license.txt"}
    text = (folder / "weights.md").read_text()
    assert "| 0.500 | 0.600 |" in text  # a case without the class has no score
    assert "Learned from 2 labeled scans" in text and "on the 2 test cases" in text
    assert "python -m monai.bundle run training --dataset_dir DIR/scans\npython -m monai.bundle run evaluation" in text
    assert hashlib.sha256(b"weights").hexdigest() in text and "0123456789ab" in text
    assert str(study) not in text


def test_a_network_that_is_too_large_is_refused_and_nothing_is_left(study):
    (study / "study" / "runs" / "some_bundle_n4_fold0_seed0" / "model.pt").write_bytes(bytes(10_000_001))
    with pytest.raises(ValueError, match="must have at most"):
        ship(study)
    assert not (study / "bundles" / "some_bundle" / "models").exists()


def test_a_study_of_several_draws_or_of_no_bundle_is_refused(study, monkeypatch):
    runs = study / "study" / "runs"
    (runs / "some_bundle_n4_fold1_seed0").mkdir()  # not scored
    assert len(ship(study).splitlines()) == 1
    shutil.copytree(runs / "some_bundle_n4_fold0_seed0", runs / "some_bundle_n4_fold2_seed0")
    with pytest.raises(ValueError, match="must have one run of some_bundle, got 2"):
        ship(study)
    monkeypatch.setattr(module, "all_bundles", lambda: [])
    with pytest.raises(FileNotFoundError, match="must have runs whose arms are bundles"):
        ship(study)
