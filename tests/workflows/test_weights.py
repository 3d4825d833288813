"""What a result depends on travels with the weights: nothing of a training is repeated, and nothing contradicts it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigWorkflow
from workflow_helpers import (
    BUNDLES,
    CONTEXT,
    LAYERS_BUNDLE,
    PLANAR,
    SHORT,
    bundle_run,
    every_bundle,
    last_words,
    run,
    scratch,
)

from common.data import case_id, fingerprint, load_record, read_cases
from common.training import RefuseLearnedCases
from common.training.preflight import _end_if_finished

pytestmark = pytest.mark.slow

COMMON = {"num_validation": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(phantoms, tmp_path_factory):
    """Return the folder of a network of each bundle, trained with demo.yaml."""
    folders = {bundle: tmp_path_factory.mktemp(bundle.name) for bundle in BUNDLES}
    for bundle, folder in folders.items():
        options = {**COMMON, **scratch(bundle), "dataset_dir": str(phantoms), "ckpt_dir": str(folder)}
        run(bundle, "train.yaml", **options, **SHORT, num_labeled=2)
    return folders


def alone(bundle, *names: str, kind: str = "infer", **options) -> ConfigWorkflow:
    """Return a workflow without the overrides with which its weights were trained."""
    files = [str(bundle / "configs" / name) for name in names]
    options = {"bundle_root": str(bundle), "device": "cpu", **options}
    return ConfigWorkflow(files, workflow_type=kind, logging_file=False, **options)


@every_bundle
def test_inference_and_evaluation_need_no_option_of_the_training(bundle, trained, phantoms, tmp_path, quiet_hooks):
    places = {"ckpt_dir": str(trained[bundle]), "output_dir": str(tmp_path / "out")}
    made = alone(bundle, "inference.yaml", dataset_dir=str(phantoms / "imagesTs"), **places)
    made.initialize()
    made.run()
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 2
    scores = {"ckpt_dir": str(trained[bundle]), "evaluation_dir": str(tmp_path / "scores")}
    made = alone(bundle, "train.yaml", "evaluate.yaml", kind="train", dataset_dir=str(phantoms), **scores)
    made.initialize()
    made.run()
    assert (tmp_path / "scores" / "mean_dice_raw.csv").is_file()


@pytest.mark.parametrize(
    ("bundle", "option", "value"),
    [
        *((bundle, "features", [4, 4]) for bundle in BUNDLES if bundle != PLANAR),
        (CONTEXT, "axis", 0),
        (CONTEXT, "windows", None),
        (LAYERS_BUNDLE, "norm", "instance"),
        (PLANAR, "descriptor", "planar"),
    ],
    ids=str,
)
@pytest.mark.parametrize("names", [("inference.yaml",), ("train.yaml", "evaluate.yaml")], ids="-".join)
def test_an_option_that_contradicts_the_weights_is_refused(
    bundle, option, value, names, trained, phantoms, quiet_hooks, capsys
):
    options = {"dataset_dir": str(phantoms), "ckpt_dir": str(trained[bundle])}
    (line,) = last_words(alone(bundle, *names, kind="train", **options, **{option: value}), capsys)
    assert line.startswith(f"error: {option} must be that of the training of the weights, ")
    assert line.endswith(f", got {value}; leave the option out, or name the folder of other weights")


def test_the_same_option_as_in_the_training_is_no_contradiction(trained, phantoms):
    settings = load_record(trained[CONTEXT] / "model.pt").settings
    options = {name: settings[name] for name in ("axis", "features", "num_groups", "windows")}
    made = alone(
        CONTEXT, "inference.yaml", dataset_dir=str(phantoms / "imagesTs"), ckpt_dir=str(trained[CONTEXT]), **options
    )
    assert made.parser.get_parsed_content("settings")["features"] == settings["features"]


@every_bundle
def test_altered_weights_and_those_of_another_training_are_refused(
    bundle, trained, phantoms, tmp_path, quiet_hooks, capsys
):
    """Beside another training's record, weights were used with its windows and its voxel size, in silence."""
    folder = shutil.copytree(trained[bundle], tmp_path / "models")
    weights = torch.load(folder / "model.pt", weights_only=True)
    torch.save(weights, folder / "model.pt")  # the same tensors in another file are others all the same
    name = next(name for name, value in weights.items() if value.is_floating_point() and value.numel())
    torch.save({**weights, name: weights[name] + 1e-3}, folder / "model.pt")
    options = {"dataset_dir": str(phantoms / "imagesTs"), "ckpt_dir": str(folder), "output_dir": str(tmp_path / "out")}
    (line,) = last_words(alone(bundle, "inference.yaml", **options), capsys)
    assert line.startswith(f"error: {folder / 'model.pt'}: weights must be those that {folder / 'record.json'} belongs")
    assert not list(tmp_path.glob("out/*_seg*"))


