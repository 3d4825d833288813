"""An exported bundle needs nothing of this repository, and computes what the original does."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from initial_weights import BUNDLES, LABELS, ROOT, export_small, small_network, write_weights
from monai.bundle import ConfigParser, ConfigWorkflow
from warm_process import run_python

from common.data import load_record, make_record, write_lesion_phantoms, write_phantoms
from tools.export.__main__ import export
from tools.options import option_table
from tools.verify.findings import find_all

pytestmark = pytest.mark.slow
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
PACKAGES = {"PIL": "pillow", "itk": "itk-io", "ignite": "pytorch-ignite", "skimage": "scikit-image"}
WITHOUT_REPOSITORY = (
    "import runpy, sys; sys.modules['common'] = sys.modules['tools'] = None; sys.argv[0] = 'monai.bundle'; "
    "runpy.run_module('monai.bundle', run_name='__main__')"
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("scans"), 1, 1, 0, size=32)


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """Scans for every workflow of every bundle."""
    counts = {"num_training": 4, "num_test": 1, "num_unlabeled": 1, "num_normal": 3}
    return write_lesion_phantoms(tmp_path_factory.mktemp("learned"), **counts, size=48)


@pytest.fixture
def weights(tmp_path) -> Path:
    return tmp_path / "models"


def run_exported(id: str, root: Path, cwd: Path, **options) -> None:
    command = [
        "-c",
        WITHOUT_REPOSITORY,
        "run",
        id,
        "--config_file",
        str(root / "configs" / f"{id}.json"),
    ]
    for name, value in {"device": "cpu", **options}.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = run_python(command, cwd, environment)
    assert done.returncode == 0, done.stderr[-3000:]


@every_bundle
def test_runs_from_any_folder_without_this_repository_and_segments_as_before(
    bundle, scans, weights, tmp_path, monkeypatch
):
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path / "exported")
    images = scans / "imagesTs"
    run_exported("inference", root, tmp_path, dataset_dir=images, output_dir=tmp_path / "there")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml")]
    options = {"dataset_dir": str(images), "ckpt_dir": str(weights), "output_dir": str(tmp_path / "here")}
    here = ConfigWorkflow(files, "infer", logging_file=False, bundle_root=str(bundle), device="cpu", **options)
    here.initialize()
    here.run()
    (name,) = (path.name for path in (tmp_path / "here").glob("*_seg.nii.gz"))
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@every_bundle
def test_is_trained_and_evaluated_without_this_repository(bundle, learned, weights, tmp_path):
    """All of its workflows, one after the other, from its own folder."""
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path / "exported")
    before = (root / "models" / "model.pt").read_bytes()
    runs = [("training", ["train"]), ("evaluation", ["train", "evaluate"])]
    if (root / "configs" / "pretrain.json").is_file():
        runs.insert(0, ("pretraining", ["pretrain"]))
    code = (
        "import json, sys; sys.modules['common'] = sys.modules['tools'] = None; import monai.bundle\n"
        "for id, files, options in json.loads(sys.argv[1]):\n"
        "    monai.bundle.run(id, config_file=[f'configs/{name}.json' for name in files], **options)"
    )
    options = {"dataset_dir": str(learned), "device": "cpu"}
    short = {
        "max_epochs": 1,
        "iterations_per_epoch": 1,
        "val_iterations": 1,
        "num_labeled": 1,
        "num_validation": 1,
        "num_folds": 2,
    }
    arguments = []
    for id, files in runs:
        known = json.loads((root / "configs" / f"{files[0]}.json").read_text(encoding="utf-8"))
        arguments.append((id, files, {**options, **{name: value for name, value in short.items() if name in known}}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = ["-c", code, json.dumps(arguments)]
    done = run_python(command, root, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (root / "models" / "model.pt").read_bytes() != before
    assert len(runs) == 2 or list((root / "models" / "pretrained").glob("*.pt"))
    rows = (root / "evaluation" / "mean_dice_raw.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("name", "channels"), [("fnet_wtacae_stl", 2), ("fnet_wtacae_mtl", 2), ("context_restoration_unet", 3 + 1)]
)
def test_the_channels_of_the_weights_are_described_and_nothing_is_wrong_with_them(name, channels, weights, tmp_path):
    bundle, modality = ROOT / "bundles" / name, ["CT", "PET"]
    write_weights(bundle, weights, modality)
    root = export_small(bundle, weights, tmp_path / "exported")
    assert list(find_all([root])) == []
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["modality"]) == (channels, "CT, PET")
    assert len(image["channel_def"]) == channels
    if channels == len(modality):
        assert image["channel_def"] == {"0": "CT", "1": "PET"}
    listed = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    assert listed["modality"] == {"0": "CT", "1": "PET"}, "which a training in MONAI Label reads"
    assert load_record(root / "models" / "model.pt").modality == modality


def test_what_segments_without_labels_is_exported_and_segments_as_before(scans, tmp_path, monkeypatch):
    bundle = ROOT / "bundles" / "layer_decomp_tumor"
    pretrained = tmp_path / "models" / "pretrained"
    pretrained.mkdir(parents=True)
    labels = {0: "background", 1: "tumor"}
    record = make_record(labels=labels, modality=["CT"], clip=[0, 200], organ="body")
    record.save_beside(pretrained / "layer_unet.pt")
    layers = small_network(bundle, tmp_path, labels={**labels, 2: "a third channel"})
    torch.save(layers.state_dict(), pretrained / "layer_unet.pt")
    root = tmp_path / "exported" / bundle.name
    options = {"ckpt_dir": str(tmp_path / "models"), "override_files": "configs/demo.yaml"}
    export(bundle.name, str(root.parent), zero_shot=True, **options)
    assert list(find_all([root])) == []
    train = json.loads((root / "configs" / "train.json").read_text(encoding="utf-8"))
    assert train["learning_rate"] == 1.0e-4, "for a network that segments already"
    assert train["transferred"] == "network" and (root / "models" / "pretrained" / "layer_unet.pt").is_file()
    images = scans / "imagesTs"
    run_exported("inference", root, tmp_path, dataset_dir=images, output_dir=tmp_path / "there")

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "zero_shot.yaml", "demo.yaml")]
    options = {"dataset_dir": str(images), "ckpt_dir": options["ckpt_dir"], "output_dir": str(tmp_path / "here")}
    here = ConfigWorkflow(files, "infer", logging_file=False, bundle_root=str(bundle), device="cpu", **options)
    here.initialize()
    here.run()
    (path,) = (tmp_path / "here").glob("*_seg.nii.gz")
    assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()
    assert len(np.unique(nib.load(path).dataobj)) == 2

    with pytest.raises(ValueError, match=r"must have shape .*; name the overrides with which it was pretrained"):
        export(bundle.name, str(tmp_path / "other"), zero_shot=True, ckpt_dir=str(tmp_path / "models"))
    text = tmp_path / "text.yaml"
    text.write_text("learning_rate: 1e-3\n", encoding="utf-8")  # which YAML takes for a text
    with pytest.raises(TypeError, match="learning_rate must be a number above 0, got '1e-3'"):
        files = f"configs/demo.yaml,{text}"
        export(
            bundle.name,
            str(tmp_path / "other"),
            zero_shot=True,
            ckpt_dir=str(tmp_path / "models"),
            override_files=files,
        )
    named = {"pretrained": str(pretrained / "layer_unet.pt"), "override_files": "configs/demo.yaml"}
    export(bundle.name, str(tmp_path / "named"), zero_shot=True, ckpt_dir=str(tmp_path), **named)
    again = tmp_path / "named" / bundle.name
    assert (again / "SHA256SUMS").read_bytes() == (root / "SHA256SUMS").read_bytes()
    with pytest.raises(ValueError, match="zero_shot must be asked of a bundle that segments without labels"):
        export("fnet_wtacae_stl", str(tmp_path / "other"), zero_shot=True)
    with pytest.raises(
        ValueError, match=r"override_files must fit every workflow, got zero_shot\.yaml, .* pretrain\.yaml"
    ):
        export(bundle.name, str(tmp_path / "other"), override_files="configs/zero_shot.yaml")
    with pytest.raises(FileNotFoundError, match="must lie beside pretrained weights; pretrain first"):
        export(bundle.name, str(tmp_path / "other"), zero_shot=True, ckpt_dir=str(tmp_path))


@every_bundle
def test_nothing_is_wrong_with_an_exported_bundle(bundle, weights, tmp_path):
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path)
    assert list(find_all([root])) == []


@every_bundle
def test_its_packages_are_those_of_the_metadata(bundle, weights, tmp_path):
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path)
    imported = set()
    for path in (root / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            imported |= {name.split(".")[0] for name in names}
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    known = {"scripts", "monai", "torch", "numpy", *metadata["required_packages_version"], "highdicom"}  # an extra
    assert {PACKAGES.get(name, name) for name in imported} - sys.stdlib_module_names <= known
    assert "common." not in "".join(path.read_text(encoding="utf-8") for path in root.glob("configs/*.json"))


@every_bundle
def test_options_that_monai_label_shows_are_those_of_the_inference(bundle, weights, tmp_path):
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path)
    content = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
    before = ConfigParser.load_config_files(
        [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml")]
    )
    table = option_table(before)
    offered = content["displayable_configs"]
    assert offered.keys() == {name for name, option in table.items() if option.is_shown and name in before}
    assert offered["nan"] == ["refuse", "replace"]
    options = {"bundle_root": str(root), "ckpt_dir": str(weights)}
    parser = ConfigParser({**content, **options})
    expected = ConfigParser({**before, "bundle_root": str(bundle), "ckpt_dir": str(weights)})
    for name in offered:
        assert parser.get_parsed_content(name) == expected.get_parsed_content(name)
    parser = ConfigParser({**content, **options, "displayable_configs": dict.fromkeys(offered, "7")})
    assert all(parser.get_parsed_content(name) == 7 for name in offered), "what a client sends"


@pytest.mark.parametrize("name", ["fnet_wtacae_stl", "context_restoration_unet", "layer_decomp_tumor"])
def test_monai_compiles_its_network_as_the_model_zoo_has_it(name, weights, tmp_path):
    bundle = ROOT / "bundles" / name
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path / "models")
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    files |= {"ckpt_file": "models/model.pt", "filepath": "models/verify_model.ts"}
    options = {option: f"models/{name}/{file}" for option, file in files.items()} | {"bundle_root": f"models/{name}"}
    code = (
        "import json, sys; sys.modules['common'] = sys.modules['tools'] = None; import monai.bundle\n"
        "monai.bundle.ckpt_export('network_def', **json.loads(sys.argv[1]))"
    )
    command = ["-c", code, json.dumps(options)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run_python(command, tmp_path, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    network = small_network(bundle, weights).eval()
    network.load_state_dict(torch.load(weights / "model.pt", weights_only=True))
    image = torch.randn([2, 3, 45, 38] if name == "context_restoration_unet" else [2, 1, 23, 32, 17])
    with torch.no_grad():
        assert torch.equal(torch.jit.load(root / "models" / "verify_model.ts")(image), network(image))


def test_the_same_bundle_gives_the_same_bytes(weights, tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    write_weights(bundle, weights)
    archives = []
    for name in ("first", "second"):
        root = export_small(bundle, weights, tmp_path / name, zip=True)
        assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=root).returncode == 0
        archives.append(tmp_path / name / "fnet_wtacae_stl_v0.1.0.zip")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    listed = {line.split("  ")[1] for line in (root / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    with zipfile.ZipFile(archives[0]) as archive:
        assert {name.removeprefix("fnet_wtacae_stl/") for name in archive.namelist()} == listed | {"SHA256SUMS"}


LOAD = """
import json, sys; sys.modules['common'] = sys.modules['tools'] = None; import monai.bundle, torch
for name, options in json.loads(sys.argv[1]).items():
    network = monai.bundle.load(name, device='cpu', **options)
    torch.save(network.state_dict(), f'{name}.pt')
