"""Transfer of pretrained extraction pathways to F-Net, and what may change afterwards (S-TL).

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import copy
import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

__all__ = ["LoadWeights", "load_network", "load_weights"]

logger = logging.getLogger(__name__)

# what torch.load raises for files that are cut off, of another kind, or hold objects
_BROKEN_FILE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def load_weights(path: Any) -> dict[str, torch.Tensor]:
    """Read a state dict, refusing what is not one.

    Args:
        path: file written by `torch.save`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds anything but finite tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: weights must exist; pretrain first, or pass --pretrained null to train from scratch"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            damaged = archive.testzip()
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN_FILE as error:
        raise ValueError(
            f"{path}: weights must be a whole file written by torch.save, got {_first_line(error)}"
        ) from None
    if damaged is not None:
        raise ValueError(f"{path}: weights must have the checksums they were written with, got another for {damaged}")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path}: weights must be tensors by name, got {type(weights).__name__}")
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"{path}: weights must be finite, got NaN or Inf in {broken}")
    return weights


def load_network(network: nn.Module, path: Any) -> nn.Module:
    """Replace all weights of a network, or refuse.

    Args:
        network: changed in place.
        path: state dict of the network.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a tensor is missing, unknown or of another shape.
    """
    weights = load_weights(path)
    try:
        copy.deepcopy(network).load_state_dict(weights)  # an atlas takes its size from them; none is half loaded
    except RuntimeError:
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in weights.items()}
        differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise ValueError(
            f"{path}: weights must be those of the network that the config describes, got {len(differing)} of "
            f"{len(expected)} tensors that are missing, unknown or of another shape, such as {differing[0]}"
        ) from None
    network.load_state_dict(weights)
    logger.info("loaded %d tensors from %s", len(weights), path)
    return network


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


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
