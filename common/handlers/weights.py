"""Weights for evaluation and inference."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from common.networks import load_network

__all__ = ["LoadWeights"]


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
        load_network(getattr(self.network, "module", self.network), self.path)
