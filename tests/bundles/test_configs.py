"""What is written in the configs: complete, consistent, and nothing that MONAI would pass over in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import jsonschema
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
WORKFLOWS = ["pretrain.yaml", "train.yaml", "inference.yaml"]
TRAININGS = ["pretrain.yaml", "train.yaml"]
SEGMENTATIONS = ["train.yaml", "inference.yaml"]
F_NET_TWINS = {
    "features": WORKFLOWS,
    "kernel_size": WORKFLOWS,
    "tile_size": SEGMENTATIONS,
    "network_def": SEGMENTATIONS,
    "patch_size": TRAININGS,
    "air": TRAININGS,
    "normalization": TRAININGS,
}
TWINS = {  # what the files of a bundle have in common
    "fnet_wtacae_stl": F_NET_TWINS,
    "fnet_wtacae_mtl": F_NET_TWINS,
    "context_restoration_unet": {
        "axis": WORKFLOWS,
        "image_channels": WORKFLOWS,
        "in_channels": WORKFLOWS,
        "intensity": WORKFLOWS,
        "features": WORKFLOWS,
        "num_groups": WORKFLOWS,
        "network_def": SEGMENTATIONS,
        "slice_size": TRAININGS,
    },
    "planar_heatmap_descriptor": {
        "half_width": WORKFLOWS,
        "half_depth": WORKFLOWS,
        "cube_half_width": WORKFLOWS,
        "sampling": WORKFLOWS,
        "padding": WORKFLOWS,
        "air": TRAININGS,
        "spacing": TRAININGS,
        "clip": TRAININGS,
        "normalization": TRAININGS,
        "field_of_view": TRAININGS,
        "offset_sigma": SEGMENTATIONS,
        "descriptor": SEGMENTATIONS,
        "descriptors": SEGMENTATIONS,
        "step": SEGMENTATIONS,
        "num_neighbors": SEGMENTATIONS,
        "voting": SEGMENTATIONS,
        "descriptor_normalization": SEGMENTATIONS,
        "position_weight": SEGMENTATIONS,
        "search_radius": SEGMENTATIONS,
        "smoothing": SEGMENTATIONS,
        "background_weight": SEGMENTATIONS,
    },
    "layer_decomp_tumor": {
        **{name: WORKFLOWS for name in ("features", "kernel_sizes", "strides", "norm")},
        **{name: TRAININGS for name in ("organ", "spacing", "clip", "patch_size")},
        **{name: SEGMENTATIONS for name in ("network_def", "organ_margin", "roi_size", "overlap", "inferer")},
    },
}
BASES = {  # the files that each override is written for
    "demo.yaml": WORKFLOWS,
    "small.yaml": WORKFLOWS,
    "mr.yaml": WORKFLOWS,
    "multi_gpu_train.yaml": TRAININGS,
    "multi_gpu_evaluate.yaml": SEGMENTATIONS,  # after train.yaml and evaluate.yaml
    "evaluate.yaml": ["train.yaml"],
    "adapt.yaml": ["pretrain.yaml"],
    "zero_shot.yaml": SEGMENTATIONS,
}
REQUIRED = {
    *("train.yaml", "inference.yaml", "demo.yaml", "small.yaml", "evaluate.yaml"),
    *("multi_gpu_train.yaml", "multi_gpu_evaluate.yaml"),
}
NEW = {
    "evaluate.yaml": {
        *("split", "evaluation_dir", "num_pictures", "evaluation", "weights"),
        *("validate::additional_metrics", "validate::evaluator::additional_metrics"),
        *("dataset", "output_dir"),  # as in inference.yaml
    },
    "multi_gpu_train.yaml": {"finalize"},
    "multi_gpu_evaluate.yaml": {"finalize"},
    "adapt.yaml": {"adapted", "real_batch_size", "train::real_dataset", "train::real_loader", "train::normal_loader"},
    "zero_shot.yaml": {"layers", "weights"},  # after evaluate.yaml or inference.yaml, which have the latter
}
# inference has no schedule and no patches: these overrides are only for the trainings
TRAINING_ONLY = {
    "max_epochs",
    "iterations_per_epoch",
    "val_interval",
    "val_iterations",
    "batch_size",
    "unlabeled_batch_size",
    "num_workers",
    "learning_rate",
    "betas",
    "lr_scheduler",
    "patience",
    "patch_size",
    "slice_size",
    "softmax",
    "cross_entropy_weight",
    "spacing",
    "field_of_view",
    "max_background",
    "organ",
    "clip",
    "volume",
    "alpha",
    "intensity_ratio",
    "edge_blur",
    "organ_weight",
    "tumor_weight",
    "composition_weight",
}
PRETRAINING_ONLY = {
    "context_restoration_unet": {"patch_size"},
    "planar_heatmap_descriptor": {"max_epochs", "iterations_per_epoch", "val_iterations", "learning_rate"},
    "layer_decomp_tumor": {
        *("val_iterations", "volume", "alpha", "intensity_ratio", "edge_blur"),
        *("organ_weight", "tumor_weight", "composition_weight", "cross_entropy_weight"),
    },
}
SUPERVISED_ONLY = {
    "context_restoration_unet": {"val_interval", "softmax", "cross_entropy_weight"},
    "planar_heatmap_descriptor": {"smoothing", "search_radius", "max_background"},
    "layer_decomp_tumor": {"roi_size", "overlap"},
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


@every_bundle
def test_files_are_those_whose_use_is_known(bundle):
    names = {path.name for path in (bundle / "configs").glob("*.yaml")}
    assert names >= REQUIRED and names <= {*WORKFLOWS, *BASES}


@pytest.mark.parametrize(("bundle", "override"), pairs(lambda bundle: present(bundle, BASES)))
def test_overrides_only_name_ids_that_exist(bundle, override):
    """MONAI adds an unknown id in silence: a typo would change nothing, and nobody would know."""
    lacks = {
        "inference.yaml": TRAINING_ONLY,
        "train.yaml": PRETRAINING_ONLY.get(bundle.name, set()),
        "pretrain.yaml": SUPERVISED_ONLY.get(bundle.name, set()),
    }
    for base in present(bundle, BASES[override]):
        parser = ConfigParser(load(bundle, base))
        allowed = NEW.get(override, set()) | lacks.get(base, set())
        names = [name.removeprefix("+") for name in load(bundle, override)]  # +: what is there gets longer
        assert [name for name in names if name not in parser and name not in allowed] == []


CHECK = "common.utils.check_options"
CHECKED_BY_ITS_USER = {"axis", "phi"}  # whose own error has the option's name


def initializers(*contents: dict) -> list:
    return [entry for content in contents for id in ("initialize", "+initialize") for entry in content.get(id, [])]


@pytest.mark.parametrize(("bundle", "name"), pairs(lambda bundle: present(bundle, [*WORKFLOWS, "evaluate.yaml"])))
def test_every_number_and_flag_is_checked_by_its_own_name_before_it_is_used(bundle, name):
    """Text for a number ended in a traceback from where it was used, which did not name the option."""
    content = load(bundle, name)
    users = [entry for entry in initializers(content) if "@" in str(entry).replace("@bundle_root", "")]
    checks = [entry for entry in users if isinstance(entry, dict) and entry["_target_"] == CHECK]
    assert users[0] == checks[0]
    checked = {
        name: value
        for check in checks
        for kind, options in check.items()
        if kind != "_target_"
        for name, value in options.items()
    }
    assert checked == {name: f"@{name}" for name in checked}
    assert checked.keys() <= content.keys()
    options = {name for name, value in content.items() if isinstance(value, (int, float)) and "::" not in name}
    assert options - CHECKED_BY_ITS_USER <= checked.keys()


@every_bundle
def test_several_processes_check_the_options_before_they_join(bundle):
    trainings = [[name, "multi_gpu_train.yaml"] for name in present(bundle, TRAININGS)]
    segmentations = [["inference.yaml"], ["train.yaml", "evaluate.yaml"]]
    for names in (*trainings, *([*names, "multi_gpu_evaluate.yaml"] for names in segmentations)):
        targets = [
            entry["_target_"] if isinstance(entry, dict) else entry
            for entry in initializers(*(load(bundle, name) for name in names))
        ]
        assert targets[0] == "common.utils.explain_errors" and targets[-1] == "common.utils.join_processes"
        assert CHECK in targets


@pytest.mark.parametrize(("bundle", "name"), pairs(lambda bundle: TWINS[bundle.name]))
def test_twins_are_identical(bundle, name):
    """They are written twice because MONAI Label reads one file."""
    first, *others = [load(bundle, file)[name] for file in present(bundle, TWINS[bundle.name][name])]
    assert all(other == first for other in others)


@pytest.mark.parametrize("bundles", SAME_ACROSS, ids="-".join)
def test_bundles_of_one_network_agree(bundles):
    for name, ids in SAME_ACROSS[bundles].items():
        first, *others = [ConfigParser(load(ROOT / "bundles" / bundle, name)) for bundle in bundles]
        for id in ids:
            assert all(other[id] == first[id] for other in others), id


@every_bundle
def test_validation_and_inference_preprocess_the_image_alike(bundle):
    validation = load(bundle, "train.yaml")["validate"]["preprocessing"]["transforms"]
    inference = load(bundle, "inference.yaml")["preprocessing"]["transforms"]
    assert [for_image(transform) for transform in validation] == [for_image(transform) for transform in inference]
    checked = [for_image(transform)["_target_"] for transform in validation].index("common.transforms.CheckVolumed")
    assert validation[checked + 1 :] == inference[checked + 1 :]  # before, validation loads and checks the label, too


def for_image(transform: dict | str) -> dict:
    """Return what a transform does with the image; a reference stands for a whole one."""
    if isinstance(transform, str):
        return {"_target_": transform}
    return {name: value for name, value in transform.items() if name not in ("keys", "label_key", "labels")}


@every_bundle
def test_handlers_are_mappings(bundle):
    """MONAI Label calls `.get` on each of them."""
    for name in present(bundle, TRAININGS):
        assert all(isinstance(handler, dict) for handler in load(bundle, name)["train"]["handlers"])


@every_bundle
def test_expressions_hold_no_logic(bundle):
    """What wants a loop, a function or an import belongs in a file of `common`."""

    def texts(item: object) -> list[str]:
        if isinstance(item, dict):
            return [text for value in item.values() for text in texts(value)]
        if isinstance(item, list):
            return [text for value in item for text in texts(value)]
        return [item] if isinstance(item, str) and item.startswith("$") else []

    for name in present(bundle, [*WORKFLOWS, *BASES]):
        logic = [word for word in (" for ", "lambda", "import ") for text in texts(load(bundle, name)) if word in text]
        assert logic == [], name


@every_bundle
def test_metadata_is_valid_and_its_version_is_in_the_changelog(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, json.loads((ROOT / "tools" / "metadata_schema.json").read_text()))
    assert metadata["version"] in metadata["changelog"]


@every_bundle
def test_the_network_takes_and_gives_what_the_metadata_says(bundle):
    """Logits were said to lie between 0 and 1."""
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml")]
    metadata = bundle / "configs" / "metadata.json"
    tensors = json.loads(metadata.read_text())["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    classes = {"background", *pred["channel_def"].values()}
    overrides = {"labels": dict(enumerate(classes))}
    verify_net_in_out("network_def", str(metadata), files, device="cpu", any=16, **overrides)

    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(overrides)
    network = parser.get_parsed_content("network_def").eval()
    low, high = image["value_range"]
    with torch.no_grad():
        output = network(
            low + (high - low) * torch.rand(2, image["num_channels"], *[16 for _ in image["spatial_shape"]])
        )
    assert output.ndim == 2 + len(pred["spatial_shape"])
    assert len(pred["channel_def"]) == pred["num_channels"] == output.shape[1]
    lowest, highest = pred["value_range"] or (-torch.inf, torch.inf)
    assert lowest <= output.min() and output.max() <= highest


@every_bundle
def test_bundles_hold_no_python(bundle):
    assert list(bundle.rglob("*.py")) == []
    assert (bundle / "LICENSE").is_file() and (bundle / "docs" / "README.md").is_file()
