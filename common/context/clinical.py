"""Clinical metrics of segmented tissues: area, volume, density in a CT and T2, and their errors, as a table.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import csv
import json
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from common.cli import InputError
from common.data import is_ct, is_main_process, printable, read_volume, write_atomically

from .slices import slice_axis

__all__ = ["SaveClinicalMetrics", "compare_classes", "measure_class"]

logger = logging.getLogger(__name__)

MEASURES = ("area_mm2", "volume_mm3", "mean_hu", "mean_t2_ms")


def measure_class(
    mask: np.ndarray,
    affine: np.ndarray,
    axis: int = 2,
    image: np.ndarray | None = None,
    t2_map: np.ndarray | None = None,
    where: np.ndarray | None = None,
) -> dict[str, float]:
    """Measure one class in one case.

    Args:
        mask: where the class is, of shape `(H, W, D)`.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        axis: of the RAS volume, to which the slices are perpendicular; a 2D image is its own slice.
        image: Hounsfield units, of the mask's shape.
        t2_map: T2 in ms, of the mask's shape; voxels that are not finite do not count.
        where: a mask whose slices the area is averaged over, all that it shows up in; the mask itself if not given.

    Returns:
        `area_mm2`, the mean over slices; `volume_mm3`, NaN for a 2D image; with an image `mean_hu`, with a T2 map
        `mean_t2_ms`. Of a class that is absent, area and volume are 0 and the means are NaN.

    Raises:
        ValueError: when the image or the T2 map has another shape.
    """
    edges = np.asarray(affine, dtype=float)[:3, :3].T  # of a voxel, one row for each axis of the mask
    closest = [int(world) for world in np.nan_to_num(nib.io_orientation(affine)[:, 0], nan=-1)]
    across = slice_axis(mask.shape, closest.index(axis) if axis in closest else axis)
    in_slice = tuple(other for other in range(3) if other != across)
    first, second = (edges[other] for other in in_slice)
    shown = (mask if where is None else where).any(axis=in_slice)
    num_pixels = mask.sum(axis=in_slice)[shown].mean() if shown.any() else 0.0
    measures = {
        "area_mm2": float(num_pixels * np.linalg.norm(np.cross(first, second))),
        "volume_mm3": float(mask.sum() * abs(np.linalg.det(edges))) if mask.shape[across] > 1 else math.nan,
    }
    for name, values in (("mean_hu", image), ("mean_t2_ms", t2_map)):
        if values is None:
            continue
        if values.shape != mask.shape:
            raise InputError(f"{name} must be taken of an image of the mask's shape {mask.shape}, got {values.shape}")
        inside = values[mask]
        inside = inside[np.isfinite(inside)]
        measures[name] = float(inside.mean(dtype=float)) if inside.size else math.nan
    return measures


def compare_classes(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Iterable[int],
    affine: np.ndarray,
    axis: int = 2,
    image: np.ndarray | None = None,
    t2_map: np.ndarray | None = None,
) -> dict[int, dict[str, float]]:
    """Measure every class in the prediction and in the reference, and the error of the one against the other.

    Areas are those on the slices that show the class in the reference, so that a stray voxel on another slice does not
    halve the mean area of the prediction.

    Args:
        prediction: label map of shape `(H, W, D)`.
        reference: label map of the same shape.
        labels: values of the classes; for the arguments that follow see `measure_class`.

    Returns:
        By the value of a class: `<measure>_pred`, `<measure>_label` and `<measure>_percent_error`, which is
        `100 * (prediction - reference) / |reference|`: -100 for the volume of a class that was missed, NaN for
        anything of a class that the reference lacks.

    Raises:
        ValueError: when a shape differs.
    """
    if prediction.shape != reference.shape:
        raise InputError(f"prediction must have the shape of the reference {reference.shape}, got {prediction.shape}")
    compared: dict[int, dict[str, float]] = {}
    for label in labels:
        masks = [prediction == label, reference == label]
        where = masks[1] if masks[1].any() else None
        found, wanted = (measure_class(mask, affine, axis, image, t2_map, where) for mask in masks)
        row = compared[label] = {}
        for name in found:
            row[f"{name}_pred"] = found[name]
            row[f"{name}_label"] = wanted[name]
            error = found[name] - wanted[name]
            row[f"{name}_percent_error"] = 100 * error / abs(wanted[name]) if wanted[name] else math.nan
    return compared


class SaveClinicalMetrics:
    """Table of clinical metrics, `clinical_raw.csv`: one row for each case and class, see `compare_classes`.

    A measure that no case has, such as the volume of 2D images, has no column.

    The evaluator's output must hold `pred` and `label` on the grid of the scan, as label maps or one-hot. Hounsfield
    units are read from the scan's file again, since the network's input is normalized; T2 from the file that the case
    has as `t2_map`, if it has one.

    Args:
        save_dir: folder for the file.
        labels: names of the classes by their value, background (0) included.
        modality: of each channel of a scan; the mean is taken in HU of the first when that begins with CT.
        axis: of the RAS volume, to which the slices are perpendicular.
    """

    def __init__(
        self, save_dir: str | Path, labels: Mapping[int, str], modality: Sequence[str] = ("",), axis: int = 2
    ) -> None:
        self.save_dir = Path(save_dir)
        self.labels = {value: name for value, name in sorted(labels.items()) if value != 0}
        self._is_ct = is_ct(modality[0])
        self.axis = axis
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.rows = []

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            prediction = output["pred"]
            source = str(prediction.meta["filename_or_obj"])
            if source.lower().endswith(".png"):
                logger.warning("%s: a PNG has no pixel size, its areas are in pixels and not in mm^2", source)
            compared = compare_classes(
                _label_map(prediction),
                _label_map(output["label"]),
                self.labels,
                np.asarray(prediction.affine, dtype=float),
                self.axis,
                _read(prediction.meta) if self._is_ct else None,
                read_volume(batch["t2_map"], allow_2d=True)[0][0] if "t2_map" in batch else None,
            )
            self.rows.extend(
                {"filename": source, "class": self.labels[value], **row} for value, row in compared.items()
            )

    def _write(self, engine: Engine) -> None:
        refused = [row["image"] for row in getattr(engine.state, "refused", [])]
        done = [row for row in self.rows if printable(row["filename"]) not in refused]
        gathered = string_list_all_gather([json.dumps(row) for row in done])
        if not is_main_process():
            return
        rows = [json.loads(row) for row in dict.fromkeys(gathered)]  # processes may share cases
        parts = ("pred", "label", "percent_error")
        measures = [
            name
            for name in MEASURES
            if any(np.isfinite(row.get(f"{name}_{part}", np.nan)) for row in rows for part in parts)
        ]
        columns = [f"{name}_{part}" for name in measures for part in parts]
        table = [
            [row["filename"], row["class"], *(f"{row.get(column, np.nan):.6f}" for column in columns)] for row in rows
        ]

        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["filename", "class", *columns], *table])

        path = write_atomically(self.save_dir / "clinical_raw.csv", write)
        logger.info("clinical metrics, median errors: %s: %s", "; ".join(self._summarize(rows, measures)), path)

    def _summarize(self, rows: list[dict[str, Any]], measures: list[str]) -> list[str]:
        """Return a line for each class with the median of the absolute errors of each measure."""
        lines = []
        for name in self.labels.values():
            parts = []
            for measure in measures:
                errors = [abs(row.get(f"{measure}_percent_error", np.nan)) for row in rows if row["class"] == name]
                errors = [error for error in errors if not np.isnan(error)]
                parts.append(f"{measure} {statistics.median(errors):.1f} %" if errors else f"{measure} none")
            lines.append(f"{name} {', '.join(parts)}")
        return lines


def _label_map(volume: torch.Tensor) -> np.ndarray:
    """Return a label map of shape `(H, W, D)` from one with a channel or from its one-hot form."""
    return (volume.argmax(0) if volume.shape[0] > 1 else volume[0]).cpu().numpy()


def _read(meta: Mapping[str, Any]) -> np.ndarray:
    """Return the intensities of the scan that a segmentation belongs to, of shape `(H, W, D)`."""
    series = str(meta.get("series") or "") or None
    return read_volume(str(meta["filename_or_obj"]), allow_2d=True, series=series)[0][0].astype(np.float32)
