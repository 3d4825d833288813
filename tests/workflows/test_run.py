"""Every workflow of every bundle runs, in the order in which a user runs them, on phantoms."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from workflow_helpers import (
    CONTEXT,
    LAYERS_BUNDLE,
    PLANAR,
    PRETRAINED,
    ROOT,
    SHORT,
    TABLES,
    bundle_run,
    every_bundle,
    last_words,
    liver_pretraining,
    run,
    scratch,
    workflow,
)

from common.active_learning import load_describer
from common.data import PHANTOM_LABELS, write_datalist

pytestmark = pytest.mark.slow
PICTURES = {  # drawn while a network is trained, besides its learning curves
    "fnet_wtacae_stl": {"kernels.png", "reconstructions.png"},
    "fnet_wtacae_mtl": {"kernels.png", "reconstructions.png"},
    "context_restoration_unet": {"restorations.png"},
    "planar_heatmap_descriptor": {"pairs.png", "embedding.png"},
    "layer_decomp_tumor": {"layers.png", "simulation.png"},
}


@pytest.mark.pictures
@every_bundle
def test_pretrain_train_evaluate_infer(bundle, phantoms, tmp_path, quiet_hooks):
    weights, scores, output = tmp_path / "models", tmp_path / "scores", tmp_path / "output"
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(weights), "device": "cpu"}

    def describe():
        return load_describer(bundle, ["configs/demo.yaml"], {"ckpt_dir": str(weights)})(scan)

    scan = sorted(str(path) for path in (phantoms / "imagesUn").iterdir())[0]
    if bundle in PRETRAINED:
        run(bundle, "pretrain.yaml", **common, **SHORT)
        pretrained = describe()
    trained = run(bundle, "train.yaml", **common, **SHORT, num_labeled=2, num_validation=1)
    assert trained.parser.get_parsed_content("train::trainer").state.iteration == 2
    assert not list(weights.rglob("*.ckpt")), "a finished training leaves no checkpoint"
    assert {path.name for path in weights.rglob("*.png")} == PICTURES[bundle.name] | {"learning_curve.png"}

    if bundle in PRETRAINED:
        assert torch.equal(describe(), pretrained), "the order of the scans to label outlives a training"
        shutil.rmtree(weights / "pretrained")
    assert describe().isfinite().all()

    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(scores))
    learned = json.loads((weights / "record.json").read_text(encoding="utf-8"))["volumes_ml"]
    assert all(0 < low <= high for low, high in learned.values()) and "liver" in learned
    rows = list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
    assert [Path(row["filename"]).name for row in rows] == ["phantom_005.nii.gz", "phantom_006.nii.gz"]
    assert list(rows[0]) == ["filename", "liver", "spleen", "right kidney", "left kidney", "mean"]
    assert len(list(scores.glob("*.png"))) == 2
    assert {path.name for path in scores.glob("*.csv")} == TABLES[bundle.name]

    images = phantoms / "imagesTs"
    run(bundle, "inference.yaml", kind="infer", **{**common, "dataset_dir": str(images)}, output_dir=str(output))
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert report["bundle"] == {"name": metadata["name"], "version": metadata["version"]}
    assert report["weights"]["sha256"] == hashlib.sha256((weights / "model.pt").read_bytes()).hexdigest()
    assert report["options"] and report["intensities"] == {"channel": "CT", "unit": "HU"}
    assert len([*csv.DictReader((output / "report.csv").open(encoding="utf-8"))]) == 8
    assert (output / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 2
    for path, case in zip(sorted(images.glob("*.nii.gz")), report["cases"], strict=True):
        image, segmentation = nib.load(path), nib.load(output / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert (case["image"], case["outcome"]) == (str(path), "segmented")
        counts = np.bincount(np.asarray(segmentation.dataobj).ravel(), minlength=5)[1:]
        volumes = [measured["volume_ml"] for measured in case["labels"].values()]
        assert volumes == pytest.approx(counts * np.prod(image.header.get_zooms()) / 1000, rel=1e-4)
        assert segmentation.shape == image.shape
        np.testing.assert_allclose(segmentation.affine, image.affine, atol=1e-4)
        assert segmentation.get_data_dtype() == np.uint8


@every_bundle
def test_inference_gives_what_evaluation_scores(bundle, phantoms, tmp_path, quiet_hooks):
    """Both read the same weights and the same fitted preprocessing, in workflows of their own."""
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(bundle, "train.yaml", **common, max_epochs=3, iterations_per_epoch=10, num_validation=1, **scratch(bundle))
    run(bundle, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(tmp_path))
    images = phantoms / "imagesTs"
    exact = {**common, "dataset_dir": str(images)}
    if "output_dtype" in (bundle / "configs" / "inference.yaml").read_text(encoding="utf-8"):
        exact["inferer::output_dtype"] = "$torch.float32"
    run(bundle, "inference.yaml", kind="infer", **exact, output_dir=str(tmp_path))
    for row in csv.DictReader((tmp_path / "mean_dice_raw.csv").open()):
        name = Path(row["filename"]).name
        label = np.asarray(nib.load(phantoms / "labelsTs" / name).dataobj)
        segmentation = np.asarray(nib.load(tmp_path / name.replace(".nii.gz", "_seg.nii.gz")).dataobj)
        for value, organ in enumerate(("liver", "spleen", "right kidney", "left kidney"), start=1):
            both = np.sum((label == value) & (segmentation == value))
            dice = 2 * both / (np.sum(label == value) + np.sum(segmentation == value))
            assert float(row[organ]) == pytest.approx(dice, abs=1e-6)


@every_bundle
@pytest.mark.parametrize("form", ["scan.nii", "scan.nrrd", "scan.mha", "series"])
def test_every_file_form_gives_the_same_segmentation(bundle, form, phantoms, tmp_path, quiet_hooks):
    weights = tmp_path / "models"
    common = {"ckpt_dir": str(weights), "device": "cpu"}
    fitted = {"num_labeled": 1, "num_validation": 1, **scratch(bundle)}
    run(bundle, "train.yaml", **common, **SHORT, **fitted, dataset_dir=str(phantoms))
    original = phantoms / "imagesTs" / "phantom_005.nii.gz"
    convert(original, tmp_path / form)

    def segment(path: Path) -> np.ndarray:
        output = tmp_path / f"{path.name}_output"
        run(bundle, "inference.yaml", kind="infer", **common, dataset_dir=str(path), output_dir=str(output))
        (segmentation,) = output.glob("*_seg.nii.gz")
        return np.asarray(nib.as_closest_canonical(nib.load(segmentation)).dataobj)

    np.testing.assert_array_equal(segment(tmp_path / form), segment(original))


def convert(source: Path, target: Path) -> None:
    """Write a scan as another type of file or, without a suffix, as a folder of DICOM slices."""
    image = itk.imread(source, itk.SS)
    if target.suffix:
        itk.imwrite(image, str(target))
        return
    target.mkdir()
    direction = itk.array_from_matrix(image.GetDirection())
    for index, values in enumerate(itk.array_from_image(image)):
        position = np.array(itk.origin(image)) + direction @ (np.array(itk.spacing(image)) * (0, 0, index))
        single = itk.image_from_array(values[None].copy())
        single.SetSpacing(image.GetSpacing())
        tags = single.GetMetaDataDictionary()
        tags["0008|0060"], tags["0020|000d"], tags["0020|000e"] = "CT", "1.2.3.1", "1.2.3.2"
        tags["0020|0013"] = str(index + 1)
        tags["0020|0032"] = "\\".join(f"{value:.6f}" for value in position)
        tags["0020|0037"] = "\\".join(f"{value:.6f}" for value in direction[:, :2].T.ravel())
        dicom = itk.GDCMImageIO.New()
        dicom.KeepOriginalUIDOn()
        itk.ImageFileWriter[type(single)].New(
            Input=single, FileName=str(target / f"{index}.dcm"), ImageIO=dicom
        ).Update()


@every_bundle
def test_runs_by_command_from_another_folder(bundle, phantoms, tmp_path):
    done = bundle_run(
        "training",
        bundle,
        "train.yaml",
        cwd=tmp_path,
        dataset_dir=phantoms,
        ckpt_dir=tmp_path / "models",
        num_validation=1,
        **scratch(bundle),
        **SHORT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "models" / "model.pt").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


@every_bundle
def test_tracking_with_mlflow_has_the_numbers_of_the_history(bundle, phantoms, tmp_path, quiet_hooks, monkeypatch):
    """In a file beside the weights, without a server. MONAI's tracking stumbled over the output of every training."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path / "models"), "device": "cpu", "tracking": "mlflow"}

    def track(*names: str, **options) -> None:
        made = workflow(bundle, *names, **{**common, **options})
        made.initialize()
        made.run()

    track("train.yaml", **SHORT, **scratch(bundle), num_labeled=1, num_validation=1)
    folders = {tmp_path / "models": "FINISHED"}
    if bundle == CONTEXT:
        track("pretrain.yaml", **SHORT)
        track("train.yaml", "evaluate.yaml", evaluation_dir=str(tmp_path / "scores"))
        images = {"dataset_dir": str(phantoms / "imagesTs"), "output_dir": str(tmp_path / "output")}
        track("inference.yaml", kind="infer", **images)
        folders |= {tmp_path / "models" / "pretrained": "FINISHED", tmp_path / "output": "FINISHED"}
        folders |= {tmp_path / "scores": "RUNNING"}  # MONAI does not close it
    for folder, status in folders.items():
        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
        (experiment,) = [found for found in client.search_experiments() if found.name == "monai_experiment"]
        (tracked,) = client.search_runs(experiment.experiment_id)
        assert tracked.info.status == status
        if (folder / "history.csv").is_file():
            (row,) = csv.DictReader((folder / "history.csv").open())
            numbers = {name: float(value) for name, value in row.items() if name not in ("epoch", "seconds")}
            assert tracked.data.metrics == pytest.approx(numbers)
    assert {path.name for path in tmp_path.iterdir()} == {path.relative_to(tmp_path).parts[0] for path in folders}


