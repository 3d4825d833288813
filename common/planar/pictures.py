"""Pictures of the pretext tasks, of pairs and what is predicted from them, and of the descriptors of an atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from common.data import is_main_process, label_color
from common.training import PLANES, OutputPicture, channel_names, save_figure, show_slice

from .atlas import PlanarAtlas
from .networks import PlanarDescriptor
from .slabs import displacement_heatmap

__all__ = ["CubePicture", "EmbeddingPicture", "SlabPicture"]

_NUM_SLABS = 2  # pairs to draw of each normal axis

_NUM_CUBES = 4  # pairs to draw

_NUM_POINTS = 1000  # to draw of each class, about


class SlabPicture(OutputPicture):
    """Picture of pairs of slabs of the last minibatch: where the second one lies, and where the network puts it.

    The trainer's output has `image`, `label` and `pred` as `RandSlabPair` and `TriplanarPretext` return them. The
    middle planes are drawn of the first channel of the pairs with the highest contrast, beside the heatmaps, which
    extend over the field of view.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        target: what is predicted, `heatmap` or `displacement`.
        modality: name of each channel of a scan; where there are several, the title has the first one.
    """

    def __init__(
        self, path: str | Path, interval: int = 10, target: str = "heatmap", modality: Sequence[str] = ("",)
    ) -> None:
        super().__init__(path, interval)
        self.target = target
        self.channel = channel_names(modality)[0]

    def _save(self, output: Mapping[str, Any]) -> None:
        image, label, pred = (output[name].detach().float().cpu() for name in ("image", "label", "pred"))
        if self.target == "displacement":
            label, pred = displacement_heatmap(label), displacement_heatmap(pred)
        middle = image[:, :, :, PlanarDescriptor.num_planes // 2]
        contrast = middle.flatten(3).std(dim=3).amin(dim=2)
        chosen = contrast.argsort(dim=0, descending=True)[:_NUM_SLABS].T.tolist()
        rows = [(sample, axis) for axis, samples in enumerate(chosen) for sample in samples]
        titles = ("first slab", "second slab", "target", "prediction")
        figure = Figure(figsize=(8, 2.1 * len(rows)), layout="constrained")
        for (sample, axis), row in zip(rows, figure.subplots(len(rows), 4, squeeze=False), strict=True):
            slabs = middle[sample, axis]
            heat = label[sample, axis, 0], pred[sample, axis, 0]
            limits = [(float(slabs.min()), float(slabs.max()))] * 2 + [(0.0, float(heat[0].max()))] * 2
            for panel, picture, (low, high), title in zip(row, (*slabs, *heat), limits, titles, strict=True):
                show_slice(panel, picture, low, high, axis)
                panel.set_title(f"{title}, {list(PLANES)[axis]}", fontsize=8)
                panel.set_axis_off()
        figure.suptitle(self.channel, fontsize=10)
        save_figure(figure, self.path)


class CubePicture(OutputPicture):
    """Picture of pairs of cubes of the last minibatch: on which side the second one lies, and where it is put.

    The trainer's output has `image`, `label` and `pred` as `RandCubePair` and `SiameseNetwork` return them. The middle
    axial slices are drawn of the first channel of the pairs with the highest contrast.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        modality: see `SlabPicture`.
    """

    def __init__(self, path: str | Path, interval: int = 10, modality: Sequence[str] = ("",)) -> None:
        super().__init__(path, interval)
        self.channel = channel_names(modality)[0]

    def _save(self, output: Mapping[str, Any]) -> None:
        image, label, pred = (output[name].detach().float().cpu() for name in ("image", "label", "pred"))
        sides = ("right", "left", "front", "back", "above", "below")
        targets, predictions = label.long(), pred.argmax(1)
        first = image[:, :, 0]
        contrast = first.flatten(2).std(dim=2).amin(dim=1)
        chosen = contrast.argsort(descending=True)[:_NUM_CUBES].tolist()
        figure = Figure(figsize=(4.4, 2.3 * len(chosen)), layout="constrained")
        for sample, row in zip(chosen, figure.subplots(len(chosen), 2, squeeze=False), strict=True):
            titles = ("first cube", f"{sides[targets[sample]]}, predicted {sides[predictions[sample]]}")
            cubes = first[sample]
            for panel, cube, title in zip(row, cubes, titles, strict=True):
                show_slice(panel, cube[:, :, cube.shape[2] // 2], float(cubes.min()), float(cubes.max()))
                panel.set_title(title, fontsize=8)
                panel.set_axis_off()
        figure.suptitle(self.channel, fontsize=10)
        save_figure(figure, self.path)


class EmbeddingPicture:
    """Scatter plot of the descriptors of an atlas, along their first two principal components and colored by class.

    The background is gray and lies behind the others. Of each class, about 1000 evenly chosen voxels are drawn.

    Args:
        path: PNG file, written at the end.
        network: `PlanarAtlas`.
        labels: names of the classes, for the legend.
    """

    def __init__(self, path: str | Path, network: PlanarAtlas, labels: Mapping[int, str] | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.labels = labels or {}

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        is_voter = self.network.is_voter.cpu()
        centered = self.network.descriptors.cpu()[is_voter].double()
        centered = centered - centered.mean(dim=0)
        variances, directions = torch.linalg.eigh(centered.T @ centered)
        places = (centered @ directions.flip(1)[:, :2]).numpy()
        shares = (variances.flip(0) / variances.sum().clamp(min=1e-12)).tolist()
        classes = self.network.labels.cpu()[is_voter].numpy()
        figure = Figure(figsize=(6, 5), layout="constrained")
        panel = figure.subplots()
        for value in np.unique(classes).tolist():
            own = places[classes == value]
            own = own[:: max(len(own) // _NUM_POINTS, 1)]
            color = "lightgray" if value == 0 else [part / 255 for part in label_color(value)]
            name = self.labels.get(value, f"label {value}")
            panel.scatter(own[:, 0], own[:, 1], s=4, color=color, label=name, linewidths=0)
        panel.set(xlabel=f"first component ({shares[0]:.0%})", ylabel=f"second component ({shares[1]:.0%})")
        panel.legend(fontsize=8, markerscale=3)
        save_figure(figure, self.path)
