"""Pictures of a layer decomposition: the simulated tumors, and what a network takes scans apart into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.data import MetaTensor

from common.data import is_main_process
from common.training import OutputPicture, channel_names, save_figure, save_overlay, show_slice

from .simulation import split_layers

__all__ = ["LayerPicture", "SimulationPicture"]

_MAX_SCANS = 4


class LayerPicture(OutputPicture):
    """Picture of scans with simulated tumors, and of what a network took them apart into, one row each.

    It shows the last minibatch, and of each scan the axial slice that has most of the true and the predicted mask. The
    trainer's output has `label` as `RandTumorLayers`, from volumes in RAS orientation, and `pred` as `LayerUNet` return
    them. The mask of real scans is negative: there is no truth to draw. Of several channels, the first is drawn.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        modality: name of each channel of a scan; where there are several, the title has the first one.
    """

    def __init__(self, path: str | Path, interval: int = 10, modality: Sequence[str] = ("",)) -> None:
        super().__init__(path, interval)
        self.channel = channel_names(modality)[0]

    def _save(self, output: Mapping[str, Any]) -> None:
        target, pred = (output[key][:_MAX_SCANS].detach().float().cpu() for key in ("label", "pred"))
        true = split_layers(target)
        masks = pred[:, -1].sigmoid()
        tumors = pred[:, true.tumor.shape[1]]
        titles = ("scan", "true organ", "organ", "true tumor", "tumor", "mask")
        figure = Figure(figsize=(1.9 * len(titles), 2.1 * len(target)), layout="constrained")
        for index, row in enumerate(figure.subplots(len(target), len(titles), squeeze=False)):
            organ, tumor, mask, image = (layer[index, 0] for layer in (true.organ, true.tumor, true.mask, true.image))
            outlines = {"tab:green": mask > 0.5, "tab:red": masks[index] > 0.5}
            middle = int(sum(outline.float().sum((0, 1)) for outline in outlines.values()).argmax())
            high = float(image[:, :, middle].max())
            panels = (image, organ, pred[index, 0], tumor, tumors[index], masks[index])
            for panel, layer, title in zip(row, panels, titles, strict=True):
                show_slice(panel, layer[:, :, middle], 0.0, 1.0 if title == "mask" else high)
                for color, outline in outlines.items() if title in ("scan", "mask") else ():
                    inside = outline[:, :, middle].T
                    if inside.any():
                        panel.contour(inside, levels=[0.5], colors=[color], linewidths=0.8)
                panel.set_title(title, fontsize=8)
                panel.set_axis_off()
        legend = "green: simulated mask, red: predicted mask"
        figure.suptitle(f"{self.channel}; {legend}" if self.channel else legend, fontsize=8)
        save_figure(figure, self.path)


class SimulationPicture:
    """Picture of the first scan with a simulated tumor, three planes through it, when a training begins.

    The trainer's output has `label` as `RandTumorLayers` returns it, and its batch is one of `LayerDecomposition`. Of
    several channels, the first is drawn, and named in the title.

    Args:
        path: PNG file.
        modality: name of each channel of a scan.
    """

    def __init__(self, path: str | Path, modality: Sequence[str] = ("",)) -> None:
        self.path = Path(path)
        self.channel = channel_names(modality)[0]
        self.is_drawn = False

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        if self.is_drawn:
            return
        layers, batch = split_layers(engine.state.output["label"]), engine.state.batch
        masks, images = (layer[:, 0].cpu().numpy() for layer in (layers.mask, layers.image))
        for mask, image, spacing in zip(masks, images, batch.get("normal", batch)["spacing"].tolist(), strict=False):
            if (mask > 0.5).any():
                volume = MetaTensor(image[None], affine=np.diag([*spacing, 1.0]))
                segmentations = {"simulated tumor": torch.as_tensor(mask[None] > 0.5)}
                names = {1: "tumor"}
                save_overlay(volume, segmentations, self.path, labels=names, title=self.channel, has_origin=False)
                self.is_drawn = True
                return
