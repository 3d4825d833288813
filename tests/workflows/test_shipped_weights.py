"""The weights that come with the bundles: what they say of themselves, and that they segment and can be exported."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from workflow_helpers import ROOT

from tools.export.__main__ import export
from tools.verify.findings import find_all

SHIPPED = sorted(path.parent for path in ROOT.glob("bundles/*/models/*/weights.md"))
SCANS = Path(os.environ.get("SCANS_DIR", "/nonexistent"))
all_shipped = pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.parents[1].name)


def _run(folder: Path, name: str, kind: str, **options) -> None:
    """Run a workflow of the bundle with the weights as a user would, with no more than their folder."""
    bundle = folder.parents[1]
    made = ConfigWorkflow(
        [str(bundle / "configs" / file) for file in name.split()],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        ckpt_dir=str(folder),
        device="cpu",
        **options,
    )
    made.initialize()
    made.run()
    made.finalize()


def _mean_dice(scans: list[Path], segmented: Path) -> float:
    scores = []
    for scan in scans:
        label = np.asanyarray(nib.load(scan.parents[1] / "labelsTs" / scan.name).dataobj)
        found = np.asanyarray(nib.load(segmented / scan.name.replace(".nii.gz", "_seg.nii.gz")).dataobj)
        for value in np.unique(label)[1:]:
            one, two = found == value, label == value
            scores.append(2 * (one & two).sum() / (one.sum() + two.sum()))
    return float(np.mean(scores))


@all_shipped
def test_weights_tell_their_data_its_licence_and_their_checksum_and_are_small(folder):
    text = (folder / "weights.md").read_text()
    assert hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest() in text
    assert "Permission is hereby granted" in (folder / "data_license.txt").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    record = (folder / "record.json").read_text()
    assert not re.search(r'"/|"[A-Z]:|\.\./', text + record), "a path of some machine"


@all_shipped
@pytest.mark.slow
def test_a_scan_is_segmented_from_the_clone_alone(folder, phantoms, tmp_path):
    _run(folder, "inference.yaml", "infer", dataset_dir=str(phantoms / "imagesTs"), output_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*_seg.nii.gz"))) == 2


@all_shipped
@pytest.mark.slow
@pytest.mark.skipif(not SCANS.is_dir(), reason="SCANS_DIR names no folder of scans")
def test_a_real_scan_is_segmented_as_well_as_the_weights_say(folder, tmp_path):
    """The first two test cases, which are .1 above or below the mean of all of them."""
    scans = sorted((SCANS / folder.name / "imagesTs").glob("*.nii.gz"))[:2]
    images = tmp_path / "images"
    images.mkdir()
    for scan in scans:
        (images / scan.name).symlink_to(scan)
    _run(folder, "inference.yaml", "infer", dataset_dir=str(images), output_dir=str(tmp_path / "out"))
    said = float(re.findall(r"^\|.* ([\d.]+) \|$", (folder / "weights.md").read_text(), re.MULTILINE)[-1])
    assert abs(_mean_dice(scans, tmp_path / "out") - said) < 0.1


@all_shipped
@pytest.mark.slow
def test_they_are_exported_without_any_training_and_nothing_is_wrong_with_the_bundle(folder, tmp_path):
    bundle = folder.parents[1].name
    export(bundle, str(tmp_path), ckpt_dir=str(folder), pretrained=None, override_files="configs/small.yaml")
    assert list(find_all([tmp_path / bundle])) == []
