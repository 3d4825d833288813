"""Pictures of the pretext tasks, of pairs and what is predicted from them, and of the descriptors of an atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib import colormaps
from matplotlib.figure import Figure

from common.data import is_main_process
from common.training import PLANES, OutputPicture, save_figure, show_slice

from .atlas import PlanarAtlas
from .slabs import displacement_heatmap

__all__ = ["CubePicture", "EmbeddingPicture", "SlabPicture", "save_cube_pairs", "save_embedding", "save_slab_pairs"]


class SlabPicture(OutputPicture):
    """Picture of pairs of slabs of the last minibatch: where the second one lies, and where the network puts it.

    The trainer's output has `image`, `label` and `pred` as `RandSlabPair` and `TriplanarPretext` return them.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        target: what is predicted, `heatmap` or `displacement`.
        axes: normal axes of the slabs.
    """

    def __init__(
        self, path: str | Path, interval: int = 10, target: str = "heatmap", axes: Sequence[int] = (0, 1, 2)
    ) -> None:
        super().__init__(path, interval)
        self.target = target
        self.axes = tuple(axes)

    def _save(self, output: Mapping[str, Any]) -> None:
        image, label, pred = (output[name].detach().float().cpu() for name in ("image", "label", "pred"))
        if self.target == "displacement":
            label, pred = displacement_heatmap(label), displacement_heatmap(pred)
        save_slab_pairs(image, label, pred, self.path, self.axes)


class CubePicture(OutputPicture):
    """Picture of pairs of cubes of the last minibatch: on which side the second one lies, and where it is put.

    The trainer's output has `image`, `label` and `pred` as `RandCubePair` and `SiameseNetwork` return them.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
    """

    def _save(self, output: Mapping[str, Any]) -> None:
        image, label, pred = (output[name].detach().float().cpu() for name in ("image", "label", "pred"))
        save_cube_pairs(image, label.long(), pred.argmax(1), self.path)


class EmbeddingPicture:
    """Scatter plot of the descriptors of an atlas, along their first two principal components and colored by class.

    Args:
        path: PNG file, written at the end.
        network: `PlanarAtlas`.
        labels: names of the classes.
    """

    def __init__(self, path: str | Path, network: PlanarAtlas, labels: Mapping[int, str] | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.labels = labels

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        save_embedding(self.network.descriptors, self.network.labels, self.path, self.labels)


def save_slab_pairs(
    pairs: torch.Tensor,
    targets: torch.Tensor,
    predictions: torch.Tensor,
    path: str | Path,
    axes: Sequence[int] = (0, 1, 2),
    max_pairs: int = 2,
) -> None:
    """Draw pairs of slabs with the heatmap of where the second one lies and the predicted one, one row each.

    Args:
        pairs: tensor of shape `(B, A, 2, num_planes, H, W)`, for `A` normal axes; the middle planes are drawn, of the
            pairs with the highest contrast.
        targets: heatmaps of shape `(B, A, 1, h, w)`, which extend over the field of view.
        predictions: heatmaps of the same shape.
        path: PNG file.
        axes: normal axes, of volumes in RAS orientation.
        max_pairs: pairs to draw of each axis.
    """
    middle = pairs[:, :, :, pairs.shape[3] // 2]
    contrast = middle.flatten(3).std(dim=3).amin(dim=2)
    rows = [
        (sample, index)
        for index in range(len(axes))
        for sample in contrast[:, index].argsort(descending=True)[:max_pairs].tolist()
    ]
    titles = ("first slab", "second slab", "target", "prediction")
    figure = Figure(figsize=(8, 2.1 * len(rows)), layout="constrained")
    for (sample, index), row in zip(rows, figure.subplots(len(rows), 4, squeeze=False), strict=True):
        slabs = middle[sample, index]
        heat = targets[sample, index, 0], predictions[sample, index, 0]
        limits = [(float(slabs.min()), float(slabs.max()))] * 2 + [(0.0, float(heat[0].max()))] * 2
        for panel, image, (low, high), title in zip(row, (*slabs, *heat), limits, titles, strict=True):
            show_slice(panel, image, low, high, axes[index])
            panel.set_title(f"{title}, {list(PLANES)[axes[index]]}", fontsize=8)
            panel.set_axis_off()
    save_figure(figure, path)


def save_cube_pairs(
    pairs: torch.Tensor, targets: torch.Tensor, predictions: torch.Tensor, path: str | Path, max_pairs: int = 4
) -> None:
    """Draw the middle axial slices of pairs of cubes, and on which side the second one lies, one row each.

    Args:
        pairs: tensor of shape `(B, 2, 1, H, W, D)`, from volumes in RAS orientation; those with the highest contrast
            are drawn.
        targets: classes as in `RandCubePair`, of shape `(B,)`.
        predictions: classes of the same shape.
        path: PNG file.
        max_pairs: pairs to draw.
    """
    sides = ("right", "left", "front", "back", "above", "below")
    contrast = pairs.flatten(2).std(dim=2).amin(dim=1)
    chosen = contrast.argsort(descending=True)[:max_pairs].tolist()
    figure = Figure(figsize=(4.4, 2.3 * len(chosen)), layout="constrained")
    for sample, row in zip(chosen, figure.subplots(len(chosen), 2, squeeze=False), strict=True):
        cubes = pairs[sample, :, 0]
        titles = ("first cube", f"{sides[targets[sample]]}, predicted {sides[predictions[sample]]}")
        for panel, cube, title in zip(row, cubes, titles, strict=True):
            show_slice(panel, cube[:, :, cube.shape[2] // 2], float(cubes.min()), float(cubes.max()))
            panel.set_title(title, fontsize=8)
            panel.set_axis_off()
    save_figure(figure, path)


def save_embedding(
    descriptors: torch.Tensor,
    labels: torch.Tensor,
    path: str | Path,
    names: Mapping[int, str] | None = None,
    max_points: int = 1000,
) -> None:
    """Draw descriptors along their first two principal components, colored by class.

    Args:
        descriptors: tensor of shape `(N, F)`.
        labels: classes of shape `(N,)`; the background is gray and lies behind the others.
        path: PNG file.
        names: of the classes, for the legend.
        max_points: evenly chosen points to draw of each class.
    """
    centered = descriptors.double().cpu()
    centered = centered - centered.mean(dim=0)
    variances, directions = torch.linalg.eigh(centered.T @ centered)
    places = (centered @ directions.flip(1)[:, :2]).numpy()
    shares = (variances.flip(0) / variances.sum().clamp(min=1e-12)).tolist()
    classes = labels.cpu().numpy()
    figure = Figure(figsize=(6, 5), layout="constrained")
    panel = figure.subplots()
    for value in np.unique(classes):
        own = places[classes == value]
        own = own[:: max(len(own) // max_points, 1)]
        color = "lightgray" if value == 0 else colormaps["tab10"]((int(value) - 1) % 10)
        name = (names or {}).get(int(value), f"label {value}")
        panel.scatter(own[:, 0], own[:, 1], s=4, color=color, label=name, linewidths=0)
    panel.set(xlabel=f"first component ({shares[0]:.0%})", ylabel=f"second component ({shares[1]:.0%})")
    panel.legend(fontsize=8, markerscale=3)
    save_figure(figure, path)
