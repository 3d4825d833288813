"""Training of transferred weights that begins later than that of the rest.

Source: A. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*
"""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["UnfreezeAfter"]

logger = logging.getLogger(__name__)


class UnfreezeAfter:
    """Give every parameter of a network its gradient back after some epochs.

    The engine's own count of epochs decides, so a resumed training goes on as it would have. The optimizer must hold
    the frozen parameters from the start; it leaves those without a gradient as they are.

    Args:
        network: some of whose parameters are frozen, on every start of the training.
        epoch: number of epochs with frozen parameters; with 0, nothing stays frozen.

    Raises:
        ValueError: when `epoch` is negative, or the trained network is parallel, whose processes do not exchange the
            gradients of what was frozen when they were set up.
    """

    def __init__(self, network: nn.Module, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self.network = network
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        trained = getattr(engine, "network", None)
        if isinstance(trained, DistributedDataParallel) or isinstance(self.network, DistributedDataParallel):
            raise ValueError("network must be trained by one process to be unfrozen, got DistributedDataParallel")
        engine.add_event_handler(Events.EPOCH_STARTED, self._unfreeze)

    def _unfreeze(self, engine: Engine) -> None:
        frozen = [parameter for parameter in self.network.parameters() if not parameter.requires_grad]
        if engine.state.epoch > self.epoch and frozen:
            self.network.requires_grad_(True)
            logger.info("epoch %d: %d tensors unfrozen", engine.state.epoch, len(frozen))
