"""The training losses of an epoch."""

from __future__ import annotations

import torch
from ignite.metrics import Average

__all__ = ["MeanLoss"]


class MeanLoss(Average):
    """Mean of a trainer's loss over the iterations of an epoch, and over all processes of a distributed run.

    Args:
        name: of the loss, or of another number, in the trainer's output.
    """

    def __init__(self, name: str = "loss") -> None:
        super().__init__(output_transform=lambda output: torch.as_tensor(output[name]).detach())
