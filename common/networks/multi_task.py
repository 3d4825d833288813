"""F-Net and winner-take-all autoencoders trained together, with the convolutions they share (S-MTL).

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from common.utils import check_flags

from .fnet import FNet
from .wta_autoencoder import WTAAutoencoder

__all__ = ["MultiTaskFNet"]


class MultiTaskFNet(nn.Module):
    """F-Net, and an autoencoder for some of its levels whose encoder has the very convolutions of F-Net's pathway.

    The decoders are the autoencoders' own, and so are the batch norms unless they are tied: labeled and unlabeled
    patches differ in where they lie, and so do the statistics of their features.

    Args:
        network: F-Net; inference needs nothing else.
        levels: levels of F-Net that share their convolutions, in increasing order; the paper's are 0 and 1.
        num_winners: activations that an autoencoder keeps of each map and sample.
        gain: gain of the Xavier normal initialization of the decoders.
        tie_norm: share the batch norms, too. The paper does not give it.

    Attributes:
        fnet: the network.
        autoencoders: one `WTAAutoencoder` for each of `levels`.

    Raises:
        TypeError: when `levels` is no list, or `tie_norm` is text.
        ValueError: when `levels` are not some of the network's, each once, in increasing order.
    """

    def __init__(
        self,
        network: FNet,
        levels: Sequence[int] = (0, 1),
        num_winners: int = 5,
        gain: float = 1.0,
        tie_norm: bool = False,
    ) -> None:
        super().__init__()
        check_flags(tie_norm=tie_norm)
        if not isinstance(levels, (list, tuple)):
            raise TypeError(f"levels must be a list such as [0, 1], got {levels!r}")
        existing = list(range(network.geometry.num_levels))
        if not levels or list(levels) != [level for level in existing if level in levels]:
            raise ValueError(f"levels must be some of {existing}, each once and in order, got {list(levels)}")
        self.levels = tuple(levels)
        self.fnet = network
        self.autoencoders = nn.ModuleList()
        for level in self.levels:
            pathway = network.pathway(level)
            autoencoder = WTAAutoencoder(
                network.in_channels,
                pathway[0].conv.out_channels,
                network.geometry.kernel_size,
                network.geometry.num_extraction_convs,
                num_winners,
                gain,
            )
            _share(autoencoder.encoder, pathway, tie_norm)
            self.autoencoders.append(autoencoder)

    def forward(
        self, *patches: torch.Tensor, unlabeled: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor | list[torch.Tensor]:
        """Segment patches, reconstruct others, or both in one pass.

        Args:
            patches: what `FNet` takes; none to reconstruct only.
            unlabeled: patch of each of `levels`, of shape `(B, C, H, W, D)`; none to segment only.

        Returns:
            The logits when there is nothing to reconstruct; otherwise a list: the logits, if there are patches to
            segment, and then the reconstruction of each level.

        Raises:
            ValueError: when the number of patches to reconstruct is not the number of autoencoders.
        """
        if not unlabeled:
            return self.fnet(*patches)
        if len(unlabeled) != len(self.levels):
            raise ValueError(
                f"unlabeled must be one patch for each of the levels {self.levels}, got {len(unlabeled)} patches"
            )
        reconstructions = [autoencoder(patch) for autoencoder, patch in zip(self.autoencoders, unlabeled, strict=True)]
        return [self.fnet(*patches), *reconstructions] if patches else reconstructions

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load all weights, or those of an F-Net: what training leaves for inference, and MONAI Label goes on from.

        The latter leave the decoders, and batch norms that are not tied, as they are.
        """
        if state_dict.keys() == self.fnet.state_dict().keys():
            return self.fnet.load_state_dict(state_dict, strict, assign)
        return super().load_state_dict(state_dict, strict, assign)


def _share(encoder: Any, pathway: Any, tie_norm: bool) -> None:
    """Give an encoder the convolutions of a pathway and, if they are tied, its batch norms."""
    for block, shared in zip(encoder, pathway, strict=True):
        block.conv = shared.conv
        if tie_norm:
            block.adn = shared.adn
