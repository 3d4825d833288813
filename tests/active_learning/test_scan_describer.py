"""Laws of what describes scans by the files of a bundle."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet

from common.active_learning import load_describer
from common.active_learning.scan_describer import ScanDescriber

NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [2, 2, 2, 2, 4, 2]}
PREPROCESSING = [
    {"_target_": "LoadImaged", "keys": "image", "image_only": True, "ensure_channel_first": True},
    {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": 0,
        "a_max": "@a_max",
        "b_min": 0,
        "b_max": 1,
        "clip": True,
    },
]


@pytest.fixture
def bundle(tmp_path):
    """A bundle of MONAI's own parts, with weights."""
    config = {
        "bundle_root": ".",
        "a_max": 100,
        "network_def": {"_target_": "BasicUNet", **NETWORK},
        "preprocessing": {"_target_": "Compose", "transforms": PREPROCESSING},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
    }
    root = tmp_path / "bundle"
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(BasicUNet(**NETWORK).state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture
def scan(write_scan):
    return write_scan("scan.nii.gz", 100 * np.random.default_rng(0).random((20, 16, 12), np.float32))


def test_a_scan_is_described_once_by_the_same_weights_and_preprocessing(bundle, scan):
    descriptor = load_describer(bundle)(scan)
    again = load_describer(bundle)
    again.preprocessing = None  # not called
    torch.testing.assert_close(again(scan), descriptor)
    assert len(list((bundle / "models" / "scan_descriptors").iterdir())) == 1
    assert [path.name for path in (bundle / "models").glob("*.pt")] == ["model.pt"], "a server offers what lies there"


@pytest.mark.parametrize("change", ["weights", "options", "override_files", "scan"])
def test_a_scan_is_described_anew_when_anything_has_changed(bundle, scan, change):
    descriptor = load_describer(bundle)(scan)
    files, options = [], {}
    if change == "weights":
        torch.save(BasicUNet(**NETWORK).state_dict(), bundle / "models" / "model.pt")
    elif change == "options":
        options = {"a_max": 50}
    elif change == "override_files":
        files = ["configs/mr.yaml"]
        (bundle / "configs" / "mr.yaml").write_text("a_max: 50\n", encoding="utf-8")
    else:
        changed = Path(scan).stat().st_mtime_ns + 1
        os.utime(scan, ns=(changed, changed))
    describe = load_describer(bundle, files, options)
    preprocessing, calls = describe.preprocessing, []
    describe.preprocessing = lambda item: calls.append(item) or preprocessing(item)
    assert torch.allclose(describe(scan), descriptor) == (change == "scan")
    assert calls == [{"image": scan}]


def test_refuses_a_bundle_without_weights_or_configs_and_unknown_options(bundle, tmp_path):
    with pytest.raises(ValueError, match=r"options must be ids of the bundle's configs, got \['amax'\]"):
        load_describer(bundle, options={"amax": 1})
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="weights must exist, got neither these nor pretrained ones"):
        load_describer(bundle)
    with pytest.raises(FileNotFoundError, match=r"bundle_root must hold configs/inference\.yaml"):
        load_describer(tmp_path)


def test_a_damaged_scan_is_left_out_by_name(bundle, scan, write_scan, caplog):
    other = write_scan("other.nii.gz", np.zeros((20, 16, 12), np.float32))
    damaged = Path(scan).with_name("damaged.nii.gz")
    damaged.write_bytes(Path(scan).read_bytes()[:100])
    describe = load_describer(bundle)
    assert [path for path, _ in describe.choose([other], [scan, str(damaged)], 5)] == [scan]
    assert f"{damaged} cannot be described and is left out" in caplog.text
    assert describe.choose([scan, other], [str(damaged)]) == []


def test_a_scan_with_a_file_for_each_channel_is_read_whole_and_called_by_its_first(write_scan, tmp_path):
    files = {name: [write_scan(f"{name}_{i:04d}.nii.gz", np.zeros((4, 4, 4))) for i in (0, 1)] for name in "abc"}
    seen = []

    def preprocess(data):
        seen.append(data["image"])
        return {"image": torch.rand(2, 16, 16, 16)}

    network = BasicUNet(**{**NETWORK, "in_channels": 2})
    describer = ScanDescriber(network, preprocess, tmp_path / "known.pt")
    chosen = describer.choose([files["a"]], [files["b"], files["c"]], 2)
    assert seen == list(files.values())
    assert {path for path, _ in chosen} == {files["b"][0], files["c"][0]}