"""


def load_elsewhere(bundles: dict[str, dict], folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of bundles that MONAI has loaded in one process, in a folder that has nothing to do with them.

    Args:
        bundles: options of `monai.bundle.load` by the name of each.
        folder: where the process runs.
    """
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = ["-c", LOAD, json.dumps(bundles)]
    done = run_python(command, folder, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in bundles}


@every_bundle
def test_monai_loads_its_network_by_name_from_any_folder(bundle, weights, tmp_path):
    """An atlas was loaded without its rows: MONAI's loader leaves out what has another size than in an empty one."""
    write_weights(bundle, weights, ["CT", "PET"] if bundle.name != "planar_heatmap_descriptor" else ["CT"])
    kind = "train"
    if bundle.name == "planar_heatmap_descriptor":
        kind = "inference"  # a training begins with an empty atlas
        grow(weights / "model.pt")
    root = export_small(bundle, weights, tmp_path / "exports")
    options = {"bundle_dir": str(root.parent), "workflow_type": kind, "workflow_name": "ConfigWorkflow"}
    loaded = load_elsewhere({bundle.name: options}, tmp_path / "elsewhere")[bundle.name]
    stored = torch.load(weights / "model.pt", weights_only=True)
    assert loaded.keys() == stored.keys() and all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_one_process_loads_several_bundles_each_with_code_of_its_own(tmp_path):
    names = ["fnet_wtacae_stl", "context_restoration_unet", "fnet_wtacae_mtl"]
    for name in names:
        write_weights(ROOT / "bundles" / name, tmp_path / name)
        export_small(ROOT / "bundles" / name, tmp_path / name, tmp_path / "exports")
    options = {"bundle_dir": "../exports", "workflow_type": "inference"}
    loaded = load_elsewhere(dict.fromkeys(names, options), tmp_path / "elsewhere")
    for name in names:
        stored = torch.load(tmp_path / name / "model.pt", weights_only=True)
        assert all(torch.equal(loaded[name][key], value) for key, value in stored.items())


