"""Unfreezing: weights that were transferred begin to learn after some epochs.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936), section 2.5.1
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.cli import InputError, check_each
from common.cli.options import INT

from .checkpoint import register_state
from .schedule import StopOnPlateau

__all__ = ["UnfreezeAfter"]

logger = logging.getLogger(__name__)


class UnfreezeAfter:
    """Handler that gives every parameter of a network its gradient back after some epochs, or at a plateau before.

    Where the training would end with frozen weights, since its validation loss no longer falls, they are unfrozen, and
    the patience begins anew (section 2.5.1: frozen until convergence, then unfrozen until convergence). The engine's
    own count of epochs decides, so a resumed training goes on as it would have. The optimizer must hold the frozen
    parameters from the start; it leaves those without a gradient as they are.

    Args:
        network: some of whose parameters are frozen, on every start of the training.
        epoch: largest number of epochs with frozen parameters; with 0, nothing stays frozen; None: what is frozen stays
            so.
        stop: that would end the training; None: a plateau changes nothing.

    Raises:
        ValueError: when something is to be unfrozen in a network that several processes train without exchanging the
            gradients of what was frozen when they were set up, see `parallelize`.
    """

    def __init__(self, network: nn.Module, epoch: int | None, stop: StopOnPlateau | None = None) -> None:
        check_each(INT.or_null, epoch=epoch)
        self.network = network
        self.epoch = epoch
        self.stop = stop
        self.engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        if self.epoch is None:
            return
        for network in (self.network, getattr(engine, "network", None)):
            if self._frozen() and isinstance(network, DistributedDataParallel) and not network.find_unused_parameters:
                raise InputError("network must be made by parallelize with unfreezes to be unfrozen, got one without")
        self.engine = engine
        register_state(engine, "unfreeze_after", self)
        engine.add_event_handler(Events.EPOCH_STARTED, self._unfreeze)
        if self.stop is not None:
            self.stop.postpone = self._postpone

    def state_dict(self) -> dict[str, int | None]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        self.epoch = state["epoch"]

    def _frozen(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if not parameter.requires_grad]

    def _postpone(self) -> bool:
        """Tell whether weights are still frozen, and unfreeze them with the next epoch."""
        if self.engine is None or self.epoch is None or not self._frozen():
            return False
        self.epoch = min(self.epoch, self.engine.state.epoch)
        return True

    def _unfreeze(self, engine: Engine) -> None:
        frozen = self._frozen()
        if self.epoch is not None and engine.state.epoch > self.epoch and frozen:
            self.network.requires_grad_(True)
            logger.info("epoch %d: %d tensors unfrozen", engine.state.epoch, len(frozen))
