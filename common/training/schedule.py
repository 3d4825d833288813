"""Schedules: when the learning rate falls, when a training stops, and when it is validated.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.cli import InputError

from .checkpoint import register_state

__all__ = ["MovingAverage", "MovingAveragePlateau", "ScheduleLR", "StopOnPlateau", "ValidateAtEnd"]

logger = logging.getLogger(__name__)


class MovingAverage:
    """Exponential moving average that begins with its first value.

    Args:
        coefficient: weight of the past. The paper does not give it.
    """

    def __init__(self, coefficient: float = 0.93) -> None:
        if not 0 <= coefficient < 1:
            raise InputError(f"coefficient must be in [0, 1), got {coefficient}")
        self.coefficient = coefficient
        self.value: float | None = None

    def update(self, value: float) -> float:
        """Take a value in and return the average."""
        past = value if self.value is None else self.value
        self.value = self.coefficient * past + (1 - self.coefficient) * value
        return self.value


class MovingAveragePlateau(ReduceLROnPlateau):
    """Reduce the learning rate when the moving average of the training loss no longer falls.

    Args:
        optimizer: whose learning rates are reduced.
        factor: of each reduction, after `patience` epochs without a fall.
        threshold: what counts as a fall, in units of the loss.
        min_lr: smallest learning rate.
        coefficient: weight of the past in the moving average.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.8,
        patience: int = 50,
        threshold: float = 5e-3,
        min_lr: float = 1e-7,
        coefficient: float = 0.93,
    ) -> None:
        super().__init__(
            optimizer,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",
            min_lr=min_lr,
            eps=0,  # otherwise the last, small step to min_lr may be left out
        )
        self.average = MovingAverage(coefficient)

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        super().step(self.average.update(float(metrics)), epoch)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["average"] = state["average"].value
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        average = self.average
        average.value = state_dict["average"]
        super().load_state_dict({**state_dict, "average": average})


class ScheduleLR:
    """Step a scheduler at the end of every epoch, with the epoch's loss if it asks for one.

    Args:
        lr_scheduler: any of PyTorch's; one that asks for a metric gets `train_loss`.
    """

    def __init__(self, lr_scheduler: LRScheduler) -> None:
        self.lr_scheduler = lr_scheduler

    def attach(self, engine: Engine) -> None:
        register_state(engine, "lr_scheduler", self.lr_scheduler)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(engine.state.metrics["train_loss"])
        else:
            self.lr_scheduler.step()


class StopOnPlateau:
    """End the training when the validation loss no longer falls and the learning rate is low.

    The paper stops only at a learning rate of 1e-7. From 3e-4 that takes 36 reductions of 50 epochs, more than its 1000
    epochs allow, so with its own numbers the rule never acts; `stop_lr` moves it.

    Args:
        validator: evaluator that computes the validation loss as `val_loss`.
        optimizer: whose largest learning rate counts.
        patience: epochs without a fall.
        threshold: what counts as a fall of the moving average, in units of the loss.
        stop_lr: learning rate at or below which the training may end.
        coefficient: weight of the past in the moving average.

    Attributes:
        postpone: called before the training ends; where it returns True, it goes on, and the count begins anew.
    """

    def __init__(
        self,
        validator: Engine,
        optimizer: Optimizer,
        patience: int = 60,
        threshold: float = 5e-3,
        stop_lr: float = 1e-7,
        coefficient: float = 0.93,
    ) -> None:
        self.validator = validator
        self.optimizer = optimizer
        self.patience = patience
        self.threshold = threshold
        self.stop_lr = stop_lr
        self.average = MovingAverage(coefficient)
        self.best = math.inf
        self.waited = 0
        self.engine: Engine | None = None
        self.postpone: Callable[[], bool] = lambda: False

    def attach(self, engine: Engine) -> None:
        self.engine = engine
        register_state(engine, "stop_on_plateau", self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.value, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average.value, self.best, self.waited = state["average"], state["best"], state["waited"]
        if self._has_ended():  # a training that was ended between its last epoch and its end has no further one
            self._end()

    def _check(self, engine: Engine) -> None:
        average = self.average.update(float(self.validator.state.metrics["val_loss"]))
        if average < self.best - self.threshold:
            self.best, self.waited = average, 0
        else:
            self.waited += 1
        if self._has_ended():
            if self.postpone():
                self.best, self.waited = math.inf, 0
            else:
                self._end()

    def _has_ended(self) -> bool:
        learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
        return self.waited > self.patience and learning_rate <= self.stop_lr

    def _end(self) -> None:
        if self.engine is not None:
            logger.info("validation loss has not fallen for %d epochs: stopped", self.waited)
            self.engine.terminate()


class ValidateAtEnd:
    """Run an evaluator after the last epoch, unless that epoch was validated already.

    Otherwise a training shorter than the validation interval would leave no weights.
    """

    def __init__(self, validator: Evaluator) -> None:
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)
