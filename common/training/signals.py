"""Signals that end a run: between two iterations, in all processes at the same one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from common.cli import Interruption, forget_signals, note_signals, noted_signal

__all__ = ["StopOnSignal"]


class StopOnSignal:
    """Handler that ends a run between two iterations once SIGINT or SIGTERM has come.

    The signal itself only sets a flag; a second one ends the process at once. In another thread than the main one, such
    as that of a server, signals are left alone. The last checkpoint is that of the last whole epoch.

    Args:
        remedy: how to go on, for the last line.
        is_training: each iteration is made by all processes of a distributed run, which then stop at the same one;
            otherwise each process stops by itself, or, in a validation, leaves it to the training.
    """

    def __init__(self, remedy: str = "the same command begins anew", is_training: bool = False) -> None:
        self.remedy = remedy
        self.is_training = is_training
        self.is_owner = False
        self.group: dist.ProcessGroup | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._check)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        if self.is_training:
            forget_signals()  # noted for a run that an error has ended
        self.is_owner = note_signals()
        if self.is_training and dist.is_available() and dist.is_initialized():
            self.group = dist.new_group(backend="gloo")  # beside NCCL, so that no GPU is waited for

    def _check(self, engine: Engine) -> None:
        number = noted_signal() or 0
        if self.group is not None:
            largest = torch.tensor(number)
            dist.all_reduce(largest, dist.ReduceOp.MAX, self.group)
            number = int(largest)
        if number:
            forget_signals()
            raise Interruption(number, self._sentence(engine))

    def _sentence(self, engine: Engine) -> str:
        state = engine.state
        if self.is_training:
            place = f"in epoch {state.epoch} of {state.max_epochs}"
            return f"interrupted {place}; {self.remedy} after epoch {state.epoch - 1}"
        return f"interrupted after {state.iteration % state.epoch_length} of {state.epoch_length}; {self.remedy}"

    def _end(self, engine: Engine) -> None:
        if self.is_owner:
            forget_signals()