def test_the_weights_of_one_f_net_bundle_serve_the_other(phantoms, tmp_path, quiet_hooks):
    """What S-MTL trains is an F-Net like that of S-TL: same names, same preprocessing, same segmentation."""
    weights = {"ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    multi_task, transfer = (ROOT / "bundles" / f"fnet_wtacae_{method}" for method in ("mtl", "stl"))
    run(multi_task, "train.yaml", **weights, **SHORT, dataset_dir=str(phantoms), num_labeled=2, num_validation=1)
    image = phantoms / "imagesTs" / "phantom_005.nii.gz"
    for bundle in (multi_task, transfer):
        output = str(tmp_path / bundle.name)
        run(bundle, "inference.yaml", kind="infer", **weights, dataset_dir=str(image), output_dir=output)
    first, second = (tmp_path / bundle.name / "phantom_005_seg.nii.gz" for bundle in (multi_task, transfer))
    np.testing.assert_array_equal(np.asarray(nib.load(first).dataobj), np.asarray(nib.load(second).dataobj))


@pytest.mark.parametrize("options", [{"alternate": True}, {"tie_norm": True}, {"gamma": 0.5}], ids=str)
def test_every_way_of_multi_task_training_learns_and_is_recorded(options, phantoms, tmp_path, quiet_hooks):
    bundle = ROOT / "bundles" / "fnet_wtacae_mtl"
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu", "num_validation": 1}
    run(bundle, "train.yaml", **common, **options, max_epochs=3, iterations_per_epoch=8)
    history = list(csv.DictReader((tmp_path / "history.csv").open()))
    for name in ("train_loss", "segmentation_loss", "reconstruction_loss"):
        assert float(history[-1][name]) < float(history[0][name])
    for row in history:
        total = float(row["segmentation_loss"]) + float(row["gamma"]) * float(row["reconstruction_loss"])
        if "gamma" in options:
            assert float(row["train_loss"]) == pytest.approx(total, rel=1e-4)


def test_mr_is_learned_from_and_has_no_hounsfield_units(phantoms, tmp_path, quiet_hooks):
    scans = tmp_path / "scans"
    shutil.copytree(phantoms, scans)
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    write_datalist(scans, {**content, "modality": {"0": "MRI"}})
    weights, scores = tmp_path / "models", tmp_path / "scores"
    common = {"dataset_dir": str(scans), "ckpt_dir": str(weights), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", "mr.yaml", **common, **SHORT)
    trained = run(CONTEXT, "train.yaml", "mr.yaml", **common, **SHORT, num_labeled=2, num_validation=1)
    assert trained.parser.get_parsed_content("module").encoder[0].conv.in_channels == 1
    run(CONTEXT, "train.yaml", "evaluate.yaml", "mr.yaml", **common, evaluation_dir=str(scores))
    assert list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
    assert not any("hu" in column for column in next(csv.DictReader((scores / "clinical_raw.csv").open())))
    images = {**common, "dataset_dir": str(scans / "imagesTs")}
    run(CONTEXT, "inference.yaml", "mr.yaml", kind="infer", **images, output_dir=str(tmp_path / "output"))
    assert len(list((tmp_path / "output").glob("*_seg.nii.gz"))) == 2


def test_prediction_empties_what_restoration_swaps(phantoms, tmp_path, quiet_hooks):
    seen = {}
    for name in ("RandContextPrediction", "RandContextRestoration"):
        options = {"corruption::_target_": f"common.context.{name}", **SHORT, "device": "cpu"}
        made = run(CONTEXT, "pretrain.yaml", dataset_dir=str(phantoms), ckpt_dir=str(tmp_path / name), **options)
        output = made.parser.get_parsed_content("train::trainer").state.output
        seen[name] = (output["image"], output["label"])
        assert (tmp_path / name / "pretrained" / "context_unet.pt").is_file()
    image, target = seen["RandContextPrediction"]
    assert not image[image != target].any() and (image != target).any()
    image, target = seen["RandContextRestoration"]
    assert not torch.equal(image, target)
    torch.testing.assert_close(image.flatten(2).sort().values, target.flatten(2).sort().values)


def test_png_images_with_png_labels_get_png_label_maps(tmp_path, quiet_hooks):
    """A picture of 40 x 56 pixels, wide as most are, keeps its pixels in their places."""
    rng = np.random.default_rng(0)
    listed: dict[str, list] = {"training": [], "test": [], "unlabeled": []}
    for index, split in enumerate([*["training"] * 5, *["test"] * 2, *["unlabeled"] * 2]):
        row, column = rng.integers(8, 24, 2)
        label = np.zeros((40, 56), np.uint8)
        label[row : row + 10, column : column + 20] = 1
        image = (60 + 120 * label + rng.integers(0, 30, label.shape)).astype(np.uint8)
        case = {"image": f"image_{index}.png", "label": f"label_{index}.png"}
        for name, pixels in zip(case.values(), (image, label), strict=True):
            Image.fromarray(pixels).save(tmp_path / name)
        listed[split].append(case["image"] if split == "unlabeled" else case)
    write_datalist(tmp_path, {"labels": {"0": "background", "1": "bone"}, "modality": {"0": "US"}, **listed})

    weights, output = tmp_path / "models", tmp_path / "output"
    common = {"dataset_dir": str(tmp_path), "ckpt_dir": str(weights), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", "mr.yaml", **common, **SHORT)
    run(CONTEXT, "train.yaml", "mr.yaml", **common, max_epochs=4, iterations_per_epoch=15, num_validation=1)
    run(CONTEXT, "train.yaml", "evaluate.yaml", "mr.yaml", **common, evaluation_dir=str(tmp_path / "scores"))
    rows = list(csv.DictReader((tmp_path / "scores" / "mean_dice_raw.csv").open()))
    for case, row in zip(listed["test"], rows, strict=True):
        image = {**common, "dataset_dir": str(tmp_path / case["image"])}
        run(CONTEXT, "inference.yaml", "mr.yaml", kind="infer", **image, output_dir=str(output))
        label = np.asarray(Image.open(tmp_path / case["label"]))
        segmentation = np.asarray(Image.open(output / case["image"].replace(".png", "_seg.png")))
        assert segmentation.shape == label.shape and segmentation.dtype == np.uint8
        dice = 2 * np.sum(segmentation * label) / np.sum(segmentation + label)
        assert dice > 0.5 and dice == pytest.approx(float(row["bone"]), abs=1e-6)


@pytest.mark.parametrize("softmax", [False, True])
@every_bundle
def test_probabilities_are_one_file_from_which_the_segmentation_follows(
    bundle, softmax, phantoms, tmp_path, quiet_hooks
):
    if softmax and bundle != CONTEXT:
        pytest.skip("it is an option of one bundle")
    common = {"ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    options = {**(SHORT if bundle != PLANAR else {}), "num_validation": 1, **scratch(bundle)}
    options |= {"softmax": softmax} if bundle == CONTEXT else {}
    trained = run(bundle, "train.yaml", **common, dataset_dir=str(phantoms), **options)
    labels = trained.parser.get_parsed_content("labels")
    image, output = phantoms / "imagesTs" / "phantom_005.nii.gz", tmp_path / "output"
    options = {"dataset_dir": str(image), "output_dir": str(output)}
    options |= {"save_probabilities": True, "save_confidence": True}
    run(bundle, "inference.yaml", kind="infer", **common, **options)
    (path,) = output.glob("*_probabilities.nii.gz")
    probabilities = np.asarray(nib.load(path).dataobj)
    assert probabilities.shape == (*nib.load(image).shape, len(labels))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-4)
    confidence = np.asarray(nib.load(output / "phantom_005_confidence.nii.gz").dataobj)
    np.testing.assert_allclose(confidence, probabilities.max(-1), atol=1e-4)
    np.testing.assert_allclose(nib.load(path).affine, nib.load(image).affine, atol=1e-4)
    segmentation = np.asarray(nib.load(output / "phantom_005_seg.nii.gz").dataobj)
    chosen = np.take_along_axis(probabilities, segmentation[..., None].astype(int), -1)[..., 0]
    other = chosen < probabilities.max(-1) - 2e-3  # where equally probable classes change places, and at a crop's edge
    assert other.mean() < 1e-3


@pytest.mark.parametrize("max_epochs", [1, 2])
def test_the_encoder_is_frozen_for_as_long_as_asked(max_epochs, phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", **common, **SHORT)
    options = {"num_validation": 1, "freeze_epochs": 1, "iterations_per_epoch": 2, "max_epochs": max_epochs}
    trained = run(CONTEXT, "train.yaml", **common, **options).parser.get_parsed_content("module").state_dict()
    pretrained = torch.load(tmp_path / "pretrained" / "context_unet.pt", weights_only=True)
    for name, value in pretrained.items():
        if name.startswith("encoder."):
            assert torch.equal(trained[name], value) == (max_epochs == 1), name
    assert not torch.equal(trained["decoder.0.conv.weight"], pretrained["decoder.0.conv.weight"])


def test_restorations_are_scored_on_scans_that_the_pretraining_has_not_seen(phantoms, tmp_path, quiet_hooks, capsys):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(CONTEXT, "pretrain.yaml", **common, **SHORT, include_val_images=True)
    names = ("pretrain.yaml", "evaluate_restoration.yaml")
    run(CONTEXT, *names, **common)
    folder = tmp_path / "pretrained" / "restoration"
    rows = list(csv.DictReader((folder / "restoration_raw.csv").open()))
    assert {Path(row["filename"]).parent.name for row in rows} == {"imagesTs"} and (
        folder / "restorations.png"
    ).is_file()
    assert len({(row["filename"], row["slice"]) for row in rows}) == len(rows) > 20
    assert all(float(row["l2"]) > 0 for row in rows)
    (line,) = last_words(workflow(CONTEXT, *names, **common, split="validation"), capsys)
    assert "must not be among the scans that the weights were trained on" in line


def test_clinical_metrics_are_those_of_the_label_and_the_segmentation(phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(CONTEXT, "train.yaml", **common, **SHORT, num_validation=1, pretrained="null")
    run(CONTEXT, "train.yaml", "evaluate.yaml", **common, evaluation_dir=str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "clinical_raw.csv").open()))
    assert len(rows) == 2 * 4
    for row in rows:
        label = nib.load(row["filename"].replace("imagesTs", "labelsTs"))
        mask = np.asarray(label.dataobj) == PHANTOM_LABELS.index(row["class"])
        assert float(row["volume_mm3_label"]) == pytest.approx(mask.sum() * np.prod(label.header.get_zooms()), rel=1e-4)
        hounsfield = np.asarray(nib.load(row["filename"]).dataobj)[mask].mean()
        assert float(row["mean_hu_label"]) == pytest.approx(hounsfield, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "descriptor"),
    [
        ("reg2d", "planar"),
        ("heatmap", "joint"),
        ("doersch", "cubic"),
        (None, "gvdiff"),
        (None, "gvdiff_centered"),
        (None, "coord"),
    ],
)
def test_every_task_and_descriptor_segments(task, descriptor, phantoms, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "device": "cpu"}
    if task is not None:
        run(PLANAR, "pretrain.yaml", **common, **SHORT, task=task, val_iterations=1, snapshot_interval=1)
        pretrained = tmp_path / "pretrained"
        assert {"pairs.png", "descriptors.pt", "descriptors_0001.pt"} <= {path.name for path in pretrained.iterdir()}
    options = {"descriptor": descriptor, **({} if task else scratch(PLANAR))}
    made = run(PLANAR, "train.yaml", **common, **options, num_labeled=2, num_validation=1)
    atlas = made.parser.get_parsed_content("module")
    assert len(atlas.volume_ids) == 2 and atlas.class_counts.min() > 0
    if task is not None:
        learned = torch.load(tmp_path / "pretrained" / "descriptors.pt", weights_only=True)
        learning = atlas.descriptor.parts[0] if descriptor == "joint" else atlas.descriptor
        for name, value in learning.state_dict().items():
            assert torch.equal(value, learned[name]), name
    image, output = phantoms / "imagesTs" / "phantom_005.nii.gz", tmp_path / "output"
    options |= {"dataset_dir": str(image), "output_dir": str(output), "save_confidence": True}
    options.pop("pretrained", None)
    run(PLANAR, "inference.yaml", kind="infer", **{**common, **options})
    confidence = np.asarray(nib.load(output / "phantom_005_confidence.nii.gz").dataobj)
    segmentation = np.asarray(nib.load(output / "phantom_005_seg.nii.gz").dataobj)
    assert confidence.shape == segmentation.shape == nib.load(image).shape
    assert segmentation.any() and confidence.max() <= 1 + 1e-5
    assert confidence.min() > 0.2 - 1e-5  # of five classes, the winner has most, and beyond the box all votes


def test_tumors_are_segmented_without_any_label_and_the_layers_written(lesions, tmp_path, quiet_hooks):
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path / "models"), "device": "cpu"}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, **SHORT)
    run(LAYERS_BUNDLE, "pretrain.yaml", "adapt.yaml", **common, **SHORT)
    for weights in ("pretrained", "adapted"):
        scores, path = tmp_path / f"{weights}_scores", str(tmp_path / "models" / weights / "layer_unet.pt")
        evaluated = run(
            *(LAYERS_BUNDLE, "train.yaml", "evaluate.yaml", "zero_shot.yaml"),
            **common,
            evaluation_dir=str(scores),
            weights=path,
        )
        assert evaluated.parser.get_parsed_content("network_def").head.out_channels == 3
        rows = list(csv.DictReader((scores / "mean_dice_raw.csv").open()))
        assert [list(row) for row in rows] == 2 * [["filename", "tumor", "mean"]]

    output = tmp_path / "output"
    images = {**common, "dataset_dir": str(lesions / "imagesTs"), "organ_dir": str(lesions / "organs")}
    run(
        *(LAYERS_BUNDLE, "inference.yaml", "zero_shot.yaml"),
        kind="infer",
        **images,
        output_dir=str(output),
        layers=True,
    )
    for path in sorted((lesions / "imagesTs").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        image = nib.load(path)
        found, organ, tumor = (nib.load(output / f"{name}_{kind}.nii.gz") for kind in ("seg", "organ", "tumor"))
        assert found.shape == image.shape and {organ.shape, tumor.shape} == {image.shape}
        inside = np.asarray(nib.load(lesions / "organs" / path.name).dataobj) > 0
        assert not np.asarray(found.dataobj)[~inside].any()


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, (1, 1, 0, 1, 0)),
        ({"organ_weight": 0, "tumor_weight": 0}, (0, 0, 0, 1, 0)),
        ({"organ_weight": 0, "tumor_weight": 0, "composition_weight": 0}, (0, 0, 1, 0, 1)),
    ],
)
def test_a_pretraining_chooses_its_weights_by_what_it_learns(options, weights, lesions, tmp_path):
    made = workflow(LAYERS_BUNDLE, "pretrain.yaml", dataset_dir=str(lesions), ckpt_dir=str(tmp_path), **options)
    assert made.parser.get_parsed_content("tasks::layers::selection_loss").weights == weights


