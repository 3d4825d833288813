"""The training loss of an epoch."""

from __future__ import annotations

from ignite.metrics import Average

__all__ = ["MeanLoss"]


class MeanLoss(Average):
    """Mean of a trainer's loss over the iterations of an epoch, and over all processes of a distributed run."""

    def __init__(self) -> None:
        super().__init__(output_transform=lambda output: output["loss"].detach())
