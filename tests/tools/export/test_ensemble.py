"""Laws of an export of several networks as one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from initial_weights import BUNDLES, ROOT, small_network, write_weights
from monai.bundle import ConfigParser, ConfigWorkflow

from common.data import load_record, make_record, write_lesion_phantoms
from common.training import load_network
from tools.export.__main__ import export
from tools.verify.findings import find_all

pytestmark = pytest.mark.slow
ENSEMBLES = [bundle for bundle in BUNDLES if bundle.name != "planar_heatmap_descriptor"]
every_bundle = pytest.mark.parametrize("bundle", ENSEMBLES, ids=lambda path: path.name)


@pytest.fixture(autouse=True)
def forget_exports(monkeypatch):
    """What one export has imported and set shall not outlive a test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    counts = {"num_training": 4, "num_test": 1, "num_unlabeled": 1, "num_normal": 3}
    return write_lesion_phantoms(tmp_path_factory.mktemp("scans"), **counts, size=32)


def make_members(bundle: Path, folder: Path, count: int = 2, alike: bool = False) -> list[Path]:
    """Write what several trainings leave, with weights of their own or, `alike`, the same."""
    folder.mkdir()
    write_weights(bundle, folder / "0")
    members = [folder / "0"]
    for index in range(1, count):
        members.append(Path(shutil.copytree(folder / "0", folder / str(index))))
        weights = torch.load(folder / "0" / "model.pt", weights_only=True)
        generator = torch.Generator().manual_seed(index)
        for value in weights.values():
            if value.is_floating_point() and not alike:
                value *= 1 + 0.5 * torch.rand(value.shape, generator=generator)
        torch.save(weights, members[-1] / "model.pt")
    return members


def export_members(bundle: Path, members: list[Path], output: Path, **options) -> Path:
    names = ",".join(map(str, members))
    export(bundle.name, str(output), members=names, override_files="configs/demo.yaml", **options)
    return output / bundle.name


def predict(files: list[Path], scans: Path, weights: Path) -> torch.Tensor:
    """Return what the inferer of a bundle gives for one scan, of shape `(num_classes, H, W, D)`."""
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    root = str(files[0].parents[1])
    known = {"bundle_root": root, "device": "cpu", "dataset_dir": str(scans / "imagesTs"), "ckpt_dir": str(weights)}
    parser.update(known)
    image = parser.get_parsed_content("dataset")[0]["image"]
    network = load_network(parser.get_parsed_content("network"), weights / "model.pt").eval()
    with torch.no_grad():
        return parser.get_parsed_content("inferer")(image[None].as_tensor(), network)[0].double()


@every_bundle
def test_what_is_exported_segments_by_the_mean_of_its_members(bundle, scans, tmp_path):
    members = make_members(bundle, tmp_path / "members", 3)
    root = export_members(bundle, members, tmp_path / "exported")
    assert list(find_all([root])) == []
    files = [bundle / "configs" / name for name in ("inference.yaml", "demo.yaml")]
    single = torch.stack([predict(files, scans, member) for member in members])
    together = predict([root / "configs" / "inference.json"], scans, root / "models")
    is_logits = bundle.name == "layer_decomp_tumor"
    if is_logits:
        single, together = single.softmax(1), together.softmax(0)
    assert not torch.allclose(single[0], single[1], atol=1e-2)
    tolerance = 1e-2 if is_logits else 2e-3  # windows blend logits; F-Net's probabilities are in half precision
    torch.testing.assert_close(together, single.mean(0), rtol=0, atol=tolerance)


