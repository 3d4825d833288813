"""Pictures of the kernels and the reconstructions of F-Net and its autoencoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from torch import nn

from common.data import is_main_process
from common.training import OutputPicture, channel_names, save_figure, show_slice

from .autoencoder import WTAAutoencoders
from .multi_task import MultiTaskFNet

__all__ = ["KernelPicture", "ReconstructionPicture", "save_kernels", "save_reconstructions"]


class KernelPicture:
    """Picture of the kernels of the first convolution of every level and, of autoencoders, those of the decoder.

    Each channel of the images has a row of its own.

    Args:
        path: PNG file, written at the end.
        network: `FNet`, `WTAAutoencoders` or `MultiTaskFNet`.
        modality: name of each channel of an image.
    """

    def __init__(self, path: str | Path, network: nn.Module, modality: Sequence[str] = ("",)) -> None:
        self.path = Path(path)
        self.network = network
        self.channels = channel_names(modality)

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        network: Any = getattr(self.network, "module", self.network)
        autoencoders: dict[int, Any] = {}
        if isinstance(network, WTAAutoencoders):
            autoencoders = dict(enumerate(network.levels))
            pathways: Any = [autoencoder.encoder for autoencoder in network.levels]
        elif isinstance(network, MultiTaskFNet):
            autoencoders = dict(zip(network.levels, network.autoencoders, strict=True))
            pathways = network.fnet.extraction
        else:
            pathways = network.extraction
        weights = {f"level {level}\nencoder": pathway[0].conv.weight for level, pathway in enumerate(pathways)}
        for level, autoencoder in autoencoders.items():
            weights[f"level {level}\ndecoder"] = autoencoder.decoder.weight
        kernels = {
            f"{title}\n{name}".strip(): weight[:, channel]
            for title, weight in weights.items()
            for channel, name in enumerate(self.channels)
        }
        save_kernels(kernels, self.path)


class ReconstructionPicture(OutputPicture):
    """Picture of the last minibatch's patches and their reconstructions.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        original: name of the patches, a list with one tensor for each level, in the trainer's output.
        reconstruction: name of their reconstructions.
        levels: the level of each entry of the lists; counted from 0 if not given.
        modality: name of each channel of an image.
    """

    def __init__(
        self,
        path: str | Path,
        interval: int = 10,
        original: str = "label",
        reconstruction: str = "pred",
        levels: Sequence[int] | None = None,
        modality: Sequence[str] = ("",),
    ) -> None:
        super().__init__(path, interval)
        self.original = original
        self.reconstruction = reconstruction
        self.levels = levels
        self.modality = modality

    def _save(self, output: Mapping[str, Any]) -> None:
        save_reconstructions(output[self.original], output[self.reconstruction], self.path, self.levels, self.modality)


def save_kernels(kernels: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Draw the middle axial slice of convolution kernels, one row for each set, each kernel on its own gray scale.

    Args:
        kernels: by title, tensors of shape `(N, k, k, k)`, of which up to 32 are drawn.
        path: PNG file.
    """
    columns = min(32, max(len(group) for group in kernels.values()))
    figure = Figure(figsize=(0.45 * columns + 1.2, 0.55 * len(kernels) + 0.3), layout="constrained")
    grid = figure.subplots(len(kernels), columns, squeeze=False)
    for row, (title, group) in zip(grid, kernels.items(), strict=True):
        for axes, kernel in zip(row, group.detach().float().cpu(), strict=False):
            reach = float(kernel.abs().max()) or 1.0  # zero is mid-gray
            show_slice(axes, kernel[:, :, kernel.shape[-1] // 2], -reach, reach)
        for axes in row:
            axes.set_axis_off()
        row[0].text(-0.15, 0.5, title, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    save_figure(figure, path)


def save_reconstructions(
    originals: Sequence[torch.Tensor],
    reconstructions: Sequence[torch.Tensor],
    path: str | Path,
    levels: Sequence[int] | None = None,
    modality: Sequence[str] = ("",),
) -> None:
    """Draw the middle axial slice of patches above that of their reconstructions, on the same gray scale.

    Several channels are drawn one below the other.

    Args:
        originals: one tensor of shape `(B, C, H, W, D)`, in RAS orientation, for each level; two patches are drawn,
            those with the highest contrast.
        reconstructions: tensors of the same shapes.
        path: PNG file.
        levels: the level of each tensor; counted from 0 if not given.
        modality: name of each channel.
    """
    levels = range(len(originals)) if levels is None else levels
    contrast = originals[0].detach().float().flatten(1).std(dim=1)
    channels = channel_names(modality)
    pairs = [
        (original[sample], reconstruction[sample], f"level {level}")
        for level, original, reconstruction in zip(levels, originals, reconstructions, strict=True)
        for sample in contrast.argsort(descending=True)[:2].tolist()
    ]
    rows = 2 * len(channels)
    figure = Figure(figsize=(1.7 * len(pairs), 1.85 * rows), layout="constrained")
    for column, (original, reconstruction, title) in zip(
        figure.subplots(rows, len(pairs), squeeze=False).T, pairs, strict=True
    ):
        for row, axes in enumerate(column):
            channel, is_reconstruction = divmod(row, 2)
            low, high = float(original[channel].min()), float(original[channel].max())
            patch = (reconstruction if is_reconstruction else original)[channel].detach().float().cpu()
            show_slice(axes, patch[:, :, patch.shape[-1] // 2], low, high)
            name = f"{channels[channel]} {'reconstruction' if is_reconstruction else 'original'}".strip()
            axes.set_title(f"{title}\n{name}", fontsize=7)
            axes.set_axis_off()
    save_figure(figure, path)
