"""Inpainting loss of context prediction and restoration, and Dice loss with cross entropy for segmentation.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

from common.cli import InputError, check_flags

__all__ = ["DiceCrossEntropyLoss", "InpaintingLoss"]


class InpaintingLoss(nn.Module):
    """Squared error summed over the pixels, mean over images and channels: `H * W` times the mean squared error.

    The size of the image is in it, and so it is in the improvement that early stopping asks for.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of inpainted images.

        Args:
            input: inpainted images of shape `(B, C, H, W)`, of any precision; the sum is one of single precision.
            target: originals, of the same shape.
        """
        if input.shape != target.shape:
            raise InputError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}")
        return (input.float() - target.float()).square().flatten(2).sum(dim=2).mean()


class DiceCrossEntropyLoss(nn.Module):
    """Dice loss of each class over the whole minibatch, plus a weighted cross entropy over all pixels.

    A class that no image of the minibatch shows has a Dice loss of 1 and no gradient: smoothed, it would push the class
    to zero, where it is lost. The label map follows from the logits in one way, with sigmoids as with a softmax: of
    those above 0 the largest, and background where there is none.

    Args:
        softmax: classes and background exclude one another, the logit of the background being 0, and the cross entropy
            is a mean over pixels. Otherwise each class has a sigmoid, and the binary cross entropy is a mean over
            pixels and classes.
        cross_entropy_weight: of the cross entropy; the Dice loss has weight 1.
    """

    def __init__(self, softmax: bool = False, cross_entropy_weight: float = 0.0) -> None:
        super().__init__()
        check_flags(softmax=softmax)
        self.softmax = softmax
        self.cross_entropy_weight = cross_entropy_weight
        self.dice = DiceLoss(
            include_background=not softmax, sigmoid=not softmax, softmax=softmax, batch=True, smooth_nr=0.0
        )

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of a segmentation.

        Args:
            input: logits of shape `(B, num_classes, *spatial_size)`, without background.
            target: masks of 0 and 1, of the same shape; with `softmax` they do not overlap.
        """
        if input.shape != target.shape:
            raise InputError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}")
        if self.softmax:
            input = torch.cat((torch.zeros_like(input[:, :1]), input), dim=1)
            target = torch.cat((1 - target.sum(1, keepdim=True), target), dim=1)
            cross_entropy = F.cross_entropy(input, target)
        else:
            cross_entropy = F.binary_cross_entropy_with_logits(input, target)
        return self.dice(input, target) + self.cross_entropy_weight * cross_entropy
