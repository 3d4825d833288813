"""Pictures of what a network has learned and of what it says, as PNG files.

Slices are seen as radiologists see them: patients face up in axial ones, and their right is on the left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from monai.data import MetaTensor
from monai.metrics import compute_dice
from scipy.ndimage import label as find_components
from skimage.filters import threshold_otsu

from common.data import case_name, is_ct, is_main_process, label_colors, write_atomically

from .original import original_image, source_of

__all__ = [
    "OutputPicture",
    "OverlayPictures",
    "channel_names",
    "save_curves",
    "save_figure",
    "save_overlay",
    "show_slice",
]

_SIDES = (("L", "R"), ("P", "A"), ("I", "S"))  # of the patient, toward which the axes of an RAS volume begin and end
_SOFT_TISSUE = (-160.0, 240.0)  # HU
_AIR = -500.0  # HU, below which only a CT has intensities
_BODY_SIDE = 96  # voxels along each axis, in which the body is sought
_SAMPLED = 500_000  # voxels, for a window
_MARGIN = 0.02  # of the volume, around the body
_LEAST_BODY = 0.02  # of a slice that is cropped to it
_ASPECTS = 0.4, 1.8  # of a panel, narrowest and widest
_DPI = 110
_LAYOUT_DIGITS = 6  # of a part of the figure

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
    image: MetaTensor,
    segmentations: Mapping[str, torch.Tensor],
    path: str | Path,
    window: tuple[float, float] | None = None,
    labels: Mapping[int, str] | None = None,
    title: str = "",
    unit: str = "",
    has_origin: bool = True,
) -> None:
    """Draw three planes through a segmented volume, or a 2D image, one row for each segmentation.

    The planes go through the slices on which the segmentations have most voxels, and are cropped to the body. Above
    each are its place, in mm from the origin to one of the patient's sides, and its index from 0 along an axis of the
    image (i, j or k); letters tell the sides. A label has the color that it has everywhere, see `label_color`.

    Args:
        image: volume of shape `(C, H, W, D)`, the first channel of which is drawn; where its metadata say that it is
            not `is_oriented`, there are no letters.
        segmentations: by title, label maps of shape `(1, H, W, D)` on the grid of the image; values above 0 are drawn.
        path: PNG file.
        window: lowest and highest intensity shown; if not given, that of soft tissue in a CT whose labels lie in it,
            else the 1st and 99.5th percentile.
        labels: names of the labels for the legend.
        title: above all.
        unit: of the intensities, such as HU.
        has_origin: the affine tells where the image lies in the patient, not only how large its voxels are.
    """
    own_affine = image.affine.numpy()
    order, codes = nib.io_orientation(own_affine), nib.aff2axcodes(own_affine)
    affine = own_affine @ nib.orientations.inv_ornt_aff(order, image.shape[1:])  # of an RAS volume
    volume, *turned = (
        nib.orientations.apply_orientation(part[0].cpu().as_subclass(torch.Tensor).numpy(), order)
        for part in (image, *segmentations.values())
    )
    maps = dict(zip(segmentations, turned, strict=True))
    merged = np.any([label_map > 0 for label_map in maps.values()], axis=0)
    body, steps = _find_body(volume, merged)
    center = {axis: _fullest_slice(merged, axis) for axis in range(3)}
    boxes = {axis: _slice_box(body, steps, merged, axis, center[axis]) for axis in range(3)}
    low, high = _display_window(volume, volume[merged]) if window is None else window
    values = {int(value) for label_map in maps.values() for value in np.unique(label_map[label_map > 0])}
    colors = {value: np.array(color) / 255 for value, color in label_colors(sorted(values)).items()}
    flat = [(plane, axis) for plane, axis in PLANES.items() if volume.shape[axis] == 1]
    planes = flat if len(flat) == 1 else list(PLANES.items())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    widths = [_aspect(boxes[axis], spacing[[*_in_plane(axis)]]) for _, axis in planes]
    size = (3.2 * sum(widths) + 0.5, 3.2 * len(maps) + 0.5 + 0.2 * math.ceil(len(colors) / 5))
    figure = Figure(figsize=(max(size[0], 5.0), size[1]), layout="constrained")
    grid = figure.subplots(len(maps), len(planes), squeeze=False, width_ratios=widths)
    is_oriented = bool(image.meta.get("is_oriented", True))
    for row, (name, label_map) in zip(grid, maps.items(), strict=True):
        row[0].set_ylabel(name, fontsize=10)
        for axes, (plane, axis) in zip(row, planes, strict=True):
            across, up = _in_plane(axis)
            shown = [np.take(array, center[axis], axis)[boxes[axis]] for array in (volume, label_map)]
            show_slice(axes, shown[0], low, high, axis, aspect=spacing[up] / spacing[across])
            for value, color in colors.items():
                mask = (shown[1] == value).T
                if mask.any() and min(mask.shape) > 1:
                    axes.contourf(mask, levels=[0.5, 1.5], colors=[color], alpha=0.3)
                    axes.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)
            _mark_sides(axes, axis if is_oriented else None)
            place = _place(affine, volume.shape, axis, center[axis]) if has_origin and is_oriented else ""
            index = _file_index(codes, volume.shape, axis, center[axis])
            axes.set_title(", ".join(filter(None, (plane, place, index))), fontsize=9)
    for value, color in colors.items():
        grid[0, 0].plot([], [], color=color, linewidth=4, label=(labels or {}).get(value, f"label {value}"))
    if colors:
        figure.legend(loc="outside lower center", ncols=min(len(colors), 5), fontsize=9)
    shades = f"window {high - low:.4g}, level {(high + low) / 2:.4g} {unit}".strip()
    figure.suptitle(f"{title}; {shades}" if title else shades, fontsize=10)
    save_figure(figure, path)


def _in_plane(axis: int) -> tuple[int, int]:
    """Return the axes of an RAS volume that go across and up in slices across an axis."""
    across, up = (other for other in range(3) if other != axis)
    return across, up


def _fullest_slice(mask: np.ndarray, axis: int) -> int:
    """Return the index of the slice with most voxels of a mask; of an empty one, that of the middle."""
    return int(mask.sum(axis=_in_plane(axis)).argmax()) if mask.any() else mask.shape[axis] // 2


def _find_body(volume: np.ndarray, merged: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return a coarse mask of the body and of what is segmented, and how many voxels one of it stands for on each axis.

    The body is the largest part that is brighter than half of what Otsu's threshold tells dark from bright by.

    Args:
        volume: of shape `(H, W, D)`.
        merged: mask of what is segmented.
    """
    steps = [max(size // _BODY_SIDE, 1) for size in volume.shape]
    coarse = tuple(slice(None, None, step) for step in steps)
    small = volume[coarse]
    finite = small[np.isfinite(small)]
    tissue = finite[finite > finite.min(initial=np.inf)]  # without padding, and what is beyond the field of view
    if tissue.size < 2 or tissue.min() == tissue.max():
        return np.ones(small.shape, bool), steps  # so that no body is empty
    parts, _ = find_components(small > (finite.min() + threshold_otsu(tissue)) / 2)
    return (parts == np.bincount(parts[parts > 0]).argmax()) | merged[coarse], steps


def _slice_box(
    body: np.ndarray, steps: Sequence[int], merged: np.ndarray, axis: int, index: int
) -> tuple[slice, slice]:
    """Return the part of a slice in which the body and what is segmented are, with a margin.

    Args:
        body: see `_find_body`, also for `steps`.
        merged: mask of what is segmented, of shape `(H, W, D)`.
        axis: to which the slice is perpendicular.
        index: of the slice.
    """
    coarse = np.take(body, min(index // steps[axis], body.shape[axis] - 1), axis)
    if coarse.mean() < _LEAST_BODY:  # a slice beyond it, or at its end
        coarse = body.any(axis=axis)
    own = np.take(merged, index, axis)
    found = []
    for place, other in enumerate(_in_plane(axis)):
        size, step = merged.shape[other], steps[other]
        inside = np.flatnonzero(coarse.any(axis=1 - place)) * step
        drawn = np.flatnonzero(own.any(axis=1 - place))
        ends = [*inside[[0, -1]], *(drawn[[0, -1]] if len(drawn) else [])]
        margin = max(size * _MARGIN, step)
        found.append(slice(max(int(min(ends) - margin), 0), min(math.ceil(max(ends) + 1 + margin), size)))
    return found[0], found[1]


def _aspect(box: Sequence[slice], spacing: Sequence[float]) -> float:
    """Return the width of a part of a slice by its height in mm, within what looks well."""
    width, height = ((part.stop - part.start) * edge for part, edge in zip(box, spacing, strict=True))
    return float(np.clip(width / height, *_ASPECTS))


def _display_window(shown: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Return the lowest and highest intensity to show.

    Args:
        shown: intensities of the image.
        inside: of what is segmented in it, if anything is.
    """
    shown, inside = (_sample(values) for values in (shown, inside))
    if not shown.size:
        return 0.0, 1.0
    low, high = _SOFT_TISSUE
    if shown.min() < _AIR and (not inside.size or low <= np.median(inside) <= high):
        return low, high
    low, high = np.percentile(shown, (1, 99.5)).tolist()
    return low, high


def _sample(values: np.ndarray) -> np.ndarray:
    """Return finite values at even distances along the axes of an array, enough for percentiles."""
    step = max(int((values.size / _SAMPLED) ** (1 / values.ndim)), 1)
    sample = values[(slice(None, None, step),) * values.ndim]
    return sample[np.isfinite(sample)]


def _place(affine: np.ndarray, shape: Sequence[int], axis: int, index: int) -> str:
    """Return where the center of a slice lies, such as S 12.5 mm, which is to the patient's head from the origin."""
    voxel = (np.array(shape) - 1) / 2
    voxel[axis] = index
    position = float(affine[axis, :3] @ voxel + affine[axis, 3])
    return f"{_SIDES[axis][0 if position < 0 else 1]} {abs(position):.1f} mm"


def _file_index(codes: Sequence[str | None], shape: Sequence[int], axis: int, index: int) -> str:
    """Return the index of a slice of an RAS volume along an axis of its file, such as k = 57.

    Args:
        codes: sides of the patient to which the axes of the file go.
        shape: of the RAS volume.
        axis: of the RAS volume.
        index: along it.
    """
    low, high = _SIDES[axis]
    own = next((number for number, code in enumerate(codes) if code in (low, high)), axis)
    return f"{'ijk'[own]} = {index if codes[own] != low else shape[axis] - 1 - index}"


def _mark_sides(axes: Any, axis: int | None) -> None:
    """Write the patient's sides at the borders of a slice across an axis; None: they are not known."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if axis is None:
        return
    across, up = _in_plane(axis)
    right, left = _SIDES[across] if axis != 0 else _SIDES[across][::-1]
    for x, y, letter in ((0.97, 0.5, right), (0.03, 0.5, left), (0.5, 0.97, _SIDES[up][1]), (0.5, 0.03, _SIDES[up][0])):
        text = axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=10, ha="center", va="center")
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


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
    """Write a figure as a PNG that is the same in each process: the last digits of a solved layout are not.

    Args:
        figure: with or without a layout engine, which is taken from it.
        path: PNG file.
    """
    FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = np.round(axes.get_position(original=True).bounds, _LAYOUT_DIGITS)
        axes.set_position((left, bottom, width, height))
    for text in figure.texts:  # its title is one of them
        x, y = np.round(text.get_position(), _LAYOUT_DIGITS)
        text.set_position((x, y))
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=_DPI))


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
    """Draw the segmentation of each case over its scan, beside the label where there is one, with the Dice of each.

    Of a scan with several channels the first is drawn, and named in the title. The picture has the name of the scan's
    file, with `_overlay` when that is a PNG itself. The processes of a distributed run draw their own cases, and
    together those that one process would. The engine's state has the path of each picture by the name of its case, as
    `pictures`.

    Args:
        save_dir: folder for the PNG files.
        labels: names of the labels.
        max_cases: cases to draw, the first ones; all if not given.
        modality: name of each channel of a scan.
    """

    def __init__(
        self,
        save_dir: str | Path,
        labels: Mapping[int, str] | None = None,
        max_cases: int | None = None,
        modality: Sequence[str] = ("",),
    ) -> None:
        self.save_dir = Path(save_dir)
        self.labels = dict(labels or {})
        self.max_cases = max_cases
        self.channel = channel_names(modality)[0]
        self.unit = intensity_unit(modality)
        self.remaining = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        numbers = idist.all_gather(engine.state.epoch_length)  # of the cases of each process
        most = math.inf if self.max_cases is None else self.max_cases
        self.remaining = most - sum(numbers[: idist.get_rank()])
        engine.state.pictures = {}

    def _draw(self, engine: Engine) -> None:
        for output in engine.state.output:
            if self.remaining <= 0:
                return
            self.remaining -= 1
            meta = output["pred"].meta
            source, name = source_of(meta), case_name(meta)
            path = self.save_dir / f"{name}{'_overlay.png' if source.lower().endswith('.png') else '.png'}"
            title, labels = [name, self.channel], self.labels
            segmentations = {"segmentation": _label_map(output["pred"])}
            if isinstance(output.get("label"), torch.Tensor):
                segmentations["label"] = _label_map(output["label"])
                dice = _dice(output["pred"], output["label"])
                labels = {value: f"{name} {dice.get(value, '')}".strip() for value, name in labels.items() if value}
                title.append(f"mean Dice {dice[0]}" if dice else "")
            save_overlay(
                original_image(output),
                segmentations,
                path,
                labels=labels,
                title=", ".join(filter(None, title)),
                unit=self.unit,
            )
            engine.state.pictures[name] = path


def intensity_unit(modality: Sequence[str]) -> str:
    """Return the unit of the first channel of an image, HU of a CT; nothing where there is none."""
    return "HU" if modality and is_ct(modality[0]) else ""


def _label_map(output: torch.Tensor) -> torch.Tensor:
    """Return a label map of shape `(1, H, W, D)`, from one or from its one-hot form."""
    return output.argmax(0, keepdim=True) if output.shape[0] > 1 else output


def _dice(prediction: torch.Tensor, label: torch.Tensor) -> dict[int, str]:
    """Return the Dice of each class as a text, and as that of 0 their mean; nothing for a class that the label lacks.

    Args:
        prediction: one-hot, of shape `(num_classes, H, W, D)`; a label map has no Dice.
        label: likewise.
    """
    if min(len(prediction), len(label)) < 2:
        return {}
    pair = [part[None].as_subclass(torch.Tensor).to(prediction.device) for part in (prediction, label)]
    dice = compute_dice(*pair, include_background=False)[0]
    scores = [float(dice.nanmean()), *dice.tolist()]
    return {value: f"{score:.3f}" for value, score in enumerate(scores) if not math.isnan(score)}
