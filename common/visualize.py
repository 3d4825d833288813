"""Pictures of what a network has learned and of what it says, as PNG files.

Slices are seen as radiologists see them: patients face up in axial ones, and their right is on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.utils import write_atomically

__all__ = [
    "save_cube_pairs",
    "save_curves",
    "save_embedding",
    "save_kernels",
    "save_layers",
    "save_overlay",
    "save_reconstructions",
    "save_restorations",
    "save_slab_pairs",
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
        if name.startswith("lr_"):
            panels["learning rate"].append(name)
        elif name == "gamma":
            panels["gamma"].append(name)
        else:
            panels["loss" if name.endswith("loss") else "metric"].append(name)
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
    _save(figure, path)


def save_kernels(kernels: Mapping[str, torch.Tensor], path: str | Path, max_kernels: int = 32) -> None:
    """Draw the middle axial slice of convolution kernels, one row for each set, each kernel on its own gray scale.

    Args:
        kernels: by title, tensors of shape `(N, k, k, k)`.
        path: PNG file.
        max_kernels: kernels to draw of each set.
    """
    columns = min(max_kernels, max(len(group) for group in kernels.values()))
    figure = Figure(figsize=(0.45 * columns + 1.2, 0.55 * len(kernels) + 0.3), layout="constrained")
    grid = figure.subplots(len(kernels), columns, squeeze=False)
    for row, (title, group) in zip(grid, kernels.items(), strict=True):
        for axes, kernel in zip(row, group.detach().float().cpu(), strict=False):
            reach = float(kernel.abs().max()) or 1.0  # zero is mid-gray
            _show_slice(axes, kernel[:, :, kernel.shape[-1] // 2], -reach, reach)
        for axes in row:
            axes.set_axis_off()
        row[0].text(-0.15, 0.5, title, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    _save(figure, path)


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
            _show_slice(axes, middle, low, high)
            axes.set_title(f"{title}\n{name}", fontsize=7)
            axes.set_axis_off()
    _save(figure, path)


def save_restorations(
    originals: torch.Tensor,
    corrupted: torch.Tensor,
    restored: torch.Tensor,
    path: str | Path,
    axis: int = 2,
    max_images: int = 4,
) -> None:
    """Draw images, what was made of them, and what a network made of that, side by side on the same gray scale.

    Args:
        originals: first channel of shape `(B, C, H, W)` is drawn; the images with the highest contrast are taken.
        corrupted: input of the network, of the same shape.
        restored: its output, of the same shape.
        path: PNG file.
        axis: of the RAS volumes, to which the images are perpendicular.
        max_images: images to draw, one row each.
    """
    originals = originals.detach()
    contrast = originals[:, 0].float().flatten(1).std(dim=1)
    chosen = contrast.argsort(descending=True)[:max_images].tolist()
    figure = Figure(figsize=(7.5, 2.5 * len(chosen) + 0.3), layout="constrained")
    columns = {"original": originals, "corrupted": corrupted, "restored": restored}
    for index, row in zip(chosen, figure.subplots(len(chosen), 3, squeeze=False), strict=True):
        low, high = float(originals[index, 0].min()), float(originals[index, 0].max())
        for axes, (title, images) in zip(row, columns.items(), strict=True):
            _show_slice(axes, images[index, 0].detach().float().cpu(), low, high, axis)
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    _save(figure, path)


def save_layers(
    target: torch.Tensor, pred: torch.Tensor, path: str | Path, max_scans: int = 4, threshold: float = 0.5
) -> None:
    """Draw scans with simulated tumors, and what a network took them apart into, one row each.

    The slice is the axial one that shows most of the true and the predicted mask.

    Args:
        target: layers of the simulation, of shape `(B, 5, H, W, D)`, from volumes in RAS orientation; see `LAYERS`. The
            mask of real scans is negative: there is no truth to draw.
        pred: organ, tumor and logit of the mask, of shape `(B, 3, H, W, D)`.
        path: PNG file.
        max_scans: scans to draw.
        threshold: of the masks.
    """
    count = min(len(target), max_scans)
    target, pred = (layers[:count].detach().float().cpu() for layers in (target, pred))
    masks = pred[:, 2].sigmoid()
    titles = ("scan", "true organ", "organ", "true tumor", "tumor", "mask")
    figure = Figure(figsize=(1.9 * len(titles), 2.1 * count), layout="constrained")
    for index, row in enumerate(figure.subplots(count, len(titles), squeeze=False)):
        organ, tumor, mask, _, image = target[index]
        middle = int(((mask > threshold).float() + (masks[index] > threshold).float()).sum((0, 1)).argmax())
        high = float(image[:, :, middle].max())
        panels = (image, organ, pred[index, 0], tumor, pred[index, 1], masks[index])
        for panel, layer, title in zip(row, panels, titles, strict=True):
            _show_slice(panel, layer[:, :, middle], 0.0, 1.0 if title == "mask" else high)
            if title in ("scan", "mask"):
                for outline, color in ((mask, "tab:green"), (masks[index], "tab:red")):
                    inside = (outline[:, :, middle] > threshold).T
                    if inside.any():
                        panel.contour(inside, levels=[0.5], colors=[color], linewidths=0.8)
            panel.set_title(title, fontsize=8)
            panel.set_axis_off()
    figure.suptitle("green: simulated mask, red: predicted mask", fontsize=8)
    _save(figure, path)


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
            _show_slice(panel, image, low, high, axes[index])
            panel.set_title(f"{title}, {list(PLANES)[axes[index]]}", fontsize=8)
            panel.set_axis_off()
    _save(figure, path)


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
            _show_slice(panel, cube[:, :, cube.shape[2] // 2], float(cubes.min()), float(cubes.max()))
            panel.set_title(title, fontsize=8)
            panel.set_axis_off()
    _save(figure, path)


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
    _save(figure, path)


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
        segmentations: by title, label maps of the volume's shape.
        path: PNG file.
        window: lowest and highest intensity shown; the 1st and 99.5th percentile if not given.
        labels: names of the labels for the legend.
        title: of the picture.
    """
    low, high = np.percentile(image, (1, 99.5)) if window is None else window
    merged = np.any([segmentation > 0 for segmentation in segmentations.values()], axis=0)
    center = {
        axis: int(merged.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        if merged.any()
        else image.shape[axis] // 2
        for axis in range(3)
    }
    present = sorted({int(value) for segmentation in segmentations.values() for value in np.unique(segmentation)} - {0})
    colors = {value: colormaps["tab10"](index % 10) for index, value in enumerate(present)}
    flat = [(plane, axis) for plane, axis in PLANES.items() if image.shape[axis] == 1]
    planes = flat if len(flat) == 1 else list(PLANES.items())
    figure = Figure(figsize=(3 * len(planes) + 0.5, 3.3 * len(segmentations) + 0.4), layout="constrained")
    grid = figure.subplots(len(segmentations), len(planes), squeeze=False)
    for row, (name, segmentation) in zip(grid, segmentations.items(), strict=True):
        for axes, (plane, axis) in zip(row, planes, strict=True):
            across, up = (other for other in range(3) if other != axis)
            slice_image, slice_labels = (np.take(volume, center[axis], axis) for volume in (image, segmentation))
            _show_slice(axes, slice_image, low, high, axis, aspect=spacing[up] / spacing[across])
            for value, color in colors.items():
                mask = (slice_labels == value).T
                if mask.any():
                    axes.contourf(mask, levels=[0.5, 1.5], colors=[color], alpha=0.3)
                    axes.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)
            axes.set_title(f"{name}, {plane}", fontsize=9)
            axes.set_axis_off()
    for value, color in colors.items():
        grid[0, 0].plot([], [], color=color, linewidth=4, label=(labels or {}).get(value, f"label {value}"))
    if colors:
        figure.legend(loc="outside lower center", ncols=min(len(colors), 6), fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _show_slice(axes: Any, image: Any, low: float, high: float, axis: int = 2, **options: Any) -> None:
    """Show a slice of a volume in RAS orientation as radiologists do: the patient's right is on the left.

    Args:
        axes: of matplotlib.
        image: slice of two dimensions.
        low: intensity that is black.
        high: intensity that is white.
        axis: of the volume, to which the slice is perpendicular.
        options: of `imshow`.
    """
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", **options)
    if axis != 0:  # the slice's first axis goes to the patient's right
        axes.invert_xaxis()


def _save(figure: Figure, path: str | Path) -> None:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
