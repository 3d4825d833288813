"""Laws of the findings: a bundle that is broken in one way is found to be wrong in that way, and in no other."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from initial_weights import BUNDLES, write_weights
from monai.bundle import ConfigParser

from common.data import load_record
from tools.verify.findings import find_all

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A copy of a bundle with a small network."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "bundles" / "fnet_wtacae_stl", root, ignore=shutil.ignore_patterns("models"))
    for name in ("pretrain.yaml", "train.yaml", "evaluate.yaml", "inference.yaml"):
        replace(root / "configs" / name, "[32, 32, 32, 32]", "[2, 2]")
        sign = "', " if name in ("evaluate.yaml", "inference.yaml") else ": "  # of the record, or plain
        replace(root / "configs" / name, f"kernel_size{sign}5", f"kernel_size{sign}3")
    return root


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


METADATA, TRAIN, INFERENCE = "configs/metadata.json", "configs/train.yaml", "configs/inference.yaml"
FINDINGS = {  # file, what is replaced in it (nothing: all of it) and by what, and how each finding begins
    "unreadable": ("configs/small.yaml", "patch_size: ", "patch_size: [", "configs/small.yaml: must be readable, got "),
    "unreadable workflow": (TRAIN, "seed: 0", "seed: [", f"{TRAIN}: must be readable, got "),
    "no mapping": ("configs/small.yaml", "", "- 1", "configs/small.yaml: must be a mapping of ids, got list"),
    "schema": (
        *(METADATA, '"modality": "CT"', '"modality": 1'),
        f"{METADATA}: network_data_format::inputs::image::modality must fit the schema, got 1 is not of type 'string'",
    ),
    "lacking metadata": (
        *(METADATA, '"task": ', '"purpose": '),
        f"{METADATA}: it must fit the schema, got 'task' is a required property",
    ),
    "changelog": (
        *(METADATA, '"version": "0.1.0"', '"version": "0.2.0"'),
        f"{METADATA}: changelog must have the version 0.2.0, got ['0.1.0']",
    ),
    "reference": (
        *(TRAIN, "WholeBatchLoss, loss: '@loss'", "WholeBatchLoss, loss: '@los'"),
        f"{TRAIN}: must have the id los, to which it refers, got none",
    ),
    "reference of an override": (
        *("configs/evaluate.yaml", "@cases", "@scans"),
        "configs/evaluate.yaml: must refer to ids that exist, got scans after train.yaml",
    ),
    "override": (
        *("configs/demo.yaml", "max_epochs: ", "max_epoch: "),
        "configs/demo.yaml: max_epoch must exist in a file that it comes after, or be used, got none in "
        "inference.yaml, pretrain.yaml, train.yaml",
    ),
    "override of an argument that is not taken": (
        *("configs/evaluate.yaml", "validate::dataset::cache", "validate::dataset::cach"),
        "configs/evaluate.yaml: validate::dataset::cach must exist in a file that it comes after, or be used, ",
    ),
    "override of nothing": (
        *("configs/small.yaml", "", "max_epoch: 1"),
        "configs/small.yaml: must replace an id of inference.yaml, got none",
    ),
    "override that does not fit": (
        *("configs/small.yaml", "max_epochs: ", "+run: {a: 1}\nmax_epochs: "),
        "configs/small.yaml: must fit after inference.yaml, got ",
    ),
    "target": (
        *(TRAIN, "torch.optim.Adam", "torch.optim.Adams"),
        f"{TRAIN}: optimizer::_target_ must name a class or function, got torch.optim.Adams (",
    ),
    "argument": (
        *(TRAIN, ", weight_decay: '@weight_decay'", ", decay: '@weight_decay'"),
        f"{TRAIN}: optimizer must have arguments that torch.optim.Adam takes, got decay",
    ),
    "loop": (
        *(TRAIN, "stop_lr: 1.0e-7", "stop_lr: $min(x for x in [1.0])"),
        f"{TRAIN}: stop_lr must have no loop and no lambda, which want to be a function, got $min(x for x in [1.0])",
    ),
    "lambda": (
        *("configs/evaluate.yaml", "num_pictures: 4", "num_pictures: '$(lambda: 4)()'"),
        "configs/evaluate.yaml: num_pictures must have no loop and no lambda, which want to be a function, ",
    ),
    "syntax": (
        *(INFERENCE, "$@bundle_root + '/output'", "$@bundle_root + '/output"),
        f"{INFERENCE}: output_dir must be a Python expression, got $@bundle_root + '/output",
    ),
    "import of a dotted name": (
        *(TRAIN, "seed: 0", "seed: $import os.path"),
        f"{TRAIN}: seed must import one name without a dot, ",
    ),
    "import beside a reference": (
        *(TRAIN, "seed: 0", "seed: $@fold + len('import')"),
        f"{TRAIN}: seed must have no reference beside the text import, ",
        f"{TRAIN}: network_def must be a network that can be built, got SyntaxError",
    ),
    "required property": (
        *(INFERENCE, "\ninferer: ", "\nwindow: "),
        f"{INFERENCE}: must have the id inferer, to which it refers, got none",
        f"{INFERENCE}: must have the id inferer, which MONAI requires to infer, got none",
    ),
    "optional property": (
        *(TRAIN, "transform: '@validate::preprocessing', cache", "transform: '@train::preprocessing', cache"),
        f"{TRAIN}: validate::dataset::transform must refer to @validate::preprocessing, where MONAI looks for it, got ",
    ),
    "property that is no reference": (
        *(TRAIN, "train_handlers: '@train::handlers'", "train_handlers: []"),
        f"{TRAIN}: must refer by @ to what MONAI gives a name of its own, got ",
    ),
    "handlers that MONAI Label cannot edit": (
        *(TRAIN, "- {_target_: common.fnet.KernelPicture, ", "- '@loss'\n  - {_target_: common.fnet.KernelPicture, "),
        f"{TRAIN}: train::handlers must be a list of mappings, which MONAI Label edits, got another",
    ),
    "consistency": (
        *(INFERENCE, "tile_size: 96", "tile_size: 64"),
        f"{TRAIN}: tile_size must be that of inference, 64, got 96",
    ),
    "another network": (
        *(TRAIN, "out_channels: $len(@labels)", "out_channels: $len(@labels) + 1"),
        f"{TRAIN}: network_def::out_channels must be that of inference, '$len(@labels)', got '$len(@labels) + 1'",
        f"{TRAIN}: network_def must have the weights of that in inference.yaml, got another integration",
    ),
    "another preprocessing": (
        *(INFERENCE, "axcodes: RAS", "axcodes: LPS"),
        f"{TRAIN}: validate::preprocessing must give Orientationd of image the axcodes of inference, 'LPS', got 'RAS'",
    ),
    "a transform fewer": (
        *(INFERENCE, "  - {_target_: Orientationd, keys: image, axcodes: RAS, labels: null}\n", ""),
        f"{TRAIN}: validate::preprocessing must do to image what inference does, ['common.transforms.LoadVolumesd', ",
    ),
    "network that cannot be built": (
        *(INFERENCE, "in_channels: $len(@modality)", "in_channels: one"),
        f"{TRAIN}: network_def::in_channels must be that of inference, 'one', got '$len(@modality)'",
        f"{INFERENCE}: network_def must be a network that can be built, got ",
    ),
    "input": (
        *(METADATA, '"num_channels": 1', '"num_channels": 2'),
        f"{INFERENCE}: network_def must take and give what metadata.json says, got ",
    ),
    "output": (
        *(METADATA, '"num_channels": 5', '"num_channels": 4'),
        f"{INFERENCE}: network_def must take and give what metadata.json says, got ValueError: output channel",
    ),
    "channels": (
        *(METADATA, '"4": "left kidney"', '"4": "left kidney", "5": "liver", "6": "liver"'),
        f"{METADATA}: channel_def must name 5 channels, got background, ",
    ),
    "axes": (
        *(METADATA, '5,\n    "spatial_shape": ["*", ', '5,\n    "spatial_shape": ['),
        f"{METADATA}: spatial_shape of pred must have 3 axes, got ['*', '*']",
    ),
    "no description of the image": (
        *(METADATA, '"value_range": [-5, 5]', '"value_range": [5]'),
        f"{METADATA}: network_data_format must describe image and pred, got ValueError",
    ),
    "values": (
        *(METADATA, '"value_range": []', '"value_range": [0, 1]'),
        f"{METADATA}: value_range of pred must hold -",
    ),
}


@pytest.mark.parametrize(("file", "old", "new", "expected"), [(*f[:3], f[3:]) for f in FINDINGS.values()], ids=FINDINGS)
def test_what_is_broken_is_found_and_nothing_else(bundle, file, old, new, expected):
    if old:
        replace(bundle / file, old, new)
    else:
        (bundle / file).write_text(new, encoding="utf-8")
    findings = [*find_all([bundle])]
    assert len(findings) == len(expected), findings
    assert all(finding.startswith(f"copy/{text}") for finding, text in zip(findings, expected, strict=True)), findings


def test_files_that_every_bundle_has(bundle):
    for name in ("LICENSE", "docs/README.md", "configs/metadata.json", "configs/inference.yaml"):
        (bundle / name).unlink()
    (bundle / "docs" / "plot.py").touch()
    assert [*find_all([bundle])] == [
        "copy/configs/metadata.json: must exist, got no such file",
        "copy/docs/README.md: must exist, got no such file",
        "copy/LICENSE: must exist, got no such file",
        "copy/configs/inference.yaml: must exist (or as .json), got no such file",
        "copy/docs/plot.py: must lie in scripts/, as all Python of a bundle, got docs/",
    ]


def test_bundles_that_are_given_together_have_the_same_names(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path / "other")
    replace(other / "configs" / "evaluate.yaml", "num_pictures", "num_drawn")
    assert [*find_all([other])] == []
    assert [*find_all([bundle, other])] == [
        "other/configs/evaluate.yaml: must have the id num_pictures, as copy has, got none"
    ]


def test_preprocessing_may_be_written_in_another_way(bundle):
    replace(bundle / INFERENCE, "LoadVolumesd, keys: image, ", "LoadVolumesd, keys: [image], ")
    replace(
        bundle / INFERENCE, "IsotropicSpacingd, keys: image, ", "IsotropicSpacingd, keys: [image], mode: [bilinear], "
    )
    replace(
        bundle / TRAIN,
        "keys: image, spacing: $@record.spacing}",
        "keys: image, spacing: $@record.spacing, mode: bilinear}",
    )
    old = "  - {_target_: Orientationd, keys: image, axcodes: RAS, labels: null}"
    new = "  - {_target_: Orientationd, keys: image, axcodes: RAS, labels: null, allow_missing_keys: true}"
    replace(bundle / INFERENCE, old, f"  - _target_: Compose\n    transforms:\n  {new}")
    assert [*find_all([bundle])] == []


NETWORK = """
import torch
from torch import nn

