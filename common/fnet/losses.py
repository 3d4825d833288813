"""Reconstruction loss of autoencoders that are trained side by side.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from common.cli import InputError, check_choice

__all__ = ["ReconstructionLoss"]


class ReconstructionLoss(nn.Module):
    """Mean Huber loss of each level, and their sum or mean over the levels.

    Args:
        delta: error, in the units of the normalized image, beyond which the loss is linear.
        reduction: `sum` over the levels, so that each one trains as if it were alone, or `mean`, the paper's in
            multi-task learning.
    """

    def __init__(self, delta: float = 1.0, reduction: str = "sum") -> None:
        super().__init__()
        check_choice("reduction", reduction, ("sum", "mean"))
        self.delta = delta
        self.reduction = reduction

    def forward(self, input: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scalar loss of reconstructions.

        Args:
            input: reconstruction of each level, of shape `(B, C, H, W, D)` with a size of its own.
            target: patch of each level, of the same shapes.
        """
        shapes, targets = [tuple(level.shape) for level in input], [tuple(level.shape) for level in target]
        if shapes != targets:
            raise InputError(f"target must have the shapes of input {shapes}, got {targets}")
        losses = torch.stack([F.huber_loss(*pair, delta=self.delta) for pair in zip(input, target, strict=True)])
        return losses.sum() if self.reduction == "sum" else losses.mean()
