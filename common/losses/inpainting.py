"""The loss of context prediction and restoration.

Source: J. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*, arXiv
2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["InpaintingLoss"]


class InpaintingLoss(nn.Module):
    """Squared error summed over the pixels, mean over images and channels: `H * W` times the mean squared error.

    The size of the image is in it, and so it is in the improvement that early stopping asks for.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare inpainted images with their originals.

        Args:
            input: inpainted images of shape `(B, C, H, W)`, of any precision; the sum is one of single precision.
            target: originals, of the same shape.

        Returns:
            Scalar loss.

        Raises:
            ValueError: when the shapes differ.
        """
        if input.shape != target.shape:
            raise ValueError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}")
        return (input.float() - target.float()).square().flatten(2).sum(dim=2).mean()
