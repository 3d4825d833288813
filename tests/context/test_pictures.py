"""Laws of the pictures of restorations."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from picture_checks import assert_drawn_every_second_epoch_and_at_the_end, assert_seen_as_by_a_radiologist

from common.context import RestorationPicture
from common.context.pictures import save_restorations


def test_restorations_are_drawn_in_between_and_at_the_end(tmp_path):
    path, image = tmp_path / "new" / "restorations.png", torch.randn(5, 3, 12, 8, requires_grad=True)
    output = {"label": image, "image": 0 * image, "pred": image.bfloat16()}
    assert_drawn_every_second_epoch_and_at_the_end(RestorationPicture(path, interval=2), path, output)


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
    save_restorations(*3 * [originals.repeat(2, 1, 1, 1)], tmp_path / "restorations.png")
    assert len(drawn) == 4 * 3


@pytest.mark.parametrize("axis", [2, 1, 0], ids=["axial", "coronal", "sagittal"])
def test_the_patients_right_is_on_the_left_and_the_front_or_the_head_up(tmp_path, monkeypatch, axis):
    """Restorations were mirrored, against the previews of the same scans."""
    figures = []
    monkeypatch.setattr("common.context.pictures.save_figure", lambda figure, path: figures.append(figure))
    images = torch.rand(1, 1, 6, 5)
    engine = Engine(lambda engine, batch: {"label": images, "image": images, "pred": images})
    RestorationPicture(tmp_path / "picture.png", axis=axis).attach(engine)
    engine.run([0])
    assert_seen_as_by_a_radiologist(figures[0], 3 * [axis])


def test_of_several_channels_the_title_names_the_one_that_is_drawn(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("common.context.pictures.save_figure", lambda figure, path: figures.append(figure))
    images = torch.rand(1, 2, 6, 5)
    engine = Engine(lambda engine, batch: {"label": images, "image": images, "pred": images})
    for modality in (["CT"], ["CT", "PET"]):
        RestorationPicture(tmp_path / "picture.png", modality=modality).attach(engine)
    engine.run([0])
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures]
    assert titles == [["original", "corrupted", "restored"], ["original, CT", "corrupted, CT", "restored, CT"]]
