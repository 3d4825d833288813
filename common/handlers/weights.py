"""Weights for evaluation and inference."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from common.networks import load_weights

__all__ = ["LoadWeights"]

logger = logging.getLogger(__name__)


class LoadWeights:
    """Load all weights of a network when an engine starts, or refuse.

    Args:
        path: state dict of the network.
        network: whose weights are replaced.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a tensor is missing, unknown or of another shape.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, engine: Engine) -> None:
        network = getattr(self.network, "module", self.network)
        weights = load_weights(self.path)
        try:
            copy.deepcopy(network).load_state_dict(weights)  # an atlas takes its size from them; none is half loaded
        except RuntimeError:
            expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
            found = {name: tuple(value.shape) for name, value in weights.items()}
            differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            raise ValueError(
                f"{self.path}: weights must be those of the network that the config describes, got {len(differing)} of "
                f"{len(expected)} tensors that are missing, unknown or of another shape, such as {differing[0]}"
            ) from None
        network.load_state_dict(weights)
        logger.info("loaded %d tensors from %s", len(weights), self.path)