@every_bundle
def test_a_training_begins_with_a_network_of_other_classes_without_its_head(
    bundle, trained, phantoms, tmp_path, caplog, quiet_hooks
):
    caplog.set_level("INFO")
    scans = shutil.copytree(phantoms, tmp_path / "scans")
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    content["labels"] = {value: f"{name} of others" for value, name in content["labels"].items()}
    (scans / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    options = {"dataset_dir": str(scans), "ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    path = trained[bundle] / "model.pt"
    made = alone(bundle, "train.yaml", "demo.yaml", kind="train", init_from=str(path), **options)
    network = made.parser.get_parsed_content("start").state_dict()
    weights = torch.load(path, weights_only=True)
    taken = {name for name in network if name in weights and torch.equal(network[name], weights[name])}
    head = [name for name in network if name.startswith(tuple(made.parser.get_parsed_content("start::head")))]
    assert taken - {*head} == {*network} - {*head} and not any(".weight" in name for name in taken & {*head})
    assert any(f"{len(network) - len(head)} of {len(network)} tensors taken" in text for text in caplog.messages)


@every_bundle
def test_what_a_training_began_with_has_learned_from_its_scans_too(
    bundle, trained, phantoms, tmp_path, caplog, quiet_hooks
):
    """A network that began with another one of another fold was scored in silence on scans that the first had seen."""
    path = trained[bundle] / "model.pt"
    before = load_record(path).learned_from
    folds = [read_cases(phantoms, fold) for fold in range(5)]
    fold = next(fold for fold, cases in enumerate(folds) if case_id(cases.validation[0]["image"]) in before)
    (case,) = folds[fold].validation
    options = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "init_from": str(path), "fold": fold}
    made = alone(bundle, "train.yaml", "demo.yaml", kind="train", num_labeled=1, **options)
    record = made.parser.get_parsed_content("record")
    record.save_beside(tmp_path / "model.pt")
    learned = load_record(tmp_path / "model.pt").learned_from
    assert learned.items() >= before.items() and next(iter(learned)) == next(iter(record.scans))
    guard = RefuseLearnedCases(load_record(tmp_path / "model.pt"), "validation", folds[fold])
    with pytest.raises(ValueError, match="must not be among the scans that the weights were trained on"):
        guard.check(case["image"], fingerprint(case["image"]))
    made.parser.get_parsed_content("run::1")
    assert (
        f"{case['image']}: the weights with which the training begins, or its teachers, have learned from this"
        in caplog.text
    )


@every_bundle
def test_a_network_of_another_architecture_or_beside_a_pretraining_is_refused(
    bundle, trained, phantoms, tmp_path, quiet_hooks, capsys
):
    options = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "init_from": str(trained[bundle] / "model.pt")}
    others = {PLANAR: {"descriptor": "coord"}}.get(bundle, {"features": [4, 8, 16, 32]})
    if bundle == CONTEXT:
        others["num_groups"] = 2
    (line,) = last_words(alone(bundle, "train.yaml", "demo.yaml", kind="train", **options, **others), capsys)
    assert line.startswith(f"error: {options['init_from']}: ") and line.endswith("options of its training")
    if scratch(bundle):
        both = {**options, "pretrained": str(tmp_path / "encoder.pt")}
        (line,) = last_words(alone(bundle, "train.yaml", "demo.yaml", kind="train", **both), capsys)
        assert line.startswith("error: init_from and pretrained must be one of the two, got ")


@every_bundle
def test_a_finished_training_is_neither_repeated_nor_overwritten_unasked(bundle, trained, phantoms, tmp_path):
    """A second training in the same folder replaced the weights of the first one in silence."""

    def start(**options):
        options = {**COMMON, **scratch(bundle), **SHORT, "num_labeled": 2, **options}
        places = {"dataset_dir": str(phantoms), "ckpt_dir": str(trained[bundle])}
        if bundle == PLANAR:
            options["step"] = options.get("step", 4)
        made = alone(bundle, "train.yaml", "demo.yaml", kind="train", **places, **options)
        _end_if_finished(made.parser)

    before = (trained[bundle] / "model.pt").read_bytes()
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 0
    with pytest.raises(ValueError, match=r"must hold no training that has ended with other settings, got seed '?0"):
        start(seed=1)
    start(seed=1, resume=False)
    assert (trained[bundle] / "model.pt").read_bytes() == before


@pytest.mark.parametrize("is_last", [True, False])
def test_of_several_files_of_overrides_the_last_one_must_not_contradict_the_weights(
    is_last, trained, phantoms, tmp_path
):
    """Each was compared alone, so that a file of one's own after `small.yaml` was refused."""
    features = load_record(trained[CONTEXT] / "model.pt").settings["features"]
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for file, value in zip(files, ([4, 4], features) if is_last else (features, [4, 4]), strict=True):
        file.write_text(f"features: {value}\n", encoding="utf-8")
    names = [str(CONTEXT / "configs" / "inference.yaml"), *map(str, files)]
    options = {"dataset_dir": phantoms / "imagesTs", "ckpt_dir": trained[CONTEXT], "output_dir": tmp_path / "out"}
    done = bundle_run("inference", CONTEXT, config_file=names, **options)
    assert (done.returncode == 0) == is_last, done.stderr[-2000:]
    if not is_last:
        assert "features must be that of the training of the weights" in done.stderr


def test_the_command_line_counts_more_than_a_file_of_overrides(trained, phantoms, tmp_path):
    """A training with `small.yaml` and `--features` could not be evaluated with both, as a study does."""
    (file := tmp_path / "own.yaml").write_text("features: [4, 4]\n", encoding="utf-8")
    options = {
        "config_file": [str(CONTEXT / "configs" / "inference.yaml"), str(file)],
        "dataset_dir": phantoms / "imagesTs",
        "ckpt_dir": trained[CONTEXT],
        "output_dir": tmp_path / "out",
    }
    features = load_record(trained[CONTEXT] / "model.pt").settings["features"]
    done = bundle_run("inference", CONTEXT, **options, features=features)
    assert done.returncode == 0, done.stderr[-2000:]
    done = bundle_run("inference", CONTEXT, **options, features=[4, 4])
    assert "features must be that of the training of the weights" in done.stderr
