"""Tests of the costs of a whole scan."""

from __future__ import annotations

from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
from workflow_helpers import ROOT

from common.cli import BundleError, InputError, MissingFileError
from tools.experiments import whole_scan as module
from tools.experiments.whole_scan import measure_inference, resample_scan, whole_scan

BUNDLE = ROOT / "bundles" / "fnet_wtacae_stl"


@pytest.fixture
def scan(tmp_path):
    """Write a scan whose voxels hold the place of their center along x in mm, turned and shifted in the world."""
    affine = np.array([[0, -3.0, 0, 20], [4, 0, 0, -50], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    values = np.broadcast_to(10 * np.arange(16.0)[:, None, None], (16, 20, 24)).astype("int16")
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def test_a_resampled_scan_fills_the_same_room(scan, tmp_path):
    made = tmp_path / "folder" / "made.nii.gz"
    resample_scan(scan, made, [32, 40, 48])
    old, new = nib.load(scan), nib.load(made)
    assert new.shape == (32, 40, 48)
    corners = [
        nib.affines.apply_affine(image.affine, [[-0.5] * 3, np.array(image.shape) - 0.5]) for image in (old, new)
    ]
    np.testing.assert_allclose(corners[1], corners[0], atol=1e-3)
    inner = new.get_fdata()[1:-1, 20, 24]  # linear between centers: voxels half as large lie a quarter off
    np.testing.assert_allclose(inner, (np.arange(1, 31) - 0.5) / 2 * 10, atol=1)


@pytest.mark.slow
def test_costs_are_those_of_the_process_that_segments(scan, tmp_path):
    scans = tmp_path / "scans"
    resample_scan(scan, scans / "scan.nii.gz", [24, 24, 24])
    costs = measure_inference(BUNDLE, scans, BUNDLE / "models" / "head_neck_ct", tmp_path / "output")
    assert costs.seconds > 1
    assert costs.busy > 1
    assert 1e8 < costs.peak < 4e9
    assert list((tmp_path / "output").rglob("*.nii.gz"))


def test_an_inference_that_fails_says_why(scan, tmp_path):
    with pytest.raises(BundleError, match=r"(?s)fnet_wtacae_stl: the inference failed: .*weights must exist"):
        measure_inference(BUNDLE, scan.parent, tmp_path, tmp_path / "output")


@pytest.mark.parametrize("size", ["64", "64,64,0", "64,64,wide"])
def test_a_size_that_is_no_volume_is_refused(scan, size):
    with pytest.raises(InputError, match="size must be three numbers of voxels"):
        whole_scan(str(scan), size=size)


def test_a_scan_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="missing"):
        whole_scan(str(tmp_path / "missing.nii.gz"))


def test_a_bundle_without_weights_is_refused(scan):
    with pytest.raises(InputError, match="layer_decomp_tumor is not; name others"):
        whole_scan(str(scan), bundles="layer_decomp_tumor")


def test_each_bundle_with_weights_and_the_usual_way_are_measured_as_often_as_asked(scan, monkeypatch, capsys):
    commands = []

    def measure(command):
        commands.append(command)
        return module.Costs(2.0, 3.0, 10**9)

    monkeypatch.setattr(module, "measure_command", measure)
    whole_scan(str(scan), size="8,8,8", repeats=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("as usual in MONAI, 2.0 s (2.0 to 2.0, n = 2)")
    assert len(commands) == 10
    name = commands[-1][2]
    assert find_spec(name) is not None and name == "tools.experiments.usual_scan"
