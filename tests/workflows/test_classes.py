"""What a training makes of labels without foreground, or without a class."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from workflow_helpers import BUNDLES, PLANAR, SHORT, every_bundle, last_words, run, scratch, workflow

pytestmark = pytest.mark.slow


def keep_classes(scans: Path, target: Path, is_kept) -> Path:
    """Return a copy of a data set whose labels have but some classes."""
    shutil.copytree(scans, target)
    for path in (target / "labelsTr").iterdir():
        label = nib.load(path)
        voxels = np.asarray(label.dataobj)
        nib.save(nib.Nifti1Image(voxels * is_kept(voxels), label.affine), path)
    return target


def options(bundle: Path, scans: Path, folder: Path) -> dict:
    places = {"dataset_dir": str(scans), "ckpt_dir": str(folder), "device": "cpu"}
    return {**places, **SHORT, **scratch(bundle), "num_labeled": 1, "num_validation": 1}


@every_bundle
def test_labels_that_are_all_empty_are_refused_in_one_sentence(bundle, phantoms, tmp_path, quiet_hooks, capsys):
    scans = keep_classes(phantoms, tmp_path / "scans", lambda voxels: voxels < 0)
    lines = last_words(workflow(bundle, "train.yaml", **options(bundle, scans, tmp_path / "models")), capsys)
    assert lines[-1].startswith(("error: labels must hold foreground", "error: data must hold voxels inside a label"))
    assert not list((tmp_path / "models").glob("model.pt"))


@pytest.mark.parametrize("bundle", [path for path in BUNDLES if path != PLANAR], ids=lambda path: path.name)
def test_a_class_that_no_label_has_is_warned_of_by_name(bundle, phantoms, tmp_path, quiet_hooks, caplog):
    scans = keep_classes(phantoms, tmp_path / "scans", lambda voxels: voxels != 2)
    run(bundle, "train.yaml", **options(bundle, scans, tmp_path / "models"))
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.name == "common.data.classes"]
    assert "no label of 1 case(s) has" in warning and "(2), so that nothing will be segmented as it" in warning


def test_an_atlas_without_a_class_is_refused_and_the_class_named(phantoms, tmp_path, quiet_hooks, capsys, caplog):
    scans = keep_classes(phantoms, tmp_path / "scans", lambda voxels: voxels != 2)
    lines = last_words(workflow(PLANAR, "train.yaml", **options(PLANAR, scans, tmp_path / "models")), capsys)
    assert "atlas must have voxels of every class, got none of [2]" in lines[-1]
    assert "(2), so that nothing will be segmented as it" in caplog.text
