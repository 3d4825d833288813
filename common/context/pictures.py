"""Pictures of restorations: images, what was corrupted of them, and what a network restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from common.training import OutputPicture, channel_names, save_figure, show_slice

__all__ = ["RestorationPicture", "save_restorations"]


class RestorationPicture(OutputPicture):
    """Picture of images of the last minibatch, with what was corrupted and what the network restored.

    They are `label`, `image` and `pred` in the trainer's output, each of shape `(B, C, H, W)`. The first channel is
    drawn, which is the first window of a CT; of scans with several channels, the title names it.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        axis: of the volumes, to which the images are perpendicular; see `SliceDataset`.
        modality: name of each channel of a scan.
    """

    def __init__(self, path: str | Path, interval: int = 10, axis: int = 2, modality: Sequence[str] = ("",)) -> None:
        super().__init__(path, interval)
        self.axis = axis
        self.channel = channel_names(modality)[0]

    def _save(self, output: Mapping[str, Any]) -> None:
        save_restorations(output["label"], output["image"], output["pred"], self.path, self.axis, self.channel)


def save_restorations(
    originals: torch.Tensor,
    corrupted: torch.Tensor,
    restored: torch.Tensor,
    path: str | Path,
    axis: int = 2,
    channel: str = "",
) -> None:
    """Draw images, what was made of them, and what a network made of that, side by side on the same gray scale.

    Args:
        originals: of shape `(B, C, H, W)`; drawn is the first channel of the four images with the highest contrast.
        corrupted: input of the network, of the same shape.
        restored: its output, of the same shape.
        path: PNG file.
        axis: of the RAS volumes, to which the images are perpendicular.
        channel: name of the first channel, for the titles.
    """
    originals = originals.detach()
    contrast = originals[:, 0].float().flatten(1).std(dim=1)
    chosen = contrast.argsort(descending=True)[:4].tolist()
    figure = Figure(figsize=(7.5, 2.5 * len(chosen) + 0.3), layout="constrained")
    columns = {"original": originals, "corrupted": corrupted, "restored": restored}
    for index, row in zip(chosen, figure.subplots(len(chosen), 3, squeeze=False), strict=True):
        low, high = float(originals[index, 0].min()), float(originals[index, 0].max())
        for axes, (title, images) in zip(row, columns.items(), strict=True):
            show_slice(axes, images[index, 0].detach().float().cpu(), low, high, axis)
            axes.set_title(f"{title}, {channel}" if channel else title, fontsize=9)
            axes.set_axis_off()
    save_figure(figure, path)
