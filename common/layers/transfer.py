"""Transfer of a pretrained U-Net to the segmentation of tumors.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230), section 3.4.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import InputError, has_weights
from common.training import check_pretrained_channels, copy_weights, load_weights, match_parts

from .network import LayerUNet, num_layers

__all__ = ["transfer_unet"]

logger = logging.getLogger(__name__)


def transfer_unet(
    network: LayerUNet, path: str | Path | None, part: str = "encoder", modality: Sequence[str] | None = None
) -> LayerUNet:
    """Copy pretrained weights into a network, all of a part or none.

    Args:
        network: of the same features and input channels as the pretrained one; changed in place.
        path: state dict of a `LayerUNet`, or of another network with its encoder; `None` or `null` trains from scratch,
            `random` likewise keeps the initial weights.
        part: `encoder`, beside which the decoder stays fresh (section 3.4); or `network`: the decoder, too, and when
            the weights give layers, a head of two classes that begins as the segmentation of their mask.
        modality: name of each channel of a scan, of which the weights must know as many; not compared if not given.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit the network, or `part` is unknown.
    """
    if part not in ("encoder", "network"):
        raise InputError(f"part must be encoder or network, got {part!r}")
    if not has_weights(path):
        logger.info("network: initial weights, nothing transferred")
        return network
    if modality is not None:
        check_pretrained_channels(path, modality)
    weights = load_weights(path)
    prefixes = ("encoder.",) if part == "encoder" else ("encoder.", "decoder.")
    source = match_parts(network, weights, prefixes, path)
    has_layers = len(weights.get("head.bias", ())) == num_layers(network.in_channels)
    if part == "network" and has_layers and network.head.out_channels == 2:
        for name in ("head.weight", "head.bias"):
            mask = weights[name][-1]  # the softmax of 0 and a logit is its sigmoid
            source[name] = torch.stack((torch.zeros_like(mask), mask))
    copy_weights(network, source, path, part)
    return network
