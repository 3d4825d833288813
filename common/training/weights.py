"""Weights: read from a file, refused when they do not fit, and copied into a network, all of a part or none."""

from __future__ import annotations

import copy
import logging
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.networks import copy_model_state
from torch import nn

from common.cli import InputError, MissingFileError, has_weights, is_scratch
from common.data import check_channels, check_weights, load_record
from common.data.record import find_record

__all__ = [
    "LoadWeights",
    "check_pretrained_channels",
    "copy_weights",
    "init_network",
    "load_network",
    "load_weights",
    "match_parts",
    "match_weights",
]

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


def load_weights(path: Any, has_record: bool = True) -> dict[str, torch.Tensor]:
    """Read a state dict from a file written by `torch.save`, and refuse what is not one.

    Args:
        path: of the file.
        has_record: the record beside the weights, if there is one, must be theirs.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds anything but finite tensors by name, or has the record of other weights.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"{path}: weights must exist; pretrain first, or pass --pretrained null to train from scratch"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            damaged = archive.testzip()
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN_FILE as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{path}: weights must be a whole file written by torch.save, got {reason}; copy them again, or train again"
        ) from None
    if damaged is not None:
        raise InputError(
            f"{path}: weights must have the checksums they were written with, got another for "
            f"{damaged}; copy them again"
        )
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(
            f"{path}: weights must be tensors by name, got {type(weights).__name__}; save the network's state_dict"
        )
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"{path}: weights must be finite, got NaN or Inf in {broken}; train again")
    if has_record:
        check_weights(path)
    return weights


def load_network(network: nn.Module, path: Any) -> nn.Module:
    """Replace all weights of a network, or refuse.

    Args:
        network: changed in place, and returned.
        path: state dict of the network.

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
        raise InputError(
            f"{path}: weights must be those of the network that the config describes, got {len(differing)} of "
            f"{len(expected)} tensors that are missing, unknown or of another shape, such as "
            f"{differing[0]}; give the config files and options of the training"
        ) from None
    network.load_state_dict(weights)
    logger.info("loaded %d tensors from %s", len(weights), path)
    return network


def check_pretrained_channels(path: Any, modality: Sequence[str]) -> None:
    """Refuse weights that were pretrained on other channels, as the record beside them tells, if there is one.

    Args:
        path: file of the weights.
        modality: name of each channel of the images that are to be learned from.
    """
    if find_record(Path(path).parent) is not None:
        check_channels(load_record(path), modality, str(path))


def init_network(
    network: nn.Module,
    path: str | Path | None,
    head: Sequence[str],
    modality: Sequence[str],
    labels: Mapping[int, str] | None = None,
    pretrained: str | Path | None = None,
) -> nn.Module:
    """Begin with the weights of a trained network of the same architecture, which may tell other classes apart.

    Args:
        network: changed in place, and returned.
        path: state dict of the trained network; `None` or `null`: the network stays as it is.
        head: prefixes of the names of its tensors that belong to its classes.
        modality: name of each channel of a scan, of which the trained network must know as many.
        labels: names of the classes by their value; where those of the trained network are the same, its head is taken,
            too. None: it never is.
        pretrained: weights of a pretraining, which must be left out where there are these.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when both kinds of weights are given, or these do not fit.
    """
    if not has_weights(path):
        return network
    if not is_scratch(pretrained):
        raise InputError(f"init_from and pretrained must be one of the two, got {path} and {pretrained}; leave one out")
    weights, record = load_weights(path), load_record(str(path))
    check_channels(record, modality, str(path))
    own = network.state_dict()
    taken = {name: name for name in own if record.labels == labels or not name.startswith(tuple(head))}
    beyond = [name for name in weights if name not in own]
    if beyond or not taken:
        raise InputError(
            f"{path}: weights must be those of a trained network of the same architecture, got "
            f"{beyond[0] if beyond else 'none that is not of its classes'}; give the config files and options of its "
            "training"
        )
    copy_model_state(network, match_weights(network, weights, taken, path))
    left = ", ".join(name for name in own if name not in taken) or "none"
    logger.info("began with %s: %d of %d tensors taken, left as they were: %s", path, len(taken), len(own), left)
    return network


def match_weights(
    network: nn.Module, weights: Mapping[str, torch.Tensor], names: Mapping[str, str], path: Any
) -> dict[str, torch.Tensor]:
    """Return the weights that go into a part of a network, by the names that they have there.

    Args:
        network: that takes them.
        weights: of another network, by name; a tensor that is missing or has another shape is refused.
        names: in `weights`, by those in the network.
        path: file of the weights, for the errors.
    """
    target = network.state_dict()
    for name, source in names.items():
        expected = tuple(target[name].shape)
        found = tuple(weights[source].shape) if source in weights else "nothing"
        if found != expected:
            raise InputError(
                f"{path}: {source} must have shape {expected}, got {found}; give the config files and "
                "options of its training"
            )
    return {name: weights[source] for name, source in names.items()}


def match_parts(
    network: nn.Module, weights: Mapping[str, torch.Tensor], prefixes: Sequence[str], path: Any
) -> dict[str, torch.Tensor]:
    """Return the weights of the parts that a network and another one have in common, see `match_weights`.

    Args:
        network: that takes them.
        weights: of the other network, by name; a tensor of a part that the network does not know is refused, too.
        prefixes: of the names of the parts.
        path: file of the weights, for the errors.
    """
    own = {name: name for name in network.state_dict() if name.startswith(tuple(prefixes))}
    beyond = [name for name in weights if name.startswith(tuple(prefixes)) and name not in own]
    matched = match_weights(network, weights, own, path)
    if beyond:
        raise InputError(
            f"{path}: weights must have no tensor that the network lacks, got {beyond[0]}; give the "
            "config files and options of the pretraining"
        )
    return matched


def copy_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Any, part: str) -> None:
    """Put weights that match into a network, whose others stay, and log which `part` they are and their file."""
    copy_model_state(network, dict(weights))
    logger.info("%s: %d of %d tensors transferred from %s", part, len(weights), len(network.state_dict()), path)


class LoadWeights:
    """Load all weights of a network when an engine starts, or refuse; see `load_network`."""

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path = Path(path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, engine: Engine) -> None:
        load_network(getattr(self.network, "module", self.network), self.path)
