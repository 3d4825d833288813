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
from common.training import OutputPicture, save_figure, show_slice

from .autoencoder import WTAAutoencoders
from .multi_task import MultiTaskFNet

__all__ = ["KernelPicture", "ReconstructionPicture", "save_kernels", "save_reconstructions"]


class KernelPicture:
    """Picture of the kernels of the first convolution of every level and, of autoencoders, those of the decoder.

    Args:
        path: PNG file, written at the end.
        network: `FNet`, `WTAAutoencoders` or `MultiTaskFNet`.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network

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
        kernels = {f"level {level}\nencoder": pathway[0].conv.weight[:, 0] for level, pathway in enumerate(pathways)}
        for level, autoencoder in autoencoders.items():
            kernels[f"level {level}\ndecoder"] = autoencoder.decoder.weight[:, 0]
        save_kernels(kernels, self.path)


class ReconstructionPicture(OutputPicture):
    """Picture of the last minibatch's patches and their reconstructions.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        original: name of the patches, a list with one tensor for each level, in the trainer's output.
        reconstruction: name of their reconstructions.
        levels: the level of each entry of the lists; counted from 0 if not given.
    """

    def __init__(
        self,
        path: str | Path,
        interval: int = 10,
        original: str = "label",
        reconstruction: str = "pred",
        levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(path, interval)
        self.original = original
        self.reconstruction = reconstruction
        self.levels = levels

    def _save(self, output: Mapping[str, Any]) -> None:
        save_reconstructions(output[self.original], output[self.reconstruction], self.path, self.levels)


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
) -> None:
    """Draw the middle axial slice of patches above that of their reconstructions, on the same gray scale.

    Args:
        originals: one tensor of shape `(B, C, H, W, D)`, in RAS orientation, for each level; two patches are drawn,
            those with the highest contrast.
        reconstructions: tensors of the same shapes.
        path: PNG file.
        levels: the level of each tensor; counted from 0 if not given.
    """
    levels = range(len(originals)) if levels is None else levels
    contrast = originals[0].detach().float().flatten(1).std(dim=1)
    pairs = [
        (original[sample, 0], reconstruction[sample, 0], f"level {level}")
        for level, original, reconstruction in zip(levels, originals, reconstructions, strict=True)
        for sample in contrast.argsort(descending=True)[:2].tolist()
    ]
    figure = Figure(figsize=(1.7 * len(pairs), 3.7), layout="constrained")
    for column, (original, reconstruction, title) in zip(
        figure.subplots(2, len(pairs), squeeze=False).T, pairs, strict=True
    ):
        low, high = float(original.min()), float(original.max())
        for axes, patch, name in zip(column, (original, reconstruction), ("original", "reconstruction"), strict=True):
            middle = patch.detach().float().cpu()[:, :, patch.shape[-1] // 2]
            show_slice(axes, middle, low, high)
            axes.set_title(f"{title}\n{name}", fontsize=7)
            axes.set_axis_off()
    save_figure(figure, path)
