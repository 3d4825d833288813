"""Scores of segmentations: distances of surfaces in mm, and tables of any metric by case and class."""

from __future__ import annotations

import csv
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics.metric import reinit__is_reduced
from monai.data import MetaTensor
from monai.handlers import HausdorffDistance
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics import SurfaceDiceMetric, compute_confusion_matrix_metric
from monai.utils import string_list_all_gather
from scipy.ndimage import binary_dilation

from common.cli import InputError, KindError, check_each
from common.cli.options import NON_NEGATIVE
from common.data import is_main_process, printable, write_atomically

__all__ = ["HausdorffDistanceInMm", "SaveScores", "SurfaceDice", "write_scores"]

logger = logging.getLogger(__name__)

_NO_FILE = "none"  # of a process all of whose cases are refused, see `SegmentationEvaluator`


class SurfaceScore(IgniteMetricHandler):
    """Score of the surfaces of two segmentations, by a metric of MONAI whose lengths are in mm.

    A class that the label lacks has no score, NaN, as it has no Dice. Neither has one that ends where nobody labeled,
    see `IgnoreUnlabeledd`: what looks like its surface there is none. NaN is left out of the mean; where there is
    nothing else, the mean is NaN; MONAI's is 0, which of a distance is that of a perfect segmentation.
    """

    @reinit__is_reduced
    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add one-hot segmentations and labels of shape `(num_classes, H, W, D)`; the labels tell the voxel size."""
        for prediction, label in zip(*output, strict=True):
            if not isinstance(label, MetaTensor):
                raise KindError(f"label must be a MetaTensor, which tells its voxel size, got {type(label).__name__}")
            pair = [part.as_subclass(torch.Tensor).to(prediction.device) > 0.5 for part in (prediction, label)]
            maps = torch.stack(pair)
            maps &= _is_scored(maps, label.meta.get("ignored"))
            axes = [axis for axis in range(3) if label.shape[axis + 1] > 1]  # a 2D image has no depth
            axes = axes if len(axes) > 1 else [0, 1, 2]
            maps = maps.reshape(2, 1, len(label), *(label.shape[axis + 1] for axis in axes))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MONAI, of each class that is empty, and of its own arguments
                self._add(maps[0].float(), maps[1].float(), [label.pixdim.tolist()[axis] for axis in axes])

    def _add(self, prediction: torch.Tensor, label: torch.Tensor, spacing: Sequence[float]) -> None:
        """Add a pair of shape `(1, num_classes, *spatial_size)`, where a class without a score is empty in both."""
        self.metric_fn(prediction, label, spacing=spacing)

    def compute(self) -> Any:
        mean = super().compute()
        return math.nan if self.metric_fn.get_buffer().isnan().all() else mean


class HausdorffDistanceInMm(SurfaceScore, HausdorffDistance):
    """Hausdorff distance between the surfaces of two segmentations in mm, see `SurfaceScore`.

    A class that the segmentation lacks has no distance, either: so the mean is that of the cases in which something was
    found. Arguments are those of `monai.handlers.HausdorffDistance`.
    """


class SurfaceDice(SurfaceScore):
    """Normalized surface Dice: the share of both surfaces that lies within a tolerance of the other one.

    The surface is counted in voxels, as MONAI does by default. A class that only the segmentation lacks has 0.

    Source: S. Nikolov et al., JMIR 2021 (https://arxiv.org/abs/1809.04430)

    Args:
        tolerance: mm.
        output_transform: from the engine's output to one-hot segmentations and labels.
    """

    def __init__(self, tolerance: float, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        check_each(NON_NEGATIVE, surface_tolerance=tolerance)
        super().__init__(SurfaceDiceMetric(class_thresholds=[]), output_transform=output_transform)
        self.tolerance = tolerance

    def _add(self, prediction: torch.Tensor, label: torch.Tensor, spacing: Sequence[float]) -> None:
        self.metric_fn.class_thresholds = [self.tolerance] * (label.shape[1] - 1)
        super()._add(prediction, label, spacing)


def _is_scored(maps: torch.Tensor, ignored: torch.Tensor | None) -> torch.Tensor:
    """Return, for each class, whether its surface has a score.

    Args:
        maps: one-hot segmentation and label, of shape `(2, num_classes, H, W, D)`.
        ignored: where nobody labeled, of shape `(1, H, W, D)`; None: nowhere.

    Returns:
        Truth values of shape `(num_classes, 1, 1, 1)`.
    """
    is_scored = maps[1].flatten(1).any(dim=1)
    if ignored is not None:
        touched = binary_dilation(ignored[0].cpu().numpy(), np.ones((3, 3, 3)))
        is_scored &= ~(maps & torch.as_tensor(touched, device=maps.device)).any(dim=0).flatten(1).any(dim=1)
    return is_scored.view(-1, 1, 1, 1)


class SaveScores:
    """Write `<metric>_raw.csv`: one row for each case, one column for each class, and their mean.

    A class without a score in a case, such as a distance where nothing was found, has the field `nan` and does not
    count in the mean. The log says over how many cases each mean is. A case that was not scored has no row: an
    `EvaluationReport` tells why. For it, the engine's state has the rows by the file of their case, as `scores`, a
    mapping from the name of each metric.

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
        engine.state.scores = {}

    def _collect(self, engine: Engine) -> None:
        self.files.extend(str(output["image"].meta["filename_or_obj"]) for output in engine.state.output)

    def _write(self, engine: Engine) -> None:
        refused = [row["image"] for row in getattr(engine.state, "refused", [])]
        done = [file for file in self.files if printable(file) not in refused]
        files = string_list_all_gather(done or [_NO_FILE])
        scores = engine.state.metric_details[self.metric].cpu()  # of all processes
        if scores.ndim == 3:
            scores = compute_confusion_matrix_metric(self.metric, scores)
        if not is_main_process():
            return
        if len(files) != len(scores):
            raise InputError(f"scores must be one row for each of {len(files)} cases, got {len(scores)}")
        is_scored = torch.tensor([file != _NO_FILE for file in files])
        scores, files = scores[is_scored], [file for file in files if file != _NO_FILE]
        path = write_scores(self.save_dir / f"{self.metric}_raw.csv", files, scores, self.labels)
        rows = torch.cat((scores, torch.nanmean(scores, dim=1, keepdim=True)), dim=1).tolist()
        engine.state.scores[self.metric] = {
            file: dict(zip([*self.names, "mean"], row, strict=True)) for file, row in zip(files, rows, strict=True)
        }
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
