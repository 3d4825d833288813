"""Laws of the pictures of kernels and reconstructions."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from picture_checks import assert_drawn_every_second_epoch_and_at_the_end, assert_seen_as_by_a_radiologist, is_picture

from common.fnet import FNet, KernelPicture, MultiTaskFNet, ReconstructionPicture, WTAAutoencoders
from common.fnet.pictures import save_kernels, save_reconstructions


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
    path, patches = tmp_path / "reconstructions.png", [torch.randn(3, 1, 6, 6, 6), torch.zeros(3, 1, 4, 4, 4)]
    output = {"label": patches, "pred": patches}
    assert_drawn_every_second_epoch_and_at_the_end(ReconstructionPicture(path, interval=2), path, output)


def test_reconstructions_are_found_by_name_and_drawn_with_their_levels(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.fnet.pictures.save_reconstructions", lambda *arguments: drawn.append(arguments))
    output = {"label": 0, "pred": 1, "original": 2, "reconstruction": 3}
    engine = Engine(lambda engine, batch: output)
    ReconstructionPicture(tmp_path, 1, "original", "reconstruction", (1, 2)).attach(engine)
    engine.run([0])
    assert drawn[0] == (2, 3, tmp_path, (1, 2), ("",))


@pytest.mark.parametrize(
    ("draw", "axes"),
    [
        (lambda path: save_reconstructions([torch.rand(1, 1, 6, 5, 4)], [torch.rand(1, 1, 6, 5, 4)], path), [2, 2]),
        (lambda path: save_kernels({"level 0": torch.randn(1, 3, 3, 3)}, path), [2]),
    ],
    ids=["reconstructions", "kernels"],
)
def test_the_patients_right_is_on_the_left_and_the_front_or_the_head_up(tmp_path, monkeypatch, draw, axes):
    figures = []
    monkeypatch.setattr("common.fnet.pictures.save_figure", lambda figure, path: figures.append(figure))
    draw(tmp_path / "picture.png")
    assert_seen_as_by_a_radiologist(figures[0], axes)


def test_each_channel_has_a_row_of_kernels_and_of_reconstructions(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("common.fnet.pictures.save_figure", lambda figure, path: figures.append(figure))
    network, modality = WTAAutoencoders(2, (2, 3), 3), ["CT", ""]
    originals = [torch.rand(2, 2, 6, 5, 4), torch.rand(2, 2, 3, 3, 3)]
    reconstructions = [-patch for patch in originals]
    engine = Engine(lambda engine, batch: {"label": originals, "pred": reconstructions})
    KernelPicture(tmp_path / "kernels.png", network, modality).attach(engine)
    ReconstructionPicture(tmp_path / "reconstructions.png", modality=modality).attach(engine)
    engine.run([0])
    kernels, patches = figures
    rows = [axes.texts[0].get_text() for axes in kernels.axes if axes.texts]
    assert rows == [
        f"level {level}\n{part}\n{name}"
        for part in ("encoder", "decoder")
        for level in (0, 1)
        for name in ("CT", "channel 1")
    ]
    first = torch.as_tensor(kernels.axes[len(kernels.axes) // len(rows)].images[0].get_array())  # of the second row
    torch.testing.assert_close(first, network.levels[0].encoder[0].conv.weight[0, 1, :, :, 1].detach().T)
    titles = [axes.get_title().split("\n")[1] for axes in patches.axes[::4]]
    assert titles == ["CT original", "CT reconstruction", "channel 1 original", "channel 1 reconstruction"]
    assert len(patches.axes) == 4 * 4 and all(axes.images for axes in patches.axes)
