"""Laws of the pictures: they are drawn, and drawing changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.context import RestorationPicture
from common.context.pictures import save_restorations
from common.fnet import FNet, KernelPicture, MultiTaskFNet, ReconstructionPicture, WTAAutoencoders
from common.fnet.pictures import save_kernels, save_reconstructions
from common.planar import PairPicture, RandCubePair, RandSlabPair
from common.planar.pictures import save_embedding
from common.training import InferenceReport, OverlayPictures, save_curves, save_overlay


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("network", "titles"),
    [
        (FNet(1, 2, (2, 3), 3), ["level 0\nencoder", "level 1\nencoder"]),
        (
            WTAAutoencoders(1, (2, 3), 3),
            [f"level {level}\n{part}" for part in ("encoder", "decoder") for level in (0, 1)],
        ),
        (MultiTaskFNet(FNet(1, 2, (2, 3), 3), (1,)), ["level 0\nencoder", "level 1\nencoder", "level 1\ndecoder"]),
    ],
    ids=["fnet", "wta", "multi-task"],
)
def test_kernels_are_drawn_at_the_end(tmp_path, monkeypatch, network, titles):
    drawn = []
    monkeypatch.setattr(
        "common.fnet.pictures.save_kernels",
        lambda kernels, path: (drawn.extend(kernels), save_kernels(kernels, path)),
    )
    engine = Engine(lambda engine, batch: None)
    KernelPicture(tmp_path / "new" / "kernels.png", network).attach(engine)
    engine.run([0])
    assert is_picture(tmp_path / "new" / "kernels.png")
    assert drawn == titles


def test_reconstructions_are_drawn_in_between_and_at_the_end(tmp_path):
    path, drawn = tmp_path / "reconstructions.png", []
    patches = [torch.randn(3, 1, 6, 6, 6), torch.zeros(3, 1, 4, 4, 4)]

    def step(engine, batch):
        drawn.append(path.exists())
        path.unlink(missing_ok=True)
        return {"label": patches, "pred": patches}

    engine = Engine(step)
    ReconstructionPicture(path, interval=2).attach(engine)
    engine.run([0], max_epochs=5)
    assert drawn == [False, False, True, False, True]
    assert is_picture(path)


def test_reconstructions_are_found_by_name_and_drawn_with_their_levels(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.fnet.pictures.save_reconstructions", lambda *arguments: drawn.append(arguments))
    output = {"label": 0, "pred": 1, "original": 2, "reconstruction": 3}
    engine = Engine(lambda engine, batch: output)
    ReconstructionPicture(tmp_path, 1, "original", "reconstruction", (1, 2)).attach(engine)
    engine.run([0])
    assert drawn[0] == (2, 3, tmp_path, (1, 2))


def test_restorations_are_drawn_in_between_and_at_the_end(tmp_path):
    path, drawn = tmp_path / "new" / "restorations.png", []
    image = torch.randn(5, 3, 12, 8, requires_grad=True)

    def step(engine, batch):
        drawn.append(path.exists())
        path.unlink(missing_ok=True)
        return {"label": image, "image": 0 * image, "pred": image.bfloat16()}

    engine = Engine(step)
    RestorationPicture(path, interval=2).attach(engine)
    engine.run([0], max_epochs=5)
    assert drawn == [False, False, True, False, True]
    assert is_picture(path)


def test_original_corrupted_and_restored_stand_side_by_side_on_one_gray_scale(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append((image, options)))
    originals = torch.rand(3, 2, 6, 5) * torch.tensor([1.0, 9, 3]).view(3, 1, 1, 1)
    engine = Engine(lambda engine, batch: {"label": originals, "image": -originals, "pred": originals / 2})
    RestorationPicture(tmp_path / "restorations.png").attach(engine)
    engine.run([0])
    for row, index in enumerate((1, 2, 0)):  # the highest contrast first
        image = originals[index, 0].T
        for (shown, options), expected in zip(drawn[3 * row :][:3], (image, -image, image / 2), strict=True):
            assert torch.equal(shown, expected)
            assert (options["vmin"], options["vmax"]) == (image.min(), image.max())
    drawn.clear()
    save_restorations(originals, originals, originals, tmp_path / "restorations.png", max_images=2)
    assert len(drawn) == 6


def restore(path, axis):
    images = torch.rand(1, 1, 6, 5)
    engine = Engine(lambda engine, batch: {"label": images, "image": images, "pred": images})
    RestorationPicture(path, axis=axis).attach(engine)
    engine.run([0])


@pytest.mark.parametrize(
    ("draw", "axes"),
    [
        (
            lambda path: save_overlay(np.random.rand(6, 5, 4), (1, 1, 1), {"label": np.ones((6, 5, 4), int)}, path),
            [0, 1, 2],
        ),
        (lambda path: save_overlay(np.random.rand(6, 1, 4), (1, 1, 1), {"label": np.ones((6, 1, 4), int)}, path), [1]),
        (lambda path: save_reconstructions([torch.rand(1, 1, 6, 5, 4)], [torch.rand(1, 1, 6, 5, 4)], path), [2, 2]),
        (lambda path: save_kernels({"level 0": torch.randn(1, 3, 3, 3)}, path), [2]),
        (lambda path: restore(path, 2), [2, 2, 2]),
        (lambda path: restore(path, 1), [1, 1, 1]),
        (lambda path: restore(path, 0), [0, 0, 0]),
    ],
    ids=["overlay", "coronal image", "reconstructions", "kernels", "axial", "coronal", "sagittal"],
)
def test_the_patients_right_is_on_the_left_and_the_front_or_the_head_up(tmp_path, monkeypatch, draw, axes):
    """Restorations were mirrored, against the previews of the same scans."""
    figures = []
    for folder in ("context", "fnet", "training"):
        monkeypatch.setattr(f"common.{folder}.pictures.save_figure", lambda figure, path: figures.append(figure))
    draw(tmp_path / "picture.png")
    panels = [panel for panel in figures[0].axes if panel.images]
    assert len(panels) == len(axes)
    for panel, axis in zip(panels, axes, strict=True):
        assert panel.images[0].origin == "lower"
        (left, low), (right, high) = panel.transData.transform([(0, 0), (1, 1)])
        assert low < high  # the slice's second axis goes up: to the front or to the head
        assert (right < left) == (axis != 0)  # its first goes to the patient's right or, in sagittal ones, to the front


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png"])
def test_a_2d_image_is_drawn_as_the_one_plane_that_it_is_and_stays_as_it_was(tmp_path, write_scan, monkeypatch, name):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8)).astype(np.uint8)
    affine = np.diag([-1.0, -1, 1, 1])
    path = write_scan("a.nii.gz", pixels, affine=affine)
    if name == "a.png":
        path = str(tmp_path / name)
        Image.fromarray(pixels.T).save(path)
    before = Path(path).read_bytes()
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(np.asarray(image)))
    pred = MetaTensor(torch.zeros(1, 9, 8, 1), torch.as_tensor(affine), meta={"filename_or_obj": path})
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path).attach(engine)
    engine.run([[{"pred": pred}]])
    assert len(drawn) == 1 and np.array_equal(drawn[0], pixels[::-1, ::-1].T)
    assert is_picture(tmp_path / ("a_overlay.png" if name == "a.png" else "a.png"))
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1, 1]), np.diag([-2.0, -1, 3, 1])])
def test_an_overlay_is_drawn_for_each_case_up_to_the_limit(tmp_path, write_scan, affine):
    outputs = []
    for index in range(3):
        path = write_scan(f"case_{index}.nii.gz", np.random.default_rng(0).normal(size=(9, 8, 7)), affine=affine)
        label = MetaTensor(torch.zeros(1, 9, 8, 7), affine=torch.as_tensor(affine), meta={"filename_or_obj": path})
        label[:, 2:4, 3:6, 3:5] = index
        outputs.append({"pred": label, "label": label})
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path / "pictures", {0: "background", 1: "liver"}, max_cases=2).attach(engine)
    engine.run([outputs])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["case_0.png", "case_1.png"]
    assert is_picture(tmp_path / "pictures" / "case_1.png")


def test_a_constant_image_and_missing_numbers_are_drawn_without_an_error(tmp_path):
    save_overlay(np.zeros((4, 5, 6)), (1, 1, 2), {"label": np.zeros((4, 5, 6), int)}, tmp_path / "overlay.png")
    rows = [{"epoch": 1, "train_loss": 1.0, "lr_0": 0.1}, {"epoch": 2, "train_loss": float("nan"), "mean_dice": 0.5}]
    save_curves(rows, tmp_path / "curves.png")
    assert is_picture(tmp_path / "overlay.png") and is_picture(tmp_path / "curves.png")


def test_the_report_holds_volumes_in_milliliters_and_warns_of_what_is_implausible(tmp_path, caplog):
    affine = torch.diag(torch.tensor([-2.0, 1.0, 5.0, 1.0], dtype=torch.float64))
    outputs = []
    for name, count in (("empty", 0), ("liver", 100), ("flood", 600)):
        label = torch.zeros(1000, dtype=torch.uint8)
        label[:count] = 1
        outputs.append({"pred": MetaTensor(label.view(1, 10, 10, 10), affine, meta={"filename_or_obj": f"{name}.nii"})})
    engine = Engine(lambda engine, batch: batch)
    InferenceReport(tmp_path / "report.json", {0: "background", 1: "liver", 2: "spleen"}).attach(engine)
    engine.run([outputs])

    empty, liver, flood = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["cases"]
    assert empty["warnings"] == ["nothing was segmented"]
    assert liver == {
        "image": "liver.nii",
        "status": "segmented",
        "volumes_ml": {"liver": 1.0, "spleen": 0.0},
        "warnings": [],
    }
    assert flood["warnings"] == ["liver fills 60% of the scan"]
    assert "flood.nii: liver fills 60% of the scan" in caplog.text


def draw_pairs(path, target):
    """Run a step of the pretext task `target` on noise."""
    volumes = [torch.randn(1, 24, 22, 20, generator=torch.Generator().manual_seed(0))] * 2
    pairs = RandCubePair() if target == "neighbor" else RandSlabPair(target=target)
    image, label = pairs.set_random_state(0)(volumes)
    pred = torch.eye(6)[(label + 1) % 6] if target == "neighbor" else label + 0.1
    engine = Engine(lambda engine, batch: {"image": image, "label": label, "pred": pred})
    PairPicture(path).attach(engine)
    engine.run([0])
    return image, label


def test_pairs_of_slabs_stand_beside_their_heatmaps(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(np.asarray(image)))
    image, label = draw_pairs(tmp_path / "pairs.png", "heatmap")
    assert len(drawn) == 3 * 2 * 4 and is_picture(tmp_path / "pairs.png")
    for axis in range(3):
        rows = [drawn[start : start + 4] for start in range(8 * axis, 8 * axis + 8, 4)]
        contrast = image[:, axis, :, 1].flatten(2).std(2).amin(1)
        for sample, row in zip(contrast.argsort(descending=True).tolist(), rows, strict=True):
            expected = (*image[sample, axis, :, 1], label[sample, axis, 0], label[sample, axis, 0] + 0.1)
            for shown, values in zip(row, expected, strict=True):
                np.testing.assert_allclose(shown, values.numpy().T, rtol=1e-6)


def test_displacements_are_drawn_as_heatmaps_and_neighbors_by_their_side(tmp_path, monkeypatch):
    drawn, titles = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(np.asarray(image)))
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, title, **options: titles.append(title))
    draw_pairs(tmp_path / "displacements.png", "displacement")
    assert [image.shape for image in drawn[:4]] == [(42, 42), (42, 42), (19, 19), (19, 19)]
    assert titles[:4] == [f"{name}, sagittal" for name in ("first slab", "second slab", "target", "prediction")]
    drawn.clear()
    titles.clear()
    _, label = draw_pairs(tmp_path / "cubes.png", "neighbor")
    sides = ("right", "left", "front", "back", "above", "below")
    assert sorted(titles[1::2]) == sorted(
        f"{sides[side]}, predicted {sides[(side + 1) % 6]}" for side in label.tolist()
    )
    assert len(drawn) == 4 and is_picture(tmp_path / "cubes.png")


def test_the_embedding_shows_what_varies_most(tmp_path, monkeypatch):
    points = {}
    monkeypatch.setattr(
        "matplotlib.axes.Axes.scatter",
        lambda axes, x, y, label, **options: points.update({label: np.stack((x, y), 1)}),
    )
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda *values, **options: None)
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(3000, 5, generator=generator) * torch.tensor([0.1, 3, 0.1, 1, 0.1])
    labels = (torch.arange(3000) >= 2500).long()
    save_embedding(descriptors, labels, tmp_path / "embedding.png", {0: "background", 1: "liver"})
    assert {name: len(places) for name, places in points.items()} == {"background": 1250, "liver": 500}
    spread = np.abs(np.corrcoef(points["liver"].T, descriptors[2500:, [1, 3]].numpy().T)[:2, 2:])
    np.testing.assert_allclose(spread, np.eye(2), atol=0.1)
