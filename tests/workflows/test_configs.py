"""What is written in the configs, beyond what `tools.verify` tells of any bundle: the rules of this collection."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from tools.verify.bundle import read_bundle
from tools.verify.consistency import check_names
from tools.verify.findings import find_all

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
WORKFLOWS = ["pretrain.yaml", "train.yaml", "inference.yaml"]
TRAININGS = ["pretrain.yaml", "train.yaml"]
REQUIRED = {
    *("train.yaml", "inference.yaml", "demo.yaml", "small.yaml", "evaluate.yaml"),
    "multi_gpu_train.yaml",
}
KNOWN = REQUIRED | {"pretrain.yaml", "adapt.yaml", "liver.yaml", "joint.yaml", "mr.yaml", "zero_shot.yaml"}
KNOWN |= {"self_train.yaml", "mean_teacher.yaml", "evaluate_restoration.yaml"}
F_NET_SHARED = ["features", "kernel_size", "patch_size", "air", "normalization"]
SHARED = {  # what the pretraining and the training of a bundle have in common
    "fnet_wtacae_stl": F_NET_SHARED,
    "fnet_wtacae_mtl": F_NET_SHARED,
    "context_restoration_unet": [
        *("axis", "image_channels", "in_channels", "intensity", "features", "num_groups", "slice_size"),
    ],
    "planar_heatmap_descriptor": [
        *("half_width", "half_depth", "cube_half_width", "sampling", "padding"),
        *("air", "spacing", "clip", "normalization", "field_of_view"),
    ],
    "layer_decomp_tumor": ["features", "kernel_sizes", "strides", "norm", "organ", "spacing", "clip", "patch_size"],
}
SAME_ACROSS = {  # what the bundles of one network have in common, so that their weights are interchangeable
    ("fnet_wtacae_stl", "fnet_wtacae_mtl"): {
        "train.yaml": ["network_def", "loss", "features", "kernel_size", "gain", "patch_size", "validate::inferer"],
        "inference.yaml": ["network_def", "preprocessing", "inferer", "postprocessing", "handlers", "evaluator"],
    }
}

every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def load(bundle: Path, name: str) -> dict:
    return ConfigParser.load_config_file(bundle / "configs" / name)


def present(bundle: Path, names: Iterable[str]) -> list[str]:
    """Return the files that a bundle has: one whose method is a single training has no `pretrain.yaml`."""
    return [name for name in names if (bundle / "configs" / name).is_file()]


def pairs(table: Callable[[Path], Iterable[str]]) -> list:
    """Return each bundle with each of the names that a table has for it."""
    return [pytest.param(path, name, id=f"{name}-{path.name}") for path in BUNDLES for name in table(path)]


def without_weights(bundle: Path, folder: Path) -> Path:
    """Return a copy of a bundle in some folder, without what somebody may have trained."""
    return Path(shutil.copytree(bundle, folder / bundle.name, ignore=shutil.ignore_patterns("models")))


@every_bundle
def test_nothing_is_wrong_with_a_bundle(bundle, tmp_path):
    assert [*find_all([without_weights(bundle, tmp_path)])] == []


def test_the_bundles_name_alike_what_is_alike():
    assert [*check_names([read_bundle(bundle) for bundle in BUNDLES])] == []


@every_bundle
def test_files_are_those_whose_use_is_known(bundle):
    names = {path.name for path in (bundle / "configs").glob("*.yaml")}
    assert names >= REQUIRED and names <= KNOWN


@every_bundle
def test_the_options_are_checked_before_anything_else_and_processes_join_last(bundle):
    for name in present(bundle, WORKFLOWS):
        content = load(bundle, name)
        first, second, *_, last = content["initialize"]
        assert first == {"_target_": "common.cli.explain_errors"}
        assert (second, last) == ("@settings", "@processes")
        assert content["settings"]["_target_"].endswith(".check_options")
        assert content["processes"]["_target_"] == "common.training.join_processes"
        assert content["finalize"][0]["_target_"] == "common.training.leave_processes"


@every_bundle
def test_a_reader_sees_ten_options_and_the_papers_numbers_apart(bundle):
    for name in present(bundle, WORKFLOWS):
        text = (bundle / "configs" / name).read_text(encoding="utf-8")
        headings = re.findall(r"^# ---- (.*?) -+$", text, flags=re.MULTILINE)
        assert len(headings) == 4 and headings[0] == "change these" and headings[1].startswith("the paper's numbers")
        first = text.split("# ---- ")[1]
        assert 3 <= len(re.findall(r"^\w+:", first, flags=re.MULTILINE)) <= 11
        assert len(text.splitlines()) <= 200


@pytest.mark.parametrize(("bundle", "name"), pairs(lambda bundle: SHARED[bundle.name]))
def test_what_two_trainings_share_is_identical(bundle, name):
    """They are written twice because MONAI Label reads one file."""
    first, *others = [load(bundle, file)[name] for file in present(bundle, TRAININGS)]
    assert all(other == first for other in others)


@pytest.mark.parametrize("bundles", SAME_ACROSS, ids="-".join)
def test_bundles_of_one_network_agree(bundles):
    for name, ids in SAME_ACROSS[bundles].items():
        first, *others = [ConfigParser(load(ROOT / "bundles" / bundle, name)) for bundle in bundles]
        for id in ids:
            assert all(other[id] == first[id] for other in others), id
