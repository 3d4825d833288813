"""Inpainting loss of context prediction and restoration, and Dice loss with cross entropy for segmentation.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import nn
from torch.nn import functional as F

from common.cli import InputError, check_flags
from common.data import is_partial
from common.training import batch_dice_loss, class_weights, member_cross_entropy

__all__ = ["DiceCrossEntropyLoss", "InpaintingLoss"]

_SMALL = 1e-5  # of MONAI's Dice loss, in its denominator


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

    Where labels leave something open, voxels count by their confidence, see `common.data.partial_labels`. A class that
    is one of several possible ones in a voxel leaves it out; only the cross entropy of a softmax is that of their
    probabilities together.

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
            input: logits of shape `(B, num_classes - 1, *spatial_size)`, without background.
            target: labels of shape `(B, 1 or 2, *spatial_size)`.
        """
        num_classes = input.shape[1] + 1
        if target.shape[1] not in (1, 2) or target.shape[:1] + target.shape[2:] != input.shape[:1] + input.shape[2:]:
            sizes = f"{tuple(input.shape)}, got {tuple(target.shape)}"
            raise InputError(f"target must have 1 or 2 channels and the size of input {sizes}")
        if is_partial(target):
            return self._partial_loss(input, target)
        masks = one_hot(target[:, :1], num_classes, dtype=input.dtype)
        if self.softmax:
            input = torch.cat((torch.zeros_like(input[:, :1]), input), dim=1)
            cross_entropy = F.cross_entropy(input, masks)
        else:
            masks = masks[:, 1:]
            cross_entropy = F.binary_cross_entropy_with_logits(input, masks)
        return self.dice(input, masks) + self.cross_entropy_weight * cross_entropy

    def _partial_loss(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss where labels leave something open."""
        masks, weights = (part[:, 1:] for part in class_weights(target, input.shape[1] + 1))
        if self.softmax:
            probabilities = torch.cat((torch.zeros_like(input[:, :1]), input), dim=1).softmax(dim=1)
            cross_entropy = member_cross_entropy(probabilities, target)
            probabilities = probabilities[:, 1:]
        else:
            probabilities = input.sigmoid()
            errors = F.binary_cross_entropy_with_logits(input, masks.to(input), reduction="none")
            cross_entropy = (weights * errors).sum() / weights.sum().clamp(min=1)
        dice = batch_dice_loss(probabilities, masks, weights, smooth_nr=0.0, smooth_dr=_SMALL)
        return dice + self.cross_entropy_weight * cross_entropy
