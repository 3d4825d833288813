"""Scans whose intensities have units of their own, as those of MR: what is learned in one holds for the others."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from workflow_helpers import CONTEXT, FAST, PLANAR, ROOT, SHORT, run

from common.data import write_phantoms

pytestmark = pytest.mark.slow
STL, MTL = (ROOT / "bundles" / name for name in ("fnet_wtacae_stl", "fnet_wtacae_mtl"))
MR = {  # options with which a bundle takes MR
    STL: {"air": "$None", "pretrained": "null"},
    MTL: {"air": "$None"},
    CONTEXT: {"pretrained": "null"},
    PLANAR: {"air": "$None", "pretrained": "random", "clip": None},
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Phantoms as MR, of which only the unlabeled and the test scans have other units."""
    folder = write_phantoms(tmp_path_factory.mktemp("mr"), num_training=2, num_test=2, num_unlabeled=1, size=32)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "MRI"}}), encoding="utf-8")
    for path in folder.glob("images*/*.nii.gz"):
        scan = nib.load(path)
        nib.save(nib.Nifti1Image(np.float32(scan.get_fdata() + 1024), scan.affine), path)
    return folder


@pytest.mark.parametrize("bundle", MR, ids=lambda path: path.name)
def test_a_scan_in_other_units_is_segmented_as_it_is_in_its_own(bundle, scans, tmp_path, quiet_hooks):
    """With clip values of one scan for all, nothing was left of a scan whose numbers were a hundredth of them."""
    common = {"dataset_dir": str(scans), "ckpt_dir": str(tmp_path / "models"), **FAST}
    names = ["mr.yaml"] if bundle == CONTEXT else []
    short = {} if bundle == PLANAR else {**SHORT, "max_epochs": 3, "iterations_per_epoch": 8}
    run(bundle, "train.yaml", *names, **common, **short, **MR[bundle], num_labeled=1, num_validation=1)
    segmented = {}
    for factor in (1.0, 0.01, 100.0):
        images, output = tmp_path / f"images_{factor:g}", tmp_path / f"output_{factor:g}"
        images.mkdir()
        for path in sorted((scans / "imagesTs").glob("*.nii.gz")):
            scan = nib.load(path)
            nib.save(nib.Nifti1Image(np.float32(factor * scan.get_fdata()), scan.affine), images / path.name)
        options = {"dataset_dir": str(images), "output_dir": str(output), "ckpt_dir": str(tmp_path / "models")}
        run(bundle, "inference.yaml", *names, kind="infer", **options, device="cpu")
        segmented[factor] = [np.asanyarray(nib.load(path).dataobj) for path in sorted(output.glob("*_seg.nii.gz"))]
    for factor, found in segmented.items():
        for one, other in zip(segmented[1.0], found, strict=True):
            assert one.any(), "nothing is segmented, and so nothing compared"
            assert (one != other).mean() < 1e-3, factor
