"""Transfer of a pretrained inpainting network to segmentation, and its controls.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from common.cli import RANDOM, check_choice, check_flags, is_scratch
from common.training import copy_weights, load_weights, match_parts

from .network import ContextUNet

__all__ = ["transfer_context"]

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
        logger.info("context U-Net: nothing transferred")
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
