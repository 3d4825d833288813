"""Collapse of a layer decomposition to its trivial solutions, nothing is tumor or everything is, and its guards.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230), whose composition loss both solutions minimize.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.cli import DivergenceError
from common.training import register_state, registered_states

from .losses import LayerDecompositionLoss
from .simulation import split_layers

__all__ = ["DelayComposition", "StopOnCollapsedMask"]


class DelayComposition:
    """Delay of the composition loss by the first `epochs`, until organ, tumor and mask are there.

    The losses without it are smaller: a scheduler of `ScheduleLR` that waits for the training loss to fall forgets
    them.
    """

    def __init__(self, loss: LayerDecompositionLoss, epochs: int = 0) -> None:
        self.loss = loss
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._switch)

    def _switch(self, engine: Engine) -> None:
        self.loss.is_composed = engine.state.epoch > self.epochs
        lr_scheduler: Any = registered_states(engine).get("lr_scheduler")
        if engine.state.epoch == self.epochs + 1 and isinstance(lr_scheduler, ReduceLROnPlateau):
            lr_scheduler.best, lr_scheduler.num_bad_epochs = lr_scheduler.mode_worse, 0


class StopOnCollapsedMask:
    """Early stop of a training whose mask has collapsed: its predicted tumors stay nothing or everything.

    The ratio of the volumes of predicted and simulated tumors in an epoch becomes the metric `mask_ratio` of the
    trainer, whose output has `label` as `RandTumorLayers` and `pred` as `LayerUNet` return them.

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
        mask = split_layers(engine.state.output["label"]).mask
        is_simulated = mask.flatten(1).amin(1) >= 0
        predicted = engine.state.output["pred"][is_simulated, -1].detach() > 0
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
