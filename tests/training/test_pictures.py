"""Laws of the pictures of scans and of learning curves: they are drawn, and drawing changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from picture_checks import assert_seen_as_by_a_radiologist, is_picture
from PIL import Image

from common.training import OverlayPictures, save_curves, save_overlay


@pytest.mark.parametrize(
    ("draw", "axes"),
    [
        (
            lambda path: save_overlay(np.random.rand(6, 5, 4), (1, 1, 1), {"label": np.ones((6, 5, 4), int)}, path),
            [0, 1, 2],
        ),
        (lambda path: save_overlay(np.random.rand(6, 1, 4), (1, 1, 1), {"label": np.ones((6, 1, 4), int)}, path), [1]),
    ],
    ids=["overlay", "coronal image"],
)
def test_the_patients_right_is_on_the_left_and_the_front_or_the_head_up(tmp_path, monkeypatch, draw, axes):
    figures = []
    monkeypatch.setattr("common.training.pictures.save_figure", lambda figure, path: figures.append(figure))
    draw(tmp_path / "picture.png")
    assert_seen_as_by_a_radiologist(figures[0], axes)


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


@pytest.mark.parametrize(
    ("modality", "title"),
    [([""], "case"), (["CT"], "case"), (["CT", "PET"], "case, CT"), (["", "PET"], "case, channel 0")],
)
def test_of_several_channels_the_first_is_drawn_and_named(tmp_path, write_scan, monkeypatch, modality, title):
    drawn = []
    save = "common.training.pictures.save_overlay"
    monkeypatch.setattr(save, lambda *arguments, **options: drawn.append((arguments[0], options["title"])))
    volumes = [np.full((9, 8, 7), channel, np.float32) for channel in range(len(modality))]
    files = [write_scan(f"case_{channel:04d}.nii.gz", volume) for channel, volume in enumerate(volumes)]
    whole = write_scan("case.nii.gz", np.stack(volumes, axis=-1))
    for path in (files[0], whole):
        pred = MetaTensor(torch.zeros(1, 9, 8, 7), torch.eye(4), meta={"filename_or_obj": path, "case_id": "case"})
        engine = Engine(lambda engine, batch: batch)
        OverlayPictures(tmp_path, modality=modality).attach(engine)
        engine.run([[{"pred": pred}]])
        image, shown = drawn[-1]
        assert image.shape == (9, 8, 7) and not image.any() and shown == title


def test_a_row_of_voxels_is_drawn_without_its_outlines(tmp_path):
    """matplotlib draws no contour of a single row, and the segmentation was written but not the report."""
    row = np.ones((1, 1, 8))
    save_overlay(row, (1.0, 1.0, 1.0), {"prediction": row}, tmp_path / "row.png")
    assert (tmp_path / "row.png").stat().st_size > 0
