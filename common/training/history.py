"""Training history: losses, metrics and learning rates in the log, TensorBoard, CSV and a picture."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from ignite.contrib.handlers import ProgressBar
from ignite.engine import Engine, Events
from ignite.metrics import Average
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from common.data import is_main_process, name_full_disk, write_atomically

from .checkpoint import register_state
from .pictures import save_curves

__all__ = ["MeanLoss", "MetricsLogger"]

logger = logging.getLogger(__name__)


class MetricsLogger:
    """Log loss, learning rate and validation metrics of every epoch.

    They go to the log (one line per epoch, or a progress bar on a terminal), to TensorBoard, to `history.csv` and to
    `learning_curve.png` in the folder. They become metrics of the engine, where MONAI's tracking finds them.

    Args:
        save_dir: folder for the files.
        optimizer: whose learning rates are recorded, if there is one.
        validators: evaluators whose metrics are recorded in the epochs in which they ran.
    """

    def __init__(self, save_dir: str | Path, optimizer: Optimizer | None, validators: Sequence[Engine] = ()) -> None:
        self.save_dir = Path(save_dir)
        self.optimizer = optimizer
        self.validators = list(validators)
        self.rows: list[dict[str, Any]] = []
        self.validated: dict[str, float] = {}
        self.added: dict[str, float] = {}
        self.started = 0.0
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        register_state(engine, "record", self)
        for validator in self.validators:
            validator.add_event_handler(Events.COMPLETED, self._collect)
        if not is_main_process():
            return
        if sys.stderr.isatty():
            ProgressBar(desc="epoch", persist=False).attach(engine, output_transform=_loss)
        engine.add_event_handler(Events.ITERATION_COMPLETED, _shield)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = list(state["rows"])

    def _collect(self, validator: Engine) -> None:
        self.validated.update({name: float(value) for name, value in validator.state.metrics.items()})

    def _start(self, engine: Engine) -> None:
        self.started = time.perf_counter()
        self.validated = {}
        for name in self.added:
            engine.state.metrics.pop(name, None)

    def _finish(self, engine: Engine) -> None:
        metrics = {name: float(value) for name, value in engine.state.metrics.items()} | self.validated
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        rates = {f"lr_{group.get('name', index)}": group["lr"] for index, group in enumerate(groups)}
        self.added = {
            name: value for name, value in {**self.validated, **rates}.items() if name not in engine.state.metrics
        }
        engine.state.metrics.update(self.added)
        seconds = time.perf_counter() - self.started
        self.rows.append({"epoch": engine.state.epoch, **metrics, **rates, "seconds": round(seconds, 3)})
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in {**metrics, **rates}.items())
        logger.info("epoch %d/%d: %s, %.1f s", engine.state.epoch, engine.state.max_epochs, numbers, seconds)
        folder = self.save_dir / "tensorboard"
        with name_full_disk(folder):
            if self.writer is None:
                self.writer = SummaryWriter(str(folder), purge_step=engine.state.epoch)
            for name, value in {**metrics, **rates}.items():
                self.writer.add_scalar(name, value, engine.state.epoch)
            self.writer.flush()  # nothing of it is lost by a run that is ended
        write_atomically(self.save_dir / "history.csv", self._write_history)

    def _write_history(self, path: Path) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def _close(self, engine: Engine, *error: BaseException) -> None:
        if self.writer is not None:
            with suppress(OSError) if error else name_full_disk(self.save_dir):
                self.writer.close()
            self.writer = None
        if self.rows:
            if self.rows[-1]["epoch"] == engine.state.epoch:
                self.rows[-1].update(self.validated)  # a validation after the last epoch
            write_atomically(self.save_dir / "history.csv", self._write_history)
            save_curves(self.rows, self.save_dir / "learning_curve.png")
        if error:
            raise error[0]


def _shield(engine: Engine) -> None:
    """Make the output something else than a dict, out of which MONAI's tracking would take a tuple for the loss."""
    if isinstance(engine.state.output, dict):
        engine.state.output = MappingProxyType(engine.state.output)


def _loss(output: Mapping[str, Any]) -> dict[str, float]:
    return {"loss": output["loss"].item()} if "loss" in output else {}


class MeanLoss(Average):
    """Mean of a trainer's loss over the iterations of an epoch, and over all processes of a distributed run.

    Args:
        name: of the loss, or of another number, in the trainer's output.
    """

    def __init__(self, name: str = "loss") -> None:
        super().__init__(output_transform=lambda output: torch.as_tensor(output[name]).detach())
