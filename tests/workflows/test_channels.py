"""Several channels: what shows in one of them only is found with it, and not without."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from workflow_helpers import CONTEXT, FAST, ROOT, SHORT, last_words, run, workflow

from common.data import write_datalist, write_phantoms

pytestmark = pytest.mark.slow
STL, MTL = (ROOT / "bundles" / name for name in ("fnet_wtacae_stl", "fnet_wtacae_mtl"))
SETTINGS = {  # of trainings of half a minute
    STL: {"pretrained": "null", "max_epochs": 6},
    MTL: {"max_epochs": 6, "unlabeled_batch_size": 1},
    CONTEXT: {
        "pretrained": "null",
        "max_epochs": 12,
        "learning_rate": 3.0e-3,
        "softmax": True,
        "cross_entropy_weight": 10.0,
    },
}


def first_channel(scans: Path, folder: Path) -> Path:
    """Write a data list of the same cases with their first channel alone, beside a link to their files."""
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    content["modality"] = {"0": content["modality"]["0"]}
    for split in ("training", "test", "unlabeled"):
        for case in content[split]:
            case["image"] = case["image"][0]
    for name in ("imagesTr", "imagesTs", "imagesUn", "labelsTr", "labelsTs"):
        (folder / name).symlink_to(scans / name)
    write_datalist(folder, content)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> dict[int, Path]:
    """Phantoms whose left kidney shows in the second of two channels only, and their first channel alone."""
    both = write_phantoms(tmp_path_factory.mktemp("both"), 8, 3, 2, size=32, num_channels=2)
    return {2: both, 1: first_channel(both, tmp_path_factory.mktemp("first"))}


@pytest.mark.parametrize("bundle", SETTINGS, ids=lambda path: path.name)
def test_an_organ_of_the_second_channel_is_found_with_it_and_not_without(bundle, scans, tmp_path, quiet_hooks):
    scores = {}
    for channels, folder in scans.items():
        common = {"dataset_dir": str(folder), "ckpt_dir": str(tmp_path / f"models_{channels}"), **FAST}
        run(bundle, "train.yaml", **common, **SETTINGS[bundle], num_validation=1, val_interval=100)
        evaluation = {"evaluation_dir": str(tmp_path / f"scores_{channels}"), "num_pictures": 1}
        run(bundle, "train.yaml", "evaluate.yaml", **common, **SETTINGS[bundle], **evaluation)
        rows = list(csv.DictReader((tmp_path / f"scores_{channels}" / "mean_dice_raw.csv").open()))
        scores[channels] = np.mean([float(row["left kidney"]) for row in rows])
        assert np.mean([float(row["liver"]) for row in rows]) > 0.5
    assert scores[2] > 0.5 and scores[1] < 0.1

    segmentations = []
    images = scans[2] / "imagesTs"
    files = sorted(images.glob("phantom_008_*.nii.gz"))
    channels = [nib.load(file) for file in files]
    whole = tmp_path / "phantom_008.nii.gz"  # all channels in one file
    nib.save(nib.Nifti1Image(np.stack([np.asarray(part.dataobj) for part in channels], -1), channels[0].affine), whole)
    for source in (images, whole):
        output = tmp_path / f"output_{len(segmentations)}"
        options = {"dataset_dir": str(source), "ckpt_dir": str(tmp_path / "models_2"), "output_dir": str(output)}
        run(bundle, "inference.yaml", kind="infer", device="cpu", **options)
        segmentations.append(np.asarray(nib.load(output / "phantom_008_seg.nii.gz").dataobj))
    assert segmentations[0].shape == channels[0].shape and (segmentations[0] == 4).any()
    np.testing.assert_array_equal(*segmentations)


@pytest.mark.parametrize("bundle", [STL, CONTEXT], ids=lambda path: path.name)
def test_weights_of_another_number_of_channels_are_refused(bundle, scans, tmp_path, quiet_hooks, capsys):
    common = {"ckpt_dir": str(tmp_path), **FAST, **SHORT}
    run(bundle, "pretrain.yaml", dataset_dir=str(scans[1]), **common)
    assert list((tmp_path / "pretrained").glob("*.png"))
    (line,) = last_words(workflow(bundle, "train.yaml", dataset_dir=str(scans[2]), **common), capsys)
    assert line.startswith(f"error: {tmp_path}") and line.endswith(
        "weights must be trained on images of 2 channels (CT, PET), got 1 channel (CT); train on such images, or "
        "leave these weights out (--pretrained null)"
    )
