"""The 3D U-Net that takes a scan apart into an organ without its tumor, the tumor, and the mask between them.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230). The backbone is that of Models Genesis: Z. Zhou et al., MICCAI 2019
(https://arxiv.org/abs/1908.06912); its batch norms took the statistics of the batch in evaluation, too, and here they
do not.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from common.cli import RANDOM, is_scratch
from common.training import load_weights

from .network import NUM_LAYERS, LayerUNet

__all__ = ["transfer_unet"]

logger = logging.getLogger(__name__)


def transfer_unet(network: LayerUNet, path: str | Path | None, part: str = "encoder") -> LayerUNet:
    """Copy pretrained weights into a network, all of a part or none.

    Args:
        network: of the same features and input channels as the pretrained one; changed in place.
        path: state dict of a `LayerUNet`, or of another network with its encoder; `None` or `null` trains from scratch,
            `random` likewise keeps the initial weights.
        part: `encoder`, beside which the decoder stays fresh (section 3.4); or `network`: the decoder, too, and when
            the weights give layers, a head of two classes that begins as the segmentation of their mask.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit the network, or `part` is unknown.
    """
    if part not in ("encoder", "network"):
        raise ValueError(f"part must be encoder or network, got {part!r}")
    if is_scratch(path) or path == RANDOM:
        logger.info("network: initial weights, nothing transferred")
        return network
    weights = load_weights(path)
    prefixes = ("encoder.",) if part == "encoder" else ("encoder.", "decoder.")
    target = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    source = {name: value for name, value in weights.items() if name.startswith(prefixes)}
    for name in {**target, **source}:
        expected = tuple(target[name].shape) if name in target else "nothing"
        found = tuple(source[name].shape) if name in source else "nothing"
        if found != expected:
            raise ValueError(f"{path}: {name} must have shape {expected}, got {found}")
    if part == "network" and len(weights.get("head.bias", ())) == NUM_LAYERS and network.head.out_channels == 2:
        for name in ("head.weight", "head.bias"):
            mask = weights[name][-1]  # the softmax of 0 and a logit is its sigmoid
            source[name] = torch.stack((torch.zeros_like(mask), mask))
    network.load_state_dict({**network.state_dict(), **source})
    logger.info("%s: %d of %d tensors transferred from %s", part, len(source), len(network.state_dict()), path)
    return network