@every_bundle
def test_members_that_are_alike_segment_as_one_of_them_and_are_evaluated(bundle, scans, tmp_path):
    members = make_members(bundle, tmp_path / "members", 2, alike=True)
    root = export_members(bundle, members, tmp_path / "exported")
    common = {"dataset_dir": str(scans / "imagesTs"), "logging_file": False, "device": "cpu"}
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml")]
    for configs, folder, options in (
        (files, bundle, {"ckpt_dir": str(members[0])}),
        (str(root / "configs" / "inference.json"), root, {}),
    ):
        output = tmp_path / f"from_{folder.parent.name}"
        made = ConfigWorkflow(
            configs, "infer", bundle_root=str(folder), output_dir=str(output), **{**common, **options}
        )
        made.initialize()
        made.run()
    single, together = (
        np.asarray(nib.load(next((tmp_path / f"from_{name}").glob("*_seg.nii.gz"))).dataobj)
        for name in ("bundles", "exported")
    )
    assert (single == together).mean() > 0.999  # of two classes alike to rounding either may be taken

    scores = tmp_path / "scores"
    common |= {"dataset_dir": str(scans), "bundle_root": str(root), "evaluation_dir": str(scores)}
    evaluated = ConfigWorkflow(str(root / "configs" / "evaluate.json"), "train", split="test", **common)
    evaluated.initialize()
    evaluated.run()
    assert len((scores / "mean_dice_raw.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_networks_that_segment_without_labels_are_members_too(scans, tmp_path):
    bundle, labels = ROOT / "bundles" / "layer_decomp_tumor", {0: "background", 1: "tumor"}
    members = []
    for index in range(2):
        pretrained = tmp_path / str(index) / "pretrained"
        pretrained.mkdir(parents=True)
        members.append(pretrained.parent)
        make_record(labels=labels, modality=["CT"], clip=[0, 200], organ="body").save_beside(pretrained / "a.pt")
        torch.save(
            small_network(bundle, tmp_path, labels={**labels, 2: "a layer"}).state_dict(), pretrained / "layer_unet.pt"
        )
    root = export_members(bundle, members, tmp_path / "exported", zero_shot=True)
    assert list(find_all([root])) == []
    inference = json.loads((root / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert inference["network_def"]["num_members"] == 2
    assert inference["displayable_configs"]["organ_margin"] == 0.0
    assert load_record(root / "models" / "model.pt").labels == labels


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("spacing", 3.0, "train it again with --spacing '6.0'"),
        ("clip", [-100.0, 300.0], r"train it again with --clip '\[-160.0, 300.0\]'"),
        ("air", None, "train it again with --air '-500.0'"),
        ("normalization", "range", "train it again with --normalization"),
        ("modality", ["PET"], "train all members on one data set"),
        ("labels", {0: "background", 1: "a", 2: "b", 3: "c", 4: "d"}, "train all members on one data set"),
        ("settings", {"kernel_size": 5}, "train it again with --kernel_size '3'"),
    ],
)
def test_members_whose_records_differ_are_refused_by_name(field, value, remedy, tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    first, second = make_members(bundle, tmp_path / "members")
    record = dataclasses.replace(load_record(first / "model.pt"), settings={"kernel_size": 3, "seed": 0})
    record.save_beside(first / "model.pt")
    dataclasses.replace(record, **{field: value}).save_beside(second / "model.pt")
    name = "kernel_size" if field == "settings" else field
    with pytest.raises(ValueError, match=rf"^{second}: {name} must be that of {first}, .*; {remedy}"):
        export_members(bundle, [first, second], tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_record_of_an_ensemble_knows_the_scans_of_all_members_and_what_they_have_in_common(tmp_path):
    bundle = ROOT / "bundles" / "fnet_wtacae_stl"
    members = make_members(bundle, tmp_path / "members")
    for index, member in enumerate(members):
        dataclasses.replace(
            load_record(member / "model.pt"),
            learned_from={f"scan_{index}": str(index)},
            voxel_sizes=[[1.0 + index, 1.0, 3.0], [2.0, 2.0, 4.0 + index]],
            volumes_ml={"liver": [1.0 + index, 2.0 + index], f"organ {index}": [3.0, 4.0]},
            settings={"seed": index, "learning_rate": 0.1},
        ).save_beside(member / "model.pt")
    record = load_record(export_members(bundle, members, tmp_path / "exported") / "models" / "model.pt")
    assert record.learned_from == {"scan_0": "0", "scan_1": "1"}, "which an evaluation refuses"
    assert record.voxel_sizes == [[1.0, 1.0, 3.0], [2.0, 2.0, 5.0]]
    assert record.volumes_ml == {"liver": [1.0, 3.0], "organ 0": [3.0, 4.0], "organ 1": [3.0, 4.0]}
    assert record.settings == {"learning_rate": 0.1}


@pytest.mark.parametrize(
    ("bundle", "options", "match"),
    [
        ("planar_heatmap_descriptor", {}, r"members must be networks that give the probability .*, got common\.planar"),
        ("fnet_wtacae_stl", {"ckpt_dir": "A"}, "ckpt_dir must be left out where there are members, got A"),
        ("fnet_wtacae_stl", {"members": "A,A"}, "members must be folders, each once, separated by commas, got A,A"),
        ("fnet_wtacae_stl", {"members": "nowhere"}, "nowhere: must hold a trained network, model.pt and record.json"),
    ],
)
def test_refuses_in_one_sentence(bundle, options, match, tmp_path):
    source = ROOT / "bundles" / bundle
    members = ",".join(map(str, make_members(source, tmp_path / "members")))
    given = {"members": members, "override_files": "configs/demo.yaml", **options}
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        export(bundle, str(tmp_path / "output"), **given)
    assert not (tmp_path / "output").exists()
