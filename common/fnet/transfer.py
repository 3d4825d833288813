"""Transfer of pretrained extraction pathways to F-Net, and what may change afterwards (S-TL).

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from common.cli import RANDOM, InputError, is_scratch
from common.cli.options import POSITIVE
from common.training import copy_weights, load_weights, match_weights

from .network import FNet

__all__ = ["parameter_groups", "transfer_extraction"]

logger = logging.getLogger(__name__)


def transfer_extraction(
    network: FNet,
    path: str | Path | None,
    phi: float | str = 1.0,
    levels: Sequence[int] | None = None,
    frozen_convs: Sequence[int] = (0,),
    reference: str | Path | None = None,
) -> FNet:
    """Copy the encoders of winner-take-all autoencoders into F-Net, times `phi`, and freeze some of them.

    The paper's default freezes the first convolution of each pathway. Its other schemes are `frozen_convs` of
    `[0, 1, 2]` (freeze all), `[0, 1]` (fine-tune the last), `[]` (fine-tune all), and `levels` of `[0, 1, 2]` (the
    coarsest level from scratch).

    Convolutions are copied, batch norms start afresh. What follows a convolution is a batch norm, so `phi` does not
    change what a pathway computes; it changes how fast the optimizer turns its weights.

    Args:
        network: F-Net of the same features, kernel size and input channels; changed in place.
        path: state dict of `WTAAutoencoders`; `None` or `null` trains from scratch, `random` keeps the initial weights.
        phi: factor of the weights: a number, `match_init` (each convolution keeps the Frobenius norm of its initial
            weights) or `match_reference` (it gets the norm that it has in `reference`). The paper gives no number.
        levels: levels to transfer; all if not given.
        frozen_convs: indices of the convolutions of each transferred pathway that no longer require a gradient.
        reference: state dict of a trained F-Net, for `match_reference`.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit the network, or `phi` is neither a positive number nor known.
    """
    if is_scratch(path):
        logger.info("extraction pathways: nothing transferred")
        return network
    levels = _existing_levels(network, levels)
    convs = list(range(len(network.pathway(0))))
    if not set(frozen_convs) <= set(convs):
        raise InputError(f"frozen_convs must be some of {convs}, first to last, got {list(frozen_convs)}")
    for level in levels:
        for index in frozen_convs:
            network.pathway(level)[index].conv.requires_grad_(False)
    if path == RANDOM:
        logger.info("extraction pathways: initial weights, nothing transferred; convolutions %s frozen", frozen_convs)
        return network
    names = {
        f"extraction.{level}.{conv}.conv.{part}": f"levels.{level}.encoder.{conv}.conv.{part}"
        for level in levels
        for conv in convs
        for part in ("weight", "bias")
    }
    if phi not in ("match_init", "match_reference") and not POSITIVE.fits(phi):
        raise InputError(f"phi must be a positive number, match_init or match_reference, got {phi!r}")
    if phi == "match_reference" and reference is None:
        raise InputError("reference must be the weights of a trained F-Net when phi is match_reference, got None")
    like = load_weights(reference) if phi == "match_reference" else network.state_dict()
    weights = match_weights(network, load_weights(path), names, path)
    for name in [name for name in weights if name.endswith(".weight")]:
        factor: Any = phi
        if isinstance(phi, str):
            if name not in like:
                raise InputError(f"{reference}: reference must be the weights of a trained F-Net, got no {name}")
            norm = weights[name].norm()
            if norm == 0:
                raise InputError(
                    f"{path}: {names[name]} must not be all zero when phi is {phi}, got only zeros; "
                    "pretrain again, or pass --phi 1.0"
                )
            factor = like[name].norm() / norm
        for scaled in (name, name.removesuffix("weight") + "bias"):
            weights[scaled] = factor * weights[scaled]
    copy_weights(network, weights, path, "extraction pathways")
    return network


def parameter_groups(
    network: FNet,
    pretrained: str | Path | None,
    learning_rate: float,
    transferred_learning_rate: float,
    levels: Sequence[int] | None = None,
    unfreezes: bool = False,
) -> list[dict]:
    """Return the groups of an optimizer, in which the transferred convolutions have a learning rate of their own.

    Args:
        network: what `transfer_extraction` returned.
        pretrained: its `path`; with `None`, all parameters have the same learning rate.
        learning_rate: of everything that was not transferred, batch norms included.
        transferred_learning_rate: of the transferred convolutions that are not frozen.
        levels: those that were transferred; all if not given.
        unfreezes: what is frozen will learn later, see `UnfreezeAfter`, and so belongs to the optimizer from the start.
    """
    transferred: list[nn.Parameter] = []
    for level in [] if is_scratch(pretrained) else _existing_levels(network, levels):
        for block in network.pathway(level):
            transferred.extend(part for part in block.conv.parameters() if unfreezes or part.requires_grad)
    slow = {id(parameter) for parameter in transferred}
    learning = (parameter for parameter in network.parameters() if unfreezes or parameter.requires_grad)
    rest = [parameter for parameter in learning if id(parameter) not in slow]
    groups = [
        {"params": rest, "lr": learning_rate, "name": "rest"},
        {"params": transferred, "lr": transferred_learning_rate, "name": "transferred"},
    ]
    return [group for group in groups if group["params"]]


def _existing_levels(network: FNet, levels: Sequence[int] | None) -> list[int]:
    existing = range(network.geometry.num_levels)
    if levels is None:
        return list(existing)
    if not levels or not set(levels) <= set(existing):
        raise InputError(f"transfer_levels must be some of {list(existing)}, finest first, got {list(levels)}")
    return sorted(set(levels))
