"""Pictures of what a network has learned and of what it says, as PNG files.

Slices are seen as radiologists see them: patients face up in axial ones, and their right is on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.transforms import Orientation

from common.data import LoadVolume, case_name, is_main_process, write_atomically

__all__ = [
    "OutputPicture",
    "OverlayPictures",
    "channel_names",
    "save_curves",
    "save_figure",
    "save_overlay",
    "show_slice",
]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis of an RAS volume that a plane is perpendicular to


def save_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw losses, other metrics, gamma and learning rates against the epoch, one panel each.

    Args:
        rows: one mapping for each epoch, with `epoch` and numbers by name; `lr_...` are learning rates, `...loss`
            losses, `gamma` the weight between two losses; `seconds` is left out. A name may be missing in some epochs.
        path: PNG file.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "seconds")))
    panels: dict[str, list[str]] = {"loss": [], "metric": [], "gamma": [], "learning rate": []}
    for name in names:
        kind = "learning rate" if name.startswith("lr_") else "loss" if name.endswith("loss") else "metric"
        panels[name if name == "gamma" else kind].append(name)
    panels = {title: members for title, members in panels.items() if members}
    figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
    for axes, (title, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in members:
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) not in (None, "")]
            if title == "learning rate":  # a logarithmic axis has no zero
                points = [point for point in points if point[1] > 0]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
        axes.set(xlabel="epoch", title=title)
        if title == "learning rate":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def save_overlay(
    image: np.ndarray,
    spacing: Sequence[float],
    segmentations: Mapping[str, np.ndarray],
    path: str | Path,
    window: tuple[float, float] | None = None,
    labels: Mapping[int, str] | None = None,
    title: str = "",
) -> None:
    """Draw three planes through a segmented volume, or a 2D image, one row for each segmentation.

    The planes go through the slices on which the segmentations have most voxels.

    Args:
        image: volume of shape `(H, W, D)` in RAS orientation; one axis of a 2D image has length 1.
        spacing: edge lengths of a voxel in mm.
        segmentations: by title, label maps of the volume's shape; only values above 0 are drawn.
        path: PNG file.
        window: lowest and highest intensity shown; the 1st and 99.5th percentile if not given.
        labels: names of the labels for the legend.
    """
    low, high = np.percentile(image, (1, 99.5)) if window is None else window
    merged = np.any([segmentation > 0 for segmentation in segmentations.values()], axis=0)
    center = {
        axis: int(merged.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        if merged.any()
        else image.shape[axis] // 2
        for axis in range(3)
    }
    values = {int(value) for segmentation in segmentations.values() for value in np.unique(segmentation)}
    present = sorted(value for value in values if value > 0)
    colors = {value: colormaps["tab10"](index % 10) for index, value in enumerate(present)}
    flat = [(plane, axis) for plane, axis in PLANES.items() if image.shape[axis] == 1]
    planes = flat if len(flat) == 1 else list(PLANES.items())
    figure = Figure(figsize=(3 * len(planes) + 0.5, 3.3 * len(segmentations) + 0.4), layout="constrained")
    grid = figure.subplots(len(segmentations), len(planes), squeeze=False)
    for row, (name, segmentation) in zip(grid, segmentations.items(), strict=True):
        for axes, (plane, axis) in zip(row, planes, strict=True):
            across, up = (other for other in range(3) if other != axis)
            slice_image, slice_labels = (np.take(volume, center[axis], axis) for volume in (image, segmentation))
            show_slice(axes, slice_image, low, high, axis, aspect=spacing[up] / spacing[across])
            for value, color in colors.items():
                mask = (slice_labels == value).T
                if mask.any() and min(mask.shape) > 1:
                    axes.contourf(mask, levels=[0.5, 1.5], colors=[color], alpha=0.3)
                    axes.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)
            axes.set_title(f"{name}, {plane}", fontsize=9)
            axes.set_axis_off()
    for value, color in colors.items():
        grid[0, 0].plot([], [], color=color, linewidth=4, label=(labels or {}).get(value, f"label {value}"))
    if colors:
        figure.legend(loc="outside lower center", ncols=min(len(colors), 6), fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def show_slice(axes: Any, image: Any, low: float, high: float, axis: int = 2, **options: Any) -> None:
    """Show a slice of a volume in RAS orientation as radiologists do: the patient's right is on the left.

    Args:
        axes: of matplotlib.
        image: slice of two dimensions, black at intensity `low` and white at `high`.
        axis: of the volume, to which the slice is perpendicular.
        options: of `imshow`.
    """
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", **options)
    if axis != 0:  # the slice's first axis goes to the patient's right
        axes.invert_xaxis()


def channel_names(modality: Sequence[str]) -> list[str]:
    """Return what pictures call each of several channels, by its number where it has no name; a single one needs none.

    Args:
        modality: name of each channel.
    """
    return [name or f"channel {index}" for index, name in enumerate(modality)] if len(modality) > 1 else [""]


def save_figure(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))


class OutputPicture:
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


class OverlayPictures:
    """Draw the segmentation of each case over its scan, beside the label where there is one.

    Of a scan with several channels the first is drawn, and named in the title. The picture has the name of the scan's
    file, with `_overlay` when that is a PNG itself. The processes of a distributed run draw their own cases, and
    together those that one process would.

    Args:
        save_dir: folder for the PNG files.
        labels: names of the labels.
        max_cases: cases to draw, the first ones.
        modality: name of each channel of a scan.
    """

    def __init__(
        self,
        save_dir: str | Path,
        labels: Mapping[int, str] | None = None,
        max_cases: int = 1000,
        modality: Sequence[str] = ("",),
    ) -> None:
        self.save_dir = Path(save_dir)
        self.labels = labels
        self.max_cases = max_cases
        self.channel = channel_names(modality)[0]
        self.remaining = 0
        self._reorient = Orientation(axcodes="RAS", labels=None)

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
            meta = output["pred"].meta
            source, name = str(meta["filename_or_obj"]), case_name(meta)
            path = self.save_dir / f"{name}{'_overlay.png' if source.lower().endswith('.png') else '.png'}"
            image = self._reorient(LoadVolume(allow_2d=True, series=meta.get("series") or None)(source))
            segmentations = {"segmentation": self._label_map(output["pred"])}
            if isinstance(output.get("label"), torch.Tensor):
                segmentations["label"] = self._label_map(output["label"])
            volume, spacing = image[0].numpy(), image.pixdim.tolist()
            title = f"{name}, {self.channel}" if self.channel else name
            save_overlay(volume, spacing, segmentations, path, labels=self.labels, title=title)

    def _label_map(self, output: Any) -> np.ndarray:
        """Return the label map in RAS orientation, from one or from its one-hot form."""
        label_map = output.argmax(0, keepdim=True) if output.shape[0] > 1 else output
        return self._reorient(label_map.cpu())[0].numpy().astype(int)
