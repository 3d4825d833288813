"""Scores of segmentations: the Hausdorff distance in mm, and tables of any metric by case and class."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics.metric import reinit__is_reduced
from monai.data import MetaTensor
from monai.handlers import HausdorffDistance
from monai.metrics import compute_confusion_matrix_metric
from monai.utils import string_list_all_gather

from common.cli import InputError, KindError
from common.data import is_main_process, write_atomically

__all__ = ["HausdorffDistanceInMm", "SaveScores", "write_scores"]

logger = logging.getLogger(__name__)

_NO_FILE = "none"  # of a process all of whose cases are refused, see `SegmentationEvaluator`


class HausdorffDistanceInMm(HausdorffDistance):
    """Hausdorff distance between the surfaces of two segmentations in mm.

    MONAI's own handler counts voxels, whatever their size. A class that the segmentation or the label lacks has no
    distance: NaN, which is left out of the mean. So the mean is that of the cases in which something was found. Where
    there is none, it is NaN; MONAI's is 0, that of a perfect segmentation.

    Arguments are those of `monai.handlers.HausdorffDistance`.
    """

    @reinit__is_reduced
    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add one-hot segmentations and labels of shape `(num_classes, H, W, D)`; the labels tell the voxel size."""
        for prediction, label in zip(*output, strict=True):
            if not isinstance(label, MetaTensor):
                raise KindError(f"label must be a MetaTensor, which tells its voxel size, got {type(label).__name__}")
            spacing = label.pixdim.tolist()
            self.metric_fn(prediction[None].as_subclass(torch.Tensor), label[None].as_tensor(), spacing=spacing)

    def compute(self) -> Any:
        mean = super().compute()
        return math.nan if self.metric_fn.get_buffer().isnan().all() else mean


class SaveScores:
    """Write `<metric>_raw.csv`: one row for each case, one column for each class, and their mean.

    A class without a score in a case, such as a distance where nothing was found, has the field `nan` and does not
    count in the mean. The log says over how many cases each mean is.

    Args:
        save_dir: folder for the file.
        metric: name of one of the evaluator's metrics, which leaves details of shape `(cases, classes)`; or, named as
            MONAI names it, such as `sensitivity`, one that leaves confusion matrices of shape `(cases, classes, 4)`.
        labels: names of the classes by their value, background (0) included.
    """

    def __init__(self, save_dir: str | Path, metric: str, labels: Mapping[int, str]) -> None:
        self.save_dir = Path(save_dir)
        self.metric = metric
        self.labels = dict(labels)
        self.names = _names(labels)
        self.files: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.files = []

    def _collect(self, engine: Engine) -> None:
        self.files.extend(str(output["image"].meta["filename_or_obj"]) for output in engine.state.output)

    def _write(self, engine: Engine) -> None:
        files = string_list_all_gather(self.files or [_NO_FILE])
        scores = engine.state.metric_details[self.metric].cpu()  # of all processes
        if scores.ndim == 3:
            scores = compute_confusion_matrix_metric(self.metric, scores)
        if not is_main_process():
            return
        if len(files) != len(scores):
            raise InputError(f"scores must be one row for each of {len(files)} cases, got {len(scores)}")
        refused = [row["image"] for row in getattr(engine.state, "refused", [])]
        is_scored = torch.tensor([file != _NO_FILE for file in files])
        scores = torch.cat((scores[is_scored], scores.new_full((len(refused), *scores.shape[1:]), math.nan)))
        files = [file for file in files if file != _NO_FILE] + refused
        path = write_scores(self.save_dir / f"{self.metric}_raw.csv", files, scores, self.labels)
        means = torch.nanmean(scores, dim=1)
        by_class = ", ".join(
            f"{name} {float(values.nanmean()):.3f}{_scored(' over {}', values)}"
            for name, values in zip(self.names, scores.unbind(1), strict=True)
        )
        cases = f"{_scored('{} of ', means)}{len(files)} cases"
        logger.info("%s %.4f over %s (%s): %s", self.metric, float(means.nanmean()), cases, by_class, path)


def write_scores(path: str | Path, files: Sequence[str], scores: torch.Tensor, labels: Mapping[int, str]) -> Path:
    """Write a table with one row for each case, one column for each class, and their mean, and return its path.

    Args:
        path: of the table.
        files: of the cases.
        scores: of shape `(cases, classes)`; NaN where a class has none, which does not count in the mean.
        labels: names of the classes by their value, background (0) included.
    """
    means = torch.nanmean(scores, dim=1).tolist()
    rows = [
        [file, *(f"{value:.6f}" for value in row), f"{mean:.6f}"]
        for file, row, mean in zip(files, scores.tolist(), means, strict=True)
    ]

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["filename", *_names(labels), "mean"], *rows])

    return write_atomically(path, write)


def _names(labels: Mapping[int, str]) -> list[str]:
    """Return the names of the classes but the background."""
    return [name for value, name in sorted(labels.items()) if value != 0]


def _scored(text: str, scores: torch.Tensor) -> str:
    """Put the number of cases with a score into a text; where all have one, there is nothing to say."""
    missing = scores.isnan()
    return text.format(int((~missing).sum())) if missing.any() else ""
