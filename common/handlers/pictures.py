"""Pictures made while a network trains or is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, LoadImage, Orientation
from torch import nn

from common.atlas import PlanarAtlas
from common.networks import MultiTaskFNet, WTAAutoencoders
from common.transforms import LAYERS, EnsureVolume, displacement_heatmap
from common.utils import is_main_process
from common.visualize import (
    save_cube_pairs,
    save_embedding,
    save_kernels,
    save_layers,
    save_overlay,
    save_reconstructions,
    save_restorations,
    save_slab_pairs,
)

__all__ = [
    "EmbeddingPicture",
    "KernelPicture",
    "LayerPicture",
    "OverlayPictures",
    "PairPicture",
    "ReconstructionPicture",
    "RestorationPicture",
    "SimulationPicture",
]


class KernelPicture:
    """Draw the kernels of the first convolution of every level and, of autoencoders, those of the decoder.

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
            pathways: list[Any] = [autoencoder.encoder for autoencoder in network.levels]
        elif isinstance(network, MultiTaskFNet):
            autoencoders = dict(zip(network.levels, network.autoencoders, strict=True))
            pathways = list(network.fnet.extraction)
        else:
            pathways = list(network.extraction)
        kernels = {f"level {level}\nencoder": pathway[0].conv.weight[:, 0] for level, pathway in enumerate(pathways)}
        for level, autoencoder in autoencoders.items():
            kernels[f"level {level}\ndecoder"] = autoencoder.decoder.weight[:, 0]
        save_kernels(kernels, self.path)


class _OutputPicture:
    """Draw the trainer's output for the last minibatch of every `interval` epochs, and of the last one."""

    def __init__(self, path: str | Path, interval: int = 10) -> None:
        self.path = Path(path)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        if engine.state.output is not None:
            self._save(engine.state.output)

    def _save(self, output: Mapping[str, Any]) -> None:
        raise NotImplementedError


class ReconstructionPicture(_OutputPicture):
    """Draw the last minibatch's patches and their reconstructions.

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


class RestorationPicture(_OutputPicture):
    """Draw images of the last minibatch, with what was corrupted and what the network restored.

    They are `label`, `image` and `pred` in the trainer's output, each of shape `(B, C, H, W)`.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        axis: of the volumes, to which the images are perpendicular; see `SliceDataset`.
    """

    def __init__(self, path: str | Path, interval: int = 10, axis: int = 2) -> None:
        super().__init__(path, interval)
        self.axis = axis

    def _save(self, output: Mapping[str, Any]) -> None:
        save_restorations(output["label"], output["image"], output["pred"], self.path, self.axis)


class LayerPicture(_OutputPicture):
    """Draw scans of the last minibatch with their simulated layers and the predicted ones.

    The trainer's output has `label` as `RandTumorLayers` and `pred` as `LayerUNet` return them.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
    """

    def _save(self, output: Mapping[str, Any]) -> None:
        if output["pred"].shape[1] == 3 and output["label"].ndim == 5:  # other tasks have other pictures
            save_layers(output["label"], output["pred"], self.path)


class SimulationPicture:
    """Draw three planes through the first scan with a simulated tumor, when a training begins.

    The trainer's output has `label` as `RandTumorLayers` returns it, and its batch the `spacing`, as that of
    `PatchLoader`. Of other tasks, nothing is drawn.

    Args:
        path: PNG file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_drawn = False

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        layers, batch = engine.state.output["label"], engine.state.batch
        if self.is_drawn or layers.ndim != 5 or layers.shape[1] != len(LAYERS):
            return
        masks, images = (layers[:, LAYERS.index(name)].cpu().numpy() for name in ("mask", "image"))
        for mask, image, spacing in zip(masks, images, batch.get("normal", batch)["spacing"].tolist(), strict=False):
            if (mask > 0.5).any():
                segmentations = {"simulated tumor": (mask > 0.5).astype(np.uint8)}
                save_overlay(image, spacing, segmentations, self.path, labels={1: "tumor"})
                self.is_drawn = True
                return


class PairPicture(_OutputPicture):
    """Draw pairs of patches of the last minibatch, where the second one lies, and where the network puts it.

    The trainer's output has `image`, `label` and `pred` as `RandSlabPair` and `TriplanarPretext`, or `RandCubePair` and
    `SiameseNetwork`, return them.

    Args:
        path: PNG file.
        interval: epochs between two drawings; the last epoch is always drawn.
        axes: normal axes of the slabs.
    """

    def __init__(self, path: str | Path, interval: int = 10, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__(path, interval)
        self.axes = tuple(axes)

    def _save(self, output: Mapping[str, Any]) -> None:
        image, label, pred = (output[name].detach().float().cpu() for name in ("image", "label", "pred"))
        if label.ndim == 1:
            save_cube_pairs(image, label.long(), pred.argmax(1), self.path)
            return
        if label.ndim == 3:  # displacements
            label, pred = displacement_heatmap(label), displacement_heatmap(pred)
        save_slab_pairs(image, label, pred, self.path, self.axes)


class EmbeddingPicture:
    """Draw the descriptors of an atlas along their first two principal components, colored by class.

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


class OverlayPictures:
    """Draw the segmentation of each case over its scan, beside the label where there is one.

    The picture has the name of the scan's file, with `_overlay` when that is a PNG itself. The processes of a
    distributed run draw their own cases, and together those that one process would.

    Args:
        save_dir: folder for the PNG files.
        labels: names of the labels.
        window: lowest and highest intensity shown.
        max_cases: cases to draw, the first ones.
    """

    def __init__(
        self,
        save_dir: str | Path,
        labels: Mapping[int, str] | None = None,
        window: tuple[float, float] | None = None,
        max_cases: int = 1000,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.labels = labels
        self.window = window
        self.max_cases = max_cases
        self.remaining = 0
        self._reorient = Orientation(axcodes="RAS", labels=None)
        self._load = Compose([LoadImage(image_only=True, ensure_channel_first=True), EnsureVolume(), self._reorient])

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        numbers = idist.all_gather(engine.state.epoch_length)  # of the cases of each process
        self.remaining = self.max_cases - sum(numbers[: idist.get_rank()])

    def _draw(self, engine: Engine) -> None:
        for output in engine.state.output:
            if self.remaining <= 0:
                return
            self.remaining -= 1
            source = output["pred"].meta["filename_or_obj"]
            name = Path(source).name.split(".")[0]
            suffix = "_overlay.png" if source.lower().endswith(".png") else ".png"
            image = self._load(source)
            segmentations = {"segmentation": self._label_map(output["pred"])}
            if isinstance(output.get("label"), torch.Tensor):
                segmentations["label"] = self._label_map(output["label"])
            save_overlay(
                image[0].numpy(),
                image.pixdim.tolist(),
                segmentations,
                self.save_dir / f"{name}{suffix}",
                self.window,
                self.labels,
                name,
            )

    def _label_map(self, output: Any) -> np.ndarray:
        """Return the label map in RAS orientation, from one or from its one-hot form."""
        label_map = output.argmax(0, keepdim=True) if output.shape[0] > 1 else output
        return self._reorient(label_map.cpu())[0].numpy().astype(int)
