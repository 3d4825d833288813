"""Averaged weights: the moving average of a network's weights over the steps of its training."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from common.cli import check_each
from common.cli.options import PROPER_FRACTION

from .checkpoint import register_state

__all__ = ["WeightAveraging"]

_MOMENTUM = "averaging_momentum"  # name in the state of an engine


class WeightAveraging:
    """Handler that keeps the exponential moving average of a network's weights, by ignite's `EMAHandler`.

    After step `t` the average is `decay * average + (1 - decay) * weights`; as long as `1 / t` is more than
    `1 - decay`, it is the plain mean of all steps so far, so that the initial weights do not count. Running means and
    variances of batch norms are averaged likewise: those of the trained network belong to other weights. The training
    itself is the same with and without an average.

    Args:
        network: that is trained, not its parallel wrapper.
        decay: share of the average that a step leaves, from 0 (the average is the trained network) to below 1; `None`:
            no average is made.

    Attributes:
        network: the averaged network, in eval mode and without gradients; without a `decay`, the trained one itself.
    """

    def __init__(self, network: nn.Module, decay: float | None = None) -> None:
        check_each(PROPER_FRACTION.or_null, decay=decay)
        self.trained = network
        self.average = None if decay is None else EMAHandler(network, handle_buffers="update")
        self.network = network if self.average is None else self.average.ema_model
        self.momentum = 1 - (decay or 0)

    def attach(self, engine: Engine) -> None:
        if self.average is not None:
            register_state(engine, "averaged network", self.network)
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.ITERATION_STARTED, self._set_momentum)
            self.average.attach(engine, _MOMENTUM, warn_if_exists=False)

    def _begin(self, engine: Engine) -> None:
        """Take over the weights with which the training begins, which may have been loaded since they were copied."""
        self.network.load_state_dict(self.trained.state_dict())

    def _set_momentum(self, engine: Engine) -> None:
        setattr(engine.state, _MOMENTUM, max(self.momentum, 1 / engine.state.iteration))
