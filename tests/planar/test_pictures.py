"""Laws of the pictures of pairs and of descriptors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from picture_checks import is_picture

from common.planar import (
    CubePicture,
    EmbeddingPicture,
    GrayValueDifference,
    PlanarAtlas,
    RandCubePair,
    RandSlabPair,
    SlabPicture,
)


def draw_pairs(path, target, volume=None, **options):
    """Run a step of the pretext task `target`, on noise if no volume is given."""
    volumes = [torch.randn(1, 24, 22, 20, generator=torch.Generator().manual_seed(0)) if volume is None else volume] * 2
    pairs = RandCubePair() if target == "neighbor" else RandSlabPair(target=target)
    image, label = pairs.set_random_state(0)(volumes)
    pred = torch.eye(6)[(label + 1) % 6] if target == "neighbor" else label + 0.1
    engine = Engine(lambda engine, batch: {"image": image, "label": label, "pred": pred})
    picture = CubePicture(path, **options) if target == "neighbor" else SlabPicture(path, target=target, **options)
    picture.attach(engine)
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
    atlas = PlanarAtlas(GrayValueDifference(5))
    atlas.descriptors, atlas.labels, atlas.is_voter = descriptors, labels, torch.ones(3000, dtype=torch.bool)
    engine = Engine(lambda engine, batch: None)
    EmbeddingPicture(tmp_path / "embedding.png", atlas, {0: "background", 1: "liver"}).attach(engine)
    engine.run([0])
    assert {name: len(places) for name, places in points.items()} == {"background": 1250, "liver": 500}
    spread = np.abs(np.corrcoef(points["liver"].T, descriptors[2500:, [1, 3]].numpy().T)[:2, 2:])
    np.testing.assert_allclose(spread, np.eye(2), atol=0.1)


@pytest.mark.parametrize("target", ["heatmap", "neighbor"])
def test_the_first_of_several_channels_is_drawn_and_named(target, tmp_path, monkeypatch):
    drawn, titles = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(np.asarray(image)))
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda figure, title, **options: titles.append(title))
    first, second = torch.randn(2, 1, 24, 22, 20, generator=torch.Generator().manual_seed(0))
    draw_pairs(tmp_path / "alone.png", target, first)
    assert titles == [""]
    alone = drawn.copy()
    drawn.clear()
    draw_pairs(tmp_path / "both.png", target, torch.cat((first, 0.1 * second)), modality=["FLAIR", "T1w"])
    assert titles == ["", "FLAIR"]
    for shown, expected in zip(drawn, alone, strict=True):
        np.testing.assert_array_equal(shown, expected)