def test_settings_of_the_liver_learn_from_tumors_that_keep_the_noise_of_their_scan(lesions, tmp_path, quiet_hooks):
    """Smooth tumors in a noisy scan would be found by their smoothness, which real ones do not have."""
    made = liver_pretraining(lesions, tmp_path)
    made.initialize()
    made.run()
    assert (tmp_path / "models" / "pretrained" / "layer_unet.pt").is_file()

    simulation = made.parser.get_parsed_content("simulation")
    generator = torch.Generator().manual_seed(0)
    scan, donor = (1 + 0.2 * torch.randn(1, 64, 64, 16, generator=generator) for _ in range(2))
    kept = []
    for seed in range(16):
        layers = simulation.set_random_state(seed)(scan, torch.ones_like(scan), donor, (2.0, 2.0, 5.0))
        inside = layers[2] > 0.9
        if inside.sum() > 50:
            kept.append(float(layers[4][inside].std() / scan[0][inside].std()))
    assert len(kept) > 6
    assert min(kept) > 0.45


@pytest.mark.parametrize("task", ["restoration", "rotation", "location", "jigsaw"])
def test_every_pretext_task_leaves_an_encoder_to_train_from(task, lesions, tmp_path, quiet_hooks, monkeypatch):
    if task in ("location", "jigsaw"):
        # oneDNN's gradients of maps of two voxels, which the cells of a small patch have, are now and then NaN
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    common = {"dataset_dir": str(lesions), "ckpt_dir": str(tmp_path), "device": "cpu"}
    run(LAYERS_BUNDLE, "pretrain.yaml", **common, **SHORT, task=task)
    trained = run(LAYERS_BUNDLE, "train.yaml", **common, **SHORT, num_labeled=1, num_validation=1, learning_rate=1e-9)
    pretrained = torch.load(tmp_path / "pretrained" / "layer_unet.pt", weights_only=True)
    network = trained.parser.get_parsed_content("module")
    torch.testing.assert_close(network.encoder[0][0].weight, pretrained["encoder.0.0.weight"])


