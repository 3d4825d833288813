"""Tests of the stages of a scan's segmentation, and of the usual way that it is compared with."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest

from common.cli import InputError, MissingFileError
from tools.experiments.scan_stages import scan_stages
from tools.experiments.usual_scan import usual_scan


@pytest.fixture
def scan(tmp_path):
    affine = np.array([[0, -3.0, 0, 20], [4, 0, 0, -50], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    values = 100 * np.random.default_rng(0).standard_normal((16, 20, 24))
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values.astype("int16"), affine), path)
    return path


def test_the_usual_way_writes_classes_on_the_grid_of_the_scan(scan, tmp_path, capsys):
    usual_scan(str(scan), str(tmp_path / "output"), classes=3)
    assert "the network alone" in capsys.readouterr().out
    (written,) = (tmp_path / "output").rglob("*.nii.gz")
    segmentation = nib.load(written)
    assert segmentation.shape == (16, 20, 24)
    np.testing.assert_allclose(segmentation.affine, nib.load(scan).affine)
    assert {*np.unique(segmentation.dataobj)} <= {0, 1, 2}


@pytest.mark.slow
def test_stages_are_those_of_the_inference(scan, capsys):
    scan_stages(str(scan), "fnet_wtacae_stl")
    lines = re.findall(r"^ *([\d.]+) s (.*)$", capsys.readouterr().out, re.MULTILINE)
    seconds = {name: float(taken) for taken, name in lines}
    stages = {"network", "LoadVolumesd"}
    assert stages <= seconds.keys()
    assert sum(seconds[name] for name in stages) <= seconds["all that follows, of which"] + 0.02


def test_what_is_not_there_is_refused(scan, tmp_path):
    with pytest.raises(MissingFileError, match="scan must be a file"):
        usual_scan(str(tmp_path), str(tmp_path / "output"))
    with pytest.raises(MissingFileError, match="scan must exist"):
        scan_stages(str(tmp_path / "missing"), "fnet_wtacae_stl")
    with pytest.raises(InputError, match="ckpt_dir must be given for layer_decomp_tumor"):
        scan_stages(str(scan), "layer_decomp_tumor")
