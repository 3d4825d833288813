"""Training of transferred weights that begins later than that of the rest.

Source: J. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*, arXiv
2022 (https://arxiv.org/abs/2210.07936)
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
        ValueError: when `epoch` is negative, or something is frozen in a network that is trained in parallel: its
            processes do not exchange the gradients of what was frozen when they were set up.
    """

    def __init__(self, network: nn.Module, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self.network = network
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        networks = (self.network, getattr(engine, "network", None))
        is_frozen = not all(parameter.requires_grad for parameter in self.network.parameters())
        if is_frozen and any(isinstance(network, DistributedDataParallel) for network in networks):
            raise ValueError("network must be trained by one process to be unfrozen, got DistributedDataParallel")
        engine.add_event_handler(Events.EPOCH_STARTED, self._unfreeze)

    def _unfreeze(self, engine: Engine) -> None:
        frozen = [parameter for parameter in self.network.parameters() if not parameter.requires_grad]
        if engine.state.epoch > self.epoch and frozen:
            self.network.requires_grad_(True)
            logger.info("epoch %d: %d tensors unfrozen", engine.state.epoch, len(frozen))