def test_paths_may_look_like_anything(phantoms, tmp_path):
    """`#` became `::`, 2024.10 the number 2024.1, and `$x` was evaluated."""
    bundle = tmp_path / "bundle #1"
    shutil.copytree(ROOT / "bundles" / "fnet_wtacae_stl" / "configs", bundle / "configs")
    (tmp_path / "2024.10").symlink_to(phantoms)
    (tmp_path / "@new").symlink_to(phantoms / "imagesTs")
    (tmp_path / "arguments.json").write_text(json.dumps({"output_dir": "$x", "device": "cpu"}), encoding="utf-8")
    common = {"cwd": tmp_path, "ckpt_dir": "a#b"}
    short = {"pretrained": "$None", **SHORT, "val_iterations": 1, "device": "cpu"}
    done = [bundle_run("training", bundle, "train.yaml", **common, dataset_dir="2024.10", **short)]
    for places in ({"output_dir": "1,2"}, {"args_file": "arguments.json"}):
        done.append(bundle_run("inference", bundle, "inference.yaml", **common, dataset_dir="@new", **places))
    assert [job.returncode for job in done] == [0, 0, 0], "".join(job.stderr for job in done)
    written = {"a#b": "model.pt", "1,2": "report.json", "$x": "report.json"}
    assert all((tmp_path / folder / name).is_file() for folder, name in written.items())
    assert {path.name for path in tmp_path.iterdir()} - {*written} == {"bundle #1", "2024.10", "@new", "arguments.json"}
    assert {path.name for path in bundle.iterdir()} == {"configs"}
