"""Training run: the composite handler of all trainings, and evaluators of segmentations and of losses."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.metrics import Loss
from monai.data import MetaTensor
from monai.engines import Evaluator, SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import MeanDice, ValidationHandler, from_engine
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.cli import DivergenceError

from .averaging import WeightAveraging
from .case_loop import CaseEvaluator
from .checkpoint import ResumableCheckpoint, Stateful
from .history import MeanLoss, MetricsLogger
from .schedule import ScheduleLR, ValidateAtEnd
from .signals import StopOnSignal

__all__ = ["LossEvaluator", "SegmentationEvaluator", "StopOnNonFiniteLoss", "TrainingHandlers"]


class StopOnNonFiniteLoss:
    """Guard that ends a training at the first loss that is NaN or infinite, before it reaches the weights."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        loss = engine.state.output["loss"]
        if not torch.isfinite(loss):
            cases = list(_cases(engine.state.batch)) or "unknown"
            raise DivergenceError(
                f"loss must be finite, got {loss.item()} in epoch {engine.state.epoch}; lower the learning rate, or "
                f"look at these cases: {cases}. The last good checkpoint was kept."
            )


class TrainingHandlers:
    """Composite handler of a training: guard, validation, schedule, record, checkpoint and signals, in this order.

    The training stops at a loss that is not finite; it is validated every `val_interval` epochs and after the last one;
    the scheduler steps after every epoch; `history.csv`, `learning_curve.png` and `tensorboard/` tell how it went; it
    stops at a signal, and goes on from its checkpoint when it is started again. What is not given is left out.

    Args:
        save_dir: folder for what is written.
        objects: things with `state_dict` and `load_state_dict`, by name, that the checkpoint holds.
        loader: of the training, whose epoch the checkpoint sets.
        settings: options that must be the same where an interrupted training goes on, see `ResumableCheckpoint`.
        data: lists of cases that must be the same, too.
        resume: go on from a checkpoint if there is one; otherwise start anew.
        checkpoint: name of the file of the checkpoint; or a handler in its place.
        optimizer: whose learning rates are recorded.
        lr_scheduler: any of PyTorch's.
        validator: evaluator whose best metric decides which weights are kept.
        val_interval: epochs between two runs of it.
        loss_validator: evaluator of the validation loss, run after every epoch.
        stop: handler that ends the training early, such as `StopOnPlateau`.
        losses: names of losses, and of other numbers, in the trainer's output, whose means become metrics.
        handlers: of the task that is learned, attached behind the guard.
        averaging: of the weights, whose average the checkpoint holds, too.
    """

    def __init__(
        self,
        save_dir: str | Path,
        objects: Mapping[str, Stateful] | None = None,
        loader: Any = None,
        settings: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        resume: bool = True,
        checkpoint: str | Any = "training.ckpt",
        optimizer: Optimizer | None = None,
        lr_scheduler: LRScheduler | None = None,
        validator: Evaluator | None = None,
        val_interval: int = 1,
        loss_validator: Evaluator | None = None,
        stop: Any = None,
        losses: Sequence[str] = ("loss",),
        handlers: Sequence[Any] = (),
        averaging: WeightAveraging | None = None,
    ) -> None:
        self.losses = list(losses)
        self.handlers: list[Any] = [StopOnNonFiniteLoss(), *handlers]
        if averaging is not None:
            self.handlers.append(averaging)
        if loss_validator is not None:
            self.handlers.append(ValidationHandler(1, loss_validator))
        if validator is not None:
            self.handlers += [ValidationHandler(val_interval, validator), ValidateAtEnd(validator)]
        if lr_scheduler is not None:
            self.handlers.append(ScheduleLR(lr_scheduler))
        if stop is not None:
            self.handlers.append(stop)
        validators = [evaluator for evaluator in (loss_validator, validator) if evaluator is not None]
        self.handlers.append(MetricsLogger(save_dir, optimizer, validators))
        if isinstance(checkpoint, str):
            path = Path(save_dir) / checkpoint
            checkpoint = ResumableCheckpoint(path, objects or {}, validator, loader, settings, data, resume)
        self.handlers.append(checkpoint)
        remedy = "the same command goes on" if resume else "the same command without --resume False goes on"
        self.handlers.append(StopOnSignal(remedy, is_training=True))
        if not (dist.is_available() and dist.is_initialized()):  # whose processes stop in the training, together
            for evaluator in validators:
                StopOnSignal(f"{remedy} from the last checkpoint").attach(evaluator)

    def attach(self, engine: Engine) -> None:
        for name in self.losses:
            MeanLoss(name).attach(engine, "train_loss" if name == "loss" else name)
        for handler in self.handlers:
            handler.attach(engine)


class SegmentationEvaluator(CaseEvaluator):
    """Evaluator of segmentations against labels, with the mean Dice of all classes but the background.

    Args:
        num_classes: background included. If given, what is wrong with a case is noted, and the others are scored;
            otherwise it ends the run, as it must within a training.
        arguments: of `CaseEvaluator`; `pred` and `label` are one-hot after its `postprocessing`.
    """

    def __init__(self, num_classes: int | None = None, **arguments: Any) -> None:
        dice = MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        metrics = {"mean_dice": dice} if "key_val_metric" not in arguments else arguments.pop("key_val_metric")
        self.metrics = [*metrics.values(), *(arguments.get("additional_metrics") or {}).values()]
        self.num_classes = num_classes
        super().__init__(num_classes is not None, key_val_metric=metrics, **arguments)

    def _count_scores(self) -> list[int]:
        return [len((metric.metric_fn._buffers or [[]])[0]) for metric in self.metrics]

    def _drop_scores(self, kept: Sequence[int]) -> None:
        for metric, count in zip(self.metrics, kept, strict=True):
            for rows in metric.metric_fn._buffers or ():  # MONAI's `Cumulative` takes nothing back itself
                del rows[count:]

    def _finish(self) -> None:
        """Score nothing against nothing where no case of this process has a score: processes compute metrics together.

        `SaveScores` leaves that row out.
        """
        if self.num_classes is not None and len(self.state.refused) == self.state.epoch_length:
            nothing = MetaTensor(torch.zeros(self.num_classes, 2, 2, 2))
            for metric in self.metrics:
                metric.update(([nothing], [nothing]))
        super()._finish()


class LossEvaluator(SupervisedEvaluator):
    """Evaluator of the loss on held-out minibatches, the smallest of which is the best.

    Args:
        loss: takes the network's output and the target.
        name: of the metric.
        arguments: of `SupervisedEvaluator`.
    """

    def __init__(self, loss: Callable[[Any, Any], torch.Tensor], name: str = "val_loss", **arguments: Any) -> None:
        metric = Loss(loss, output_transform=from_engine(["pred", "label"]))
        super().__init__(key_val_metric={name: metric}, metric_cmp_fn=operator.lt, decollate=False, **arguments)


def _cases(batch: Any) -> Iterator[str]:
    """Yield the files of a minibatch, or of several that have names."""
    if isinstance(batch, dict):
        yield from batch.get("case", [])
        for part in batch.values():
            yield from _cases(part)
