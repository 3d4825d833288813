"""Clinical metrics of every case in one table."""

from __future__ import annotations

import csv
import json
import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, LoadImage
from monai.utils import string_list_all_gather

from common.metrics import compare_classes
from common.metrics.clinical import MEASURES
from common.transforms import EnsureVolume
from common.utils import is_main_process, write_atomically

__all__ = ["SaveClinicalMetrics"]

logger = logging.getLogger(__name__)


class SaveClinicalMetrics:
    """Write `clinical_raw.csv`: one row for each case and class, see `compare_classes`.

    A measure that no case has, such as the volume of 2D images, has no column.

    The evaluator's output must hold `pred` and `label` on the grid of the scan, as label maps or one-hot. Hounsfield
    units are read from the scan's file again, since the network's input is normalized; T2 from the file that the case
    has as `t2_map`, if it has one.

    Args:
        save_dir: folder for the file.
        labels: names of the classes by their value, background (0) included.
        modality: of the scans; the mean is taken in HU when it begins with CT.
        axis: of the RAS volume, to which the slices are perpendicular.
    """

    def __init__(self, save_dir: str | Path, labels: Mapping[int, str], modality: str = "", axis: int = 2) -> None:
        self.save_dir = Path(save_dir)
        self.labels = {value: name for value, name in sorted(labels.items()) if value != 0}
        self.modality = modality
        self.axis = axis
        self.rows: list[dict[str, Any]] = []
        self._load = Compose([LoadImage(image_only=True, ensure_channel_first=True), EnsureVolume()])

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
                self._read(source) if self.modality.upper().startswith("CT") else None,
                self._read(batch["t2_map"]) if "t2_map" in batch else None,
            )
            self.rows.extend(
                {"filename": source, "class": self.labels[value], **row} for value, row in compared.items()
            )

    def _read(self, path: str) -> np.ndarray:
        return self._load(path)[0].numpy()

    def _write(self, engine: Engine) -> None:
        gathered = string_list_all_gather([json.dumps(row) for row in self.rows])
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
            [row["filename"], row["class"], *(f"{row.get(column, float('nan')):.6f}" for column in columns)]
            for row in rows
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
