"""Laws of the pictures of layers."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from picture_checks import assert_drawn_every_second_epoch_and_at_the_end, assert_seen_as_by_a_radiologist, is_picture

from common.layers import LayerPicture, SimulationPicture


def make_layers(batch_size=2):
    """Return layers of which the true mask is largest in slice 3, and predictions with a mask in slice 3, too."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(batch_size, 5, 8, 7, 6, generator=generator)
    target[:, 2] = 0
    target[:, 2, 2:5, 2:5, 3] = 1
    pred = torch.rand(batch_size, 3, 8, 7, 6, generator=generator, requires_grad=True)
    return target, pred - torch.tensor([0.0, 0, 9]).view(1, 3, 1, 1, 1) * (target[:, 2:3] == 0)


def draw(path, target, pred, epochs=1):
    engine = Engine(lambda engine, batch: {"label": target, "pred": pred})
    LayerPicture(path, interval=2).attach(engine)
    engine.run([0], max_epochs=epochs)


def test_layers_are_drawn_in_between_and_at_the_end(tmp_path):
    path, (target, pred) = tmp_path / "new" / "layers.png", make_layers()
    output = {"label": target, "pred": pred}
    assert_drawn_every_second_epoch_and_at_the_end(LayerPicture(path, interval=2), path, output)


def test_the_slice_is_the_one_with_most_of_the_masks_on_the_scans_gray_scale(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append((image, options)))
    monkeypatch.setattr("matplotlib.axes.Axes.contour", lambda *values, **options: None)
    target, pred = make_layers()
    draw(tmp_path / "layers.png", target, pred)
    for index in range(2):
        high = target[index, 4, :, :, 3].max().item()
        layers = (target[index, 4], target[index, 0], pred[index, 0], target[index, 1], pred[index, 1])
        shown = drawn[6 * index : 6 * index + 6]
        for (image, options), layer in zip(shown, (*layers, pred[index, 2].sigmoid()), strict=True):
            assert torch.equal(image, layer[:, :, 3].detach().T)
            assert options["vmin"] == 0
        assert [options["vmax"] for _, options in shown] == [high] * 5 + [1.0]
    assert len(drawn) == 12
    drawn.clear()
    draw(tmp_path / "layers.png", *make_layers(batch_size=5))
    assert len(drawn) == 24, "four scans at most"


def test_the_patients_right_is_on_the_left_and_the_front_up(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("common.layers.pictures.save_figure", lambda figure, path: figures.append(figure))
    draw(tmp_path / "layers.png", *make_layers())
    assert_seen_as_by_a_radiologist(figures[0], 12 * [2])


def test_real_scans_and_empty_masks_are_drawn(tmp_path):
    target, pred = make_layers()
    target[0, 2], target[1, 2] = -1, 0
    draw(tmp_path / "real.png", target, pred * 0 - 1)
    assert is_picture(tmp_path / "real.png")


@pytest.mark.parametrize("stream", [None, "normal"])
def test_the_first_simulated_tumor_of_a_training_is_drawn_once(stream, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("common.layers.pictures.save_overlay", lambda *args, **options: drawn.append(args))
    target, _ = make_layers()
    target[0, 2] = 0
    target = torch.cat((target, target[:1].clone().index_fill_(1, torch.tensor(2), -1)))  # a real scan
    minibatch = {"spacing": torch.tensor([[1.0, 1, 1], [1.0, 2, 3]])}
    labels = [target[[0, 2]], target, target]  # no tumor at first
    engine = Engine(lambda engine, batch: {"label": labels[engine.state.iteration - 1]})
    SimulationPicture(tmp_path / "simulation.png").attach(engine)
    engine.run([minibatch if stream is None else {stream: minibatch}] * 3)
    ((image, segmentations, path),) = drawn
    assert torch.equal(image[0].as_tensor(), target[1, 4]) and path == tmp_path / "simulation.png"
    assert image.pixdim.tolist() == [1, 2, 3]
    assert torch.equal(segmentations["simulated tumor"][0], target[1, 2] > 0.5)


def test_the_first_of_several_channels_is_drawn_and_named(tmp_path, monkeypatch):
    drawn, titles, overlays = [], [], []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(image))
    monkeypatch.setattr("matplotlib.axes.Axes.contour", lambda *values, **options: None)
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda figure, title, **options: titles.append(title))
    monkeypatch.setattr(
        "common.layers.pictures.save_overlay", lambda *args, **options: overlays.append((args, options))
    )
    target, pred = make_layers()
    noise = torch.rand(2, 1, 8, 7, 6)
    outputs = [
        {"label": target, "pred": pred},
        {
            "label": torch.cat((target[:, :1], noise, target[:, 1:2], noise, target[:, 2:], noise), dim=1),
            "pred": torch.cat((pred[:, :1], noise, pred[:, 1:2], noise, pred[:, 2:]), dim=1),
        },
    ]
    for output, modality in zip(outputs, (["FLAIR"], ["FLAIR", "T1w"]), strict=True):
        engine = Engine(lambda engine, batch, output=output: output)
        LayerPicture(tmp_path / "layers.png", modality=modality).attach(engine)
        SimulationPicture(tmp_path / "simulation.png", modality=modality).attach(engine)
        engine.run([{"spacing": torch.ones(2, 3)}])
    assert len(drawn) == 24 and all(map(torch.equal, drawn[:12], drawn[12:]))
    assert titles[1] == f"FLAIR; {titles[0]}"
    assert [options["title"] for _, options in overlays] == ["", "FLAIR"]
    assert (overlays[0][0][0] == overlays[1][0][0]).all()
