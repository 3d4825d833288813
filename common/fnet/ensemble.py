"""Ensemble of F-Nets."""

from __future__ import annotations

import torch

from common.training import Ensemble

from .network import FNet

__all__ = ["FNetEnsemble"]


class FNetEnsemble(Ensemble):
    """Ensemble of F-Nets, which takes what one of them takes.

    Args:
        network: see `Ensemble`.
        num_members: number of members.

    Attributes:
        geometry: of the patches of each member.
        out_channels: number of classes.
    """

    def __init__(self, network: FNet, num_members: int) -> None:
        super().__init__(network, num_members)
        self.geometry = network.geometry
        self.out_channels = network.out_channels

    def forward(self, image: torch.Tensor, context: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Return the logits of a patch or of a whole image, see `FNet`."""
        return self.combine(torch.stack([member(image, context).float() for member in self.members]))