class Net(nn.Conv3d):
    def __init__(self, out_channels):
        super().__init__(1, out_channels, 1)

    def forward(self, image):
        return self._conv_forward(image * SCALE, self.weight, self.bias)
"""
LOAD = {"_target_": "LoadImaged", "keys": ["image", "label"]}
ENGINE = {"device": "@device", "network": "@network_def"}
TRAIN_JSON = {
    **{"imports": ["$import glob"], "bundle_root": ".", "device": "cpu", "dataset_dir": "$@bundle_root + '/x'"},
    "network_def": {"_target_": "scripts.net.Net", "out_channels": 2},
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.1},
    "train": {
        "transforms": [LOAD],
        "preprocessing": {"_target_": "Compose", "transforms": "$@train#transforms"},
        "dataset": {"_target_": "Dataset", "data": [], "transform": "@train#preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@##dataset"},
        "inferer": {"_target_": "SimpleInferer"},
        "trainer": {
            **{"_target_": "SupervisedTrainer", **ENGINE, "max_epochs": 1, "train_data_loader": "@train#dataloader"},
            **{"loss_function": {"_target_": "DiceLoss"}, "optimizer": "@optimizer", "inferer": "@train#inferer"},
        },
    },
    "validate": {
        "preprocessing": {"_target_": "Compose", "transforms": [LOAD]},
        "dataset": {"_target_": "Dataset", "data": [], "transform": "@validate#preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset"},
        "handlers": [],
        "evaluator": {
            **{"_target_": "SupervisedEvaluator", **ENGINE, "val_data_loader": "@validate#dataloader"},
            "val_handlers": "@validate#handlers",
        },
    },
    "run": ["$@train#trainer.run()"],
}
INFERENCE_JSON = {
    **{name: TRAIN_JSON[name] for name in ("imports", "bundle_root", "device", "dataset_dir", "network_def")},
    "preprocessing": {"_target_": "Compose", "transforms": [{**LOAD, "keys": "image"}]},
    "dataset": {"_target_": "Dataset", "data": [], "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset"},
    "inferer": {"_target_": "SimpleInferer"},
    "evaluator": {"_target_": "SupervisedEvaluator", **ENGINE, "val_data_loader": "@dataloader", "inferer": "@inferer"},
    "run": ["$@evaluator.run()"],
}
EVALUATE_JSON = {
    "scores_dir": "$@bundle_root + '/scores'",
    "validate#handlers": [{"_target_": "MetricsSaver", "save_dir": "@scores_dir"}],
    "run": ["$@validate#evaluator.run()"],
}
FURTHER_JSON = {  # after both
    "validate#handlers#0#_disabled_": "$@device == 'cpu'",
    "validate#handlers#0#save_dir": "$@scores_dir + '/several'",
    "validate#sampler": {"_target_": "DistributedSampler", "dataset": "@validate#dataset"},
    "validate#dataloader#sampler": "@validate#sampler",
    "evaluating": ["$import torch.distributed as dist", "$@validate#evaluator.run()"],
}


@pytest.fixture
def write_foreign(tmp_path):
    """Return a function that writes a bundle of another style: JSON, `#` and relative ids, code of its own, weights.

    Its network multiplies an image by a scale, which is a text that may depend on `image`.
    """

    def _write(name: str, scale: str = "1.0", **metadata: str) -> Path:
        root = tmp_path / name
        for folder in ("configs", "docs", "scripts", "models"):
            (root / folder).mkdir(parents=True)
        for file in ("LICENSE", "docs/README.md", "scripts/__init__.py"):
            (root / file).touch()
        (root / "scripts" / "net.py").write_text(NETWORK.replace("SCALE", scale), encoding="utf-8")
        weights = {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.zeros(2)}
        torch.save(weights, root / "models" / "model.pt")
        image = {"type": "image", "format": "magnitude", "num_channels": 1, "spatial_shape": ["8*n", "*", "2**p"]}
        image |= {"dtype": "float32", "value_range": []}
        pred = {**image, "num_channels": 2, "channel_def": {"0": "background", "1": "spleen"}}
        content = json.loads(
            (ROOT / "bundles" / "fnet_wtacae_stl" / "configs" / "metadata.json").read_text(encoding="utf-8")
        )
        content |= {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}, **metadata}
        configs = {"train": TRAIN_JSON, "inference": INFERENCE_JSON, "evaluate": EVALUATE_JSON, "further": FURTHER_JSON}
        for file, config in {**configs, "metadata": content}.items():
            (root / "configs" / f"{file}.json").write_text(json.dumps(config), encoding="utf-8")
        return root

    return _write


def test_bundles_of_another_style_bring_each_its_own_code(write_foreign):
    paths, modules = [*sys.path], {name for name in sys.modules if name.split(".")[0] == "scripts"}
    bundles = [write_foreign("first"), write_foreign("second")]
    assert [*find_all(bundles)] == []
    replace(bundles[1] / "scripts" / "net.py", "def __init__(self, out_channels)", "def __init__(self, num_classes)")
    assert [finding.split(", got ")[0] for finding in find_all(bundles)] == [
        "second/configs/inference.json: network_def must have arguments that scripts.net.Net takes",
        "second/configs/train.json: network_def must have arguments that scripts.net.Net takes",
        "second/configs/inference.json: network_def must be a network that can be built",
    ]
    assert sys.path == paths and {name for name in sys.modules if name.split(".")[0] == "scripts"} == modules


def test_weights_must_fit_and_hold_no_code(write_foreign):
    bundle = write_foreign("own")
    weights = bundle / "models" / "model.pt"
    for content in ({"weight": torch.ones(2, 1, 1, 1, 1)}, {"weight": Path("code")}):
        torch.save(content, weights)
        (finding,) = find_all([bundle])
        assert finding.startswith("own/models/model.pt: must hold the weights of network_def and no code, got ")


def test_what_torchscript_does_not_compile_is_found_unless_the_metadata_say_why(write_foreign):
    """A trace would do, for images like the one with which it was made."""
    assert [*find_all([write_foreign("known", "float(image.amax())")])] == []
    (finding,) = find_all([write_foreign("hidden", "__import__('math').pi")])
    assert finding.startswith(
        "hidden/configs/inference.json: network_def must become TorchScript (or metadata.json say "
    )
    assert [*find_all([write_foreign("told", "__import__('math').pi", no_torchscript="its scale is imported")])] == []


def test_torchscript_that_computes_something_else_is_found(write_foreign):
    (finding,) = find_all([write_foreign("own", "(2.0 if torch.jit.is_scripting() else 1.0)")])
    assert finding.startswith("own/configs/inference.json: network_def must become TorchScript")
    assert "not close" in finding


def test_torchscript_that_is_provided_must_be_readable(write_foreign):
    bundle = write_foreign("own")
    (bundle / "models" / "model.ts").write_text("broken", encoding="utf-8")
    (finding,) = find_all([bundle])
    assert finding.startswith("own/models/model.ts: must be TorchScript, got ")


def test_files_that_are_to_be_downloaded_must_be_there(write_foreign):
    bundle = write_foreign("own")
    (bundle / "models" / "model.pt").unlink()
    assert [*find_all([bundle])] == ["own/models/model.pt: must exist, got no such file"]
    listed = {"large_files": [{"path": "models/model.pt", "url": "https://localhost/model.pt"}]}
    (bundle / "large_files.json").write_text(json.dumps(listed), encoding="utf-8")
    assert [finding.split(", got ")[0] for finding in find_all([bundle])] == [
        "own/models/model.pt: must exist",
        "own/models/model.pt: must exist, since large_files.json lists it",
    ]


def test_a_version_is_published_once(write_foreign):
    bundle = write_foreign("own")
    versions = bundle.parent / "model_info.json"
    versions.write_text(json.dumps({"own_v0.0.9": {}, "other_v0.1.0": {}}), encoding="utf-8")
    assert [*find_all([bundle])] == []
    versions.write_text(json.dumps({"own_v0.1.0": {}}), encoding="utf-8")
    assert [*find_all([bundle])] == [
        "own/configs/metadata.json: version must be one that model_info.json does not have, got 0.1.0; raise it"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in BUNDLES])
def test_what_a_user_has_trained_in_a_bundle_is_no_finding(name, tmp_path):
    """Classes, channels and sizes of a network are those of the user, and the metadata describe an example."""
    root = tmp_path / name
    shutil.copytree(ROOT / "bundles" / name, root, ignore=shutil.ignore_patterns("models"))
    weights, modality = root / "models" / "model.pt", ["CT"] if name == "planar_heatmap_descriptor" else ["CT", "PET"]
    write_weights(root, weights.parent, modality)  # with the sizes of demo.yaml
    settings = ConfigParser.load_config_file(root / "configs" / "demo.yaml")
    record = dataclasses.replace(load_record(weights), settings=settings)
    record.save_beside(weights)
    assert [*find_all([root])] == []
    dataclasses.replace(record, labels={0: "background", 1: "mine"}).save_beside(weights)
    (finding,) = find_all([root])
    assert finding.startswith(f"{name}/models/model.pt: must hold the weights of network_def and no code, got ")


def test_whatever_is_wrong_is_a_finding_and_not_a_traceback(write_foreign, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len([*find_all([empty])]) == 5
    for name in ("train", "inference", "evaluate", "metadata"):
        for content in (
            "",
            "[]",
            "{",
            "{}",
            '{"network_def": [1], "train": "@@", "validate": 1, "inferer": "@inferer"}',
        ):
            bundle = write_foreign("broken")
            (bundle / "configs" / f"{name}.json").write_text(content, encoding="utf-8")
            findings = [*find_all([bundle])]
            assert all(finding.startswith("broken/") and "\n" not in finding for finding in findings)
            assert findings or (name, content) == ("evaluate", "{}"), (name, content)
            shutil.rmtree(bundle)