def grow(path):
    """Put six voxels of two volumes into the weights of an empty atlas."""
    weights = torch.load(path, weights_only=True)
    rows = {
        "descriptors": torch.rand(6, weights["descriptors"].shape[1]).half(),
        "centers": torch.rand(6, 3),
        "labels": torch.tensor([0, 1, 2, 3, 4, 1], dtype=torch.uint8),
        "is_voter": torch.ones(6, dtype=torch.bool),
        "volumes": torch.tensor([0, 0, 0, 0, 1, 1], dtype=torch.int32),
        "map_sizes": torch.zeros((2, 3), dtype=torch.int32),
        **{name: torch.tensor([3, 4]) for name in ("volume_ids", "fingerprints", "recipes")},
        "class_counts": torch.tensor([1, 2, 1, 1, 1]),
    }
    torch.save({**weights, **rows}, path)


def test_its_labels_are_those_of_the_weights(weights, tmp_path):
    bundle = ROOT / "bundles" / "context_restoration_unet"
    write_weights(bundle, weights)
    root = export_small(bundle, weights, tmp_path)
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {str(value): name for value, name in LABELS.items()}, "values of the label map"
    assert pred["num_channels"] == 4, "a sigmoid for each class"
    assert json.loads((root / "dataset.json").read_text(encoding="utf-8"))["labels"] == pred["channel_def"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bundle": "unet"}, "bundle must be one of .*, or a folder with configs/inference.yaml, got 'unet'"),
        (
            {"override_files": "configs/tiny.yaml"},
            "configs/tiny.yaml: override_files must exist, got no such file; name them relative to the bundle",
        ),
        ({"pretrained": ""}, "the pretrained weights from which training starts must lie in .* pass --pretrained null"),
        ({"ckpt_dir": "nowhere"}, "nowhere: must hold a trained network, model.pt and record.json; train first"),
    ],
    ids=str,
)
def test_refuses_in_one_sentence(options, match, weights, tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    write_weights(bundle, weights)
    given = {"override_files": "configs/demo.yaml", "pretrained": "null", "ckpt_dir": str(weights), **options}
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        export(given.pop("bundle", bundle.name), str(tmp_path / "output"), **given)
    assert not (tmp_path / "output").exists()


def test_weights_that_were_trained_from_scratch_say_so_themselves(weights, tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    write_weights(bundle, weights)
    record = load_record(weights / "model.pt")
    record.settings["pretrained"] = None
    record.save_beside(weights / "model.pt")
    root = export_small(bundle, weights, tmp_path, pretrained="")
    assert json.loads((root / "configs" / "train.json").read_text(encoding="utf-8"))["pretrained"] is None


def test_weights_of_another_preprocessing_than_the_pretraining_are_refused(weights, tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    write_weights(bundle, weights)
    (weights / "pretrained").mkdir()
    (weights / "pretrained" / "wta_autoencoders.pt").touch()
    record = load_record(weights / "model.pt")
    dataclasses.replace(record, spacing=3.0).save_beside(weights / "pretrained" / "wta_autoencoders.pt")
    with pytest.raises(ValueError, match=r"spacing must be that of the pretraining of .*, 3\.0, got 6\.0"):
        export_small(bundle, weights, tmp_path, pretrained="")
