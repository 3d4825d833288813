"""What keeps a layer decomposition from its trivial solutions: nothing is tumor, or everything is.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230), whose composition loss both of them minimize.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.cli import DivergenceError
from common.training import register_state

from .losses import LayerDecompositionLoss
from .simulation import LAYERS

__all__ = ["DelayComposition", "StopOnCollapsedMask"]

logger = logging.getLogger(__name__)


class DelayComposition:
    """Leave the composition loss out of the first epochs, until organ, tumor and mask are there.

    Args:
        loss: other losses than `LayerDecompositionLoss` are left as they are.
        epochs: number of them.
        lr_scheduler: where it waits for the training loss to fall, it forgets the losses without the composition, which
            are smaller.
    """

    def __init__(self, loss: Any, epochs: int = 0, lr_scheduler: Any = None) -> None:
        self.loss = loss
        self.epochs = epochs
        self.lr_scheduler = lr_scheduler

    def attach(self, engine: Engine) -> None:
        if isinstance(self.loss, LayerDecompositionLoss):
            engine.add_event_handler(Events.EPOCH_STARTED, self._switch)

    def _switch(self, engine: Engine) -> None:
        self.loss.is_composed = engine.state.epoch > self.epochs
        if engine.state.epoch == self.epochs + 1 and isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.best, self.lr_scheduler.num_bad_epochs = self.lr_scheduler.mode_worse, 0


class StopOnCollapsedMask:
    """Log how large the predicted tumors are beside the simulated ones, and stop when they stay nothing or everything.

    The ratio of the volumes in an epoch becomes the metric `mask_ratio` of the trainer, whose output has `label` as
    `RandTumorLayers` and `pred` as `LayerUNet` return them; of other tasks, nothing is logged.

    Args:
        limit: a ratio above this, or below its inverse, counts as collapsed.
        patience: epochs in a row after which the training ends.

    Raises:
        FloatingPointError: when the mask has collapsed.
    """

    def __init__(self, limit: float = 20.0, patience: int = 10) -> None:
        self.limit = limit
        self.patience = patience
        self.waited = 0

    def attach(self, engine: Engine) -> None:
        register_state(engine, "collapsed_mask", self)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def state_dict(self) -> dict[str, Any]:
        return {"waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.waited = state["waited"]

    def _start(self, engine: Engine) -> None:
        self.volumes = torch.zeros(2, dtype=torch.float64)  # predicted and simulated

    def _add(self, engine: Engine) -> None:
        pred, label = engine.state.output["pred"], engine.state.output["label"]
        if pred.ndim != 5 or label.ndim != 5 or label.shape[1] != len(LAYERS):
            return
        mask = label[:, LAYERS.index("mask")]
        is_simulated = mask.flatten(1).amin(1) >= 0
        predicted = pred[is_simulated, LAYERS.index("mask")].detach() > 0
        self.volumes += torch.stack((predicted.sum(), (mask[is_simulated] > 0.5).sum())).cpu()

    def _check(self, engine: Engine) -> None:
        predicted, simulated = idist.all_reduce(self.volumes).tolist()  # of all processes, which then stop together
        if not simulated:
            return
        ratio = predicted / simulated
        engine.state.metrics["mask_ratio"] = ratio
        self.waited = 0 if 1 / self.limit <= ratio <= self.limit else self.waited + 1
        if self.waited >= self.patience:
            raise DivergenceError(
                f"mask must be about as large as the simulated tumors, got {ratio:.3g} of their volume in the last of "
                f"{self.waited} such epochs; set composition_delay, lower the learning rate, or try another seed"
            )
