"""Case loop of inference and evaluation: a case that fails is noted, and the others are done."""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys as Keys
from monai.utils import ensure_tuple, string_list_all_gather
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.cli import concerns_run, is_device_full
from common.data import FAILED, KEPT, LeftOutCase, case_name, leave_out

from .full_device import smaller_inferer

__all__ = ["CaseEvaluator"]

logger = logging.getLogger(__name__)

_CASE_EVENTS = (Events.GET_BATCH_COMPLETED, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)
_JUDGED = (Events.GET_BATCH_COMPLETED, Events.ITERATION_COMPLETED)  # whose handlers may refuse a case
_MOST_NAMES = 10  # of cases in the last line of a run


class CaseEvaluator(SupervisedEvaluator):
    """Evaluator of one case at a time: MONAI's, in which a case that fails does not end the run.

    What is wrong with a case is noted in `state.refused`, a list of rows with `case`, `image`, `outcome` (`refused`,
    `failed` or `kept`) and `reason`, and its handlers are not called. In a distributed run, the list is that of all
    processes from the end of the epoch on. An error that concerns the run, see `concerns_run`, ends it.

    Where the device is too full for a case, the inferer takes less at a time, see `smaller_inferer`, and at last the
    case is done on the CPU, but for a training's.

    Args:
        keep_going: note what is wrong with a case; otherwise the error is raised, as within a training.
        arguments: of `SupervisedEvaluator`; `val_data_loader` is a `CaseLoader`.
    """

    inferer: Any

    def __init__(self, keep_going: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.keep_going = keep_going
        self.state.refused = []
        self.progress = _Progress(0, 0)
        self.is_left_out = False

    def run(self, global_epoch: int = 1) -> None:
        self.state.refused = []
        if not self.keep_going:
            super().run(global_epoch)
            return
        gc.freeze()  # what is there now; else it would be looked through after each case
        try:
            with _show_progress(self.data_loader) as self.progress:
                super().run(global_epoch)
        finally:
            gc.unfreeze()

    def summarize(self) -> str | None:
        """Return a line that names the cases which were not done, and the first reason; None where all were."""
        bad = [row for row in self.state.refused if row["outcome"] != KEPT]
        total = self.progress.total
        if not bad or total == 1:
            return f"error: {bad[0]['reason']}" if bad else None
        names = ", ".join(row["case"] for row in bad[:_MOST_NAMES])
        more = f" and {len(bad) - _MOST_NAMES} more" if len(bad) > _MOST_NAMES else ""
        return f"error: {len(bad)} of {total} cases were refused ({names}{more}); the first: {bad[0]['reason']}"

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        """Call the handlers of an event, but those of a case that is left out."""
        if event_name == Events.GET_BATCH_STARTED and self.keep_going:
            self.state.output = None
            gc.collect()  # volumes in cycles, as those of pictures are, which Python lets grow
        if event_name == Events.GET_BATCH_COMPLETED:
            self.is_left_out = False
            if isinstance(self.state.batch, LeftOutCase):
                self._leave_out(self.state.batch)
        if event_name == Events.EPOCH_COMPLETED:
            self._finish()
        if self.is_left_out and event_name in _CASE_EVENTS:
            return
        num_scores = self._count_scores() if event_name == Events.ITERATION_COMPLETED else []
        try:
            super()._fire_event(event_name, *event_args, **event_kwargs)
        except Exception as error:
            if event_name not in _JUDGED or not self.keep_going or concerns_run(error):
                raise
            is_done = event_name == Events.ITERATION_COMPLETED
            if is_done:
                self._drop_scores(num_scores)
            self._leave_out(leave_out(_entry(self.state.output if is_done else self.state.batch), error))
            return
        if event_name == Events.ITERATION_COMPLETED and self.keep_going:
            self.progress.advance(_file_name(self.state.output))

    def _iteration(self, engine: Engine, batchdata: Any) -> Any:
        if self.is_left_out:
            return []
        try:
            return self._infer(batchdata)
        except Exception as error:
            if not self.keep_going or concerns_run(error):
                raise
            self._leave_out(leave_out(_entry(batchdata), error))
            return []

    def _infer(self, batch: Any) -> Any:
        """Segment a case and postprocess the result, with less memory where the device is full."""
        device = self.state.device
        try:
            while True:
                self.state.batch = batch  # its postprocessing may have begun
                try:
                    return super()._iteration(self, batch)
                except Exception as error:
                    remedy = self._take_less() if is_device_full(error) else None
                    if remedy is None:
                        raise
                    logger.warning("%s: device %s is full, going on %s", _file_name(batch), device, remedy)
                self.state.output = None  # which holds memory
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        finally:
            if self.state.device != device:
                self.state.device = device
                self.network.to(device)

    def _take_less(self) -> str | None:
        """Make the next attempt take less memory of the device, and tell how; None where nothing is left to try."""
        output = self.state.output or {}
        is_inferred = isinstance(output, list) or Keys.PRED in output  # it is the postprocessing that needs memory
        smaller = None if is_inferred else smaller_inferer(self.inferer)
        if smaller is not None:
            self.inferer = smaller
            return "with less at a time"
        if self.state.device.type == "cpu" or not self.keep_going:  # a training has the network where it is
            return None
        self.state.device = torch.device("cpu")
        self.network.to("cpu")
        return "on the CPU"

    def _leave_out(self, left_out: LeftOutCase) -> None:
        if not self.keep_going and left_out.error is not None:
            raise left_out.error
        self.is_left_out = True
        self.state.refused.append(left_out.row)
        if left_out.row["outcome"] == FAILED:
            logger.error(left_out.trace.rstrip())
        self.progress.leave_out(left_out.row)

    def _count_scores(self) -> list[int]:
        """Return how many cases each metric has scored."""
        return []

    def _drop_scores(self, kept: Sequence[int]) -> None:
        """Take back what metrics have scored since they had so many cases: a case that fails has no score."""

    def _finish(self) -> None:
        """Gather what the processes have noted, before any handler of the end is called."""
        rows = string_list_all_gather([json.dumps(row) for row in self.state.refused], delimiter="\n")
        unique = dict.fromkeys(filter(None, rows))  # where there are few cases, processes may share them
        self.state.refused = [json.loads(row) for row in unique]


class _Progress:
    """Progress through the cases of a process: a bar on a terminal, and otherwise a line for each case.

    Args:
        first: number of the cases of the processes before this one.
        total: number of all cases.
    """

    def __init__(self, first: int, total: int) -> None:
        self.number = first
        self.total = total
        self.bar: tqdm | None = None
        self.started = time.perf_counter()

    def advance(self, name: str) -> None:
        now = time.perf_counter()
        self._tell(logging.INFO, f"{name}, {now - self.started:.1f} s", name)
        self.started = now

    def leave_out(self, row: Mapping[str, Any]) -> None:
        name = Path(row["image"]).name
        level = logging.INFO if row["outcome"] == KEPT else logging.WARNING
        text = row["reason"] if name in row["reason"] else f"{name}: {row['reason']}"
        self._tell(level, f"{row['outcome']}: {text}", name)
        self.started = time.perf_counter()

    def _tell(self, level: int, text: str, name: str) -> None:
        self.number += 1
        if self.bar is not None:
            self.bar.set_postfix_str(name, refresh=False)
            self.bar.update()
        if self.bar is None or level > logging.INFO:
            logger.log(level, "%d of %d: %s", self.number, self.total, text)


@contextmanager
def _show_progress(loader: Any) -> Iterator[_Progress]:
    """Progress through the cases of a loader, with a bar where there is a terminal."""
    sampler = getattr(loader, "sampler", None)
    progress = _Progress(getattr(sampler, "first", 0), getattr(sampler, "total", len(loader)))
    if not sys.stderr.isatty():
        yield progress
        return
    with logging_redirect_tqdm(), tqdm(total=len(loader), unit="case", file=sys.stderr, leave=True) as progress.bar:
        yield progress


def _entry(output: Any) -> dict[str, str]:
    """Return the entry of a data list to which a minibatch of one case belongs, or what is left of it."""
    meta = _meta(output)
    return {"image": str(meta.get("filename_or_obj", "")), "case_id": case_name(meta)}


def _file_name(batch: Any) -> str:
    return Path(str(_meta(batch).get("filename_or_obj", ""))).name


def _meta(batch: Any) -> dict[str, Any]:
    """Return the metadata of the image of a case, before or after its minibatch was taken apart."""
    case = batch[0] if isinstance(batch, list) else batch
    meta = getattr(case["image"], "meta", {})
    return {name: ensure_tuple(meta[name])[0] for name in ("filename_or_obj", "case_id") if meta.get(name)}
