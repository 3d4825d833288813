"""Transfer of a pretrained inpainting network to segmentation, its controls, and a handler that unfreezes it.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.cli import RANDOM, InputError, check_choice, check_each, check_flags, is_scratch
from common.cli.options import INT
from common.training import StopOnPlateau, copy_weights, load_weights, match_parts, register_state

from .network import ContextUNet

__all__ = ["UnfreezeAfter", "transfer_context"]

logger = logging.getLogger(__name__)

_PREFIXES = {"encoder": ("encoder.",), "encoder_decoder": ("encoder.", "decoder."), "statistics": ("encoder.",)}


def transfer_context(
    network: ContextUNet,
    path: str | Path | None,
    parts: str = "encoder",
    freeze: bool = False,
    seed: int = 0,
) -> ContextUNet:
    """Copy a pretrained encoder, and perhaps its decoder, into a network; all of their tensors or none.

    The paper's best choice is the encoder, with all weights trainable at once. A control tells whether what was learned
    counts, or only its scale: `statistics` copies the biases and norms of the encoder and draws the weights of each
    filter anew, from the normal distribution with the mean and the standard deviation of the pretrained filter.

    Args:
        network: of the same features and input channels as the pretrained one; changed in place.
        path: state dict of a `ContextUNet`; `None` or `null` trains from scratch, `random` keeps the initial weights.
        parts: `encoder`, `encoder_decoder` or `statistics`. The head is never transferred.
        freeze: the tensors of these parts require no gradient, until `UnfreezeAfter` gives it back.
        seed: of the weights that `statistics` draws.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit the network.
    """
    check_choice("parts", parts, _PREFIXES)
    check_flags(freeze=freeze)
    if is_scratch(path):
        logger.info("context U-Net: from scratch, nothing transferred")
        return network
    fate = "frozen" if freeze else "trainable"
    if path == RANDOM:
        logger.info("context U-Net: initial weights, nothing transferred; %s %s", parts, fate)
    else:
        weights = match_parts(network, load_weights(path), _PREFIXES[parts], path)
        if parts == "statistics":
            generator = torch.Generator().manual_seed(seed)
            weights = {name: _redraw_filters(value, generator) for name, value in weights.items()}
        copy_weights(network, weights, path, f"context U-Net, {parts} {fate}")
    if freeze:
        for name, parameter in network.named_parameters():
            if name.startswith(_PREFIXES[parts]):
                parameter.requires_grad_(False)
    return network


def _redraw_filters(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random kernels with each filter's mean and standard deviation; a bias or a norm stays as it is."""
    if weight.ndim == 1:
        return weight
    std, mean = torch.std_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return mean + std * torch.randn(weight.shape, generator=generator)


class UnfreezeAfter:
    """Handler that gives every parameter of a network its gradient back after some epochs, or at a plateau before.

    Where the training would end with frozen weights, since its validation loss no longer falls, they are unfrozen, and
    the patience begins anew (section 2.5.1: frozen until convergence, then unfrozen until convergence). The engine's
    own count of epochs decides, so a resumed training goes on as it would have. The optimizer must hold the frozen
    parameters from the start; it leaves those without a gradient as they are.

    Args:
        network: some of whose parameters are frozen, on every start of the training.
        epoch: largest number of epochs with frozen parameters; with 0, nothing stays frozen.
        stop: that would end the training; None: a plateau changes nothing.

    Raises:
        ValueError: when something is frozen in a network that is trained in parallel: its processes do not exchange the
            gradients of what was frozen when they were set up.
    """

    def __init__(self, network: nn.Module, epoch: int, stop: StopOnPlateau | None = None) -> None:
        check_each(INT, epoch=epoch)
        self.network = network
        self.epoch = epoch
        self.stop = stop
        self.engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        networks = (self.network, getattr(engine, "network", None))
        if self._frozen() and any(isinstance(network, DistributedDataParallel) for network in networks):
            raise InputError("network must be trained by one process to be unfrozen, got DistributedDataParallel")
        self.engine = engine
        register_state(engine, "unfreeze_after", self)
        engine.add_event_handler(Events.EPOCH_STARTED, self._unfreeze)
        if self.stop is not None:
            self.stop.postpone = self._postpone

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch = state["epoch"]

    def _frozen(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if not parameter.requires_grad]

    def _postpone(self) -> bool:
        """Tell whether weights are still frozen, and unfreeze them with the next epoch."""
        if self.engine is None or not self._frozen():
            return False
        self.epoch = min(self.epoch, self.engine.state.epoch)
        return True

    def _unfreeze(self, engine: Engine) -> None:
        frozen = self._frozen()
        if engine.state.epoch > self.epoch and frozen:
            self.network.requires_grad_(True)
            logger.info("epoch %d: %d tensors unfrozen", engine.state.epoch, len(frozen))
