"""Loss of segmentations whose labels may leave something open: Dice, and cross entropy beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common.cli import InputError
from common.data import IGNORED, MAX_DOUBT, is_partial, member_mask

__all__ = ["PartialLabelLoss", "batch_dice_loss", "class_weights", "member_cross_entropy", "voxel_weights"]

_SMALL = 1e-5  # of MONAI's Dice loss
_LOWEST = 1e-7  # probability


class PartialLabelLoss(nn.Module):
    """Loss of labels of which some are open or in doubt; of others it is exactly the loss that it is made of.

    Voxels count by their confidence, from 0 to 1. Where the class of a voxel is one of several, the cross entropy is
    that of their probabilities together, and the Dice loss of those classes leaves the voxel out. Both are over the
    whole minibatch: the Dice loss a mean over classes, the cross entropy a mean over what voxels count.

    Args:
        loss: of logits of shape `(B, num_classes, *spatial_size)` and classes of shape `(B, 1, *spatial_size)`; a
            softmax makes probabilities of the logits.
        dice_weight: of the Dice loss in that loss.
        cross_entropy_weight: of the cross entropy in it.
        include_background: whether its Dice loss has the background.
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], torch.Tensor],
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = True,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.first = 0 if include_background else 1

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            input: logits of shape `(B, num_classes, *spatial_size)`.
            target: labels of shape `(B, 1 or 2, *spatial_size)`, see `common.data.partial_labels`.
        """
        if target.shape[1] not in (1, 2) or target.shape[2:] != input.shape[2:]:
            sizes = f"{tuple(input.shape)}, got {tuple(target.shape)}"
            raise InputError(f"target must have 1 or 2 channels and the size of input {sizes}")
        if not is_partial(target):
            return self.loss(input, target[:, :1])
        probabilities = input.float().softmax(dim=1)
        masks, weights = (part[:, self.first :] for part in class_weights(target, input.shape[1]))
        dice = batch_dice_loss(probabilities[:, self.first :], masks, weights)
        return self.dice_weight * dice + self.cross_entropy_weight * member_cross_entropy(probabilities, target)


def batch_dice_loss(
    probabilities: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    smooth_nr: float = _SMALL,
    smooth_dr: float = _SMALL,
) -> torch.Tensor:
    """Return the mean Dice loss of the classes over a whole minibatch, in which voxels count by their weights.

    Args:
        probabilities: of shape `(B, num_classes, *spatial_size)`.
        target: truth values of the same shape.
        weights: from 0 to 1, of the same shape.
        smooth_nr: of the numerator.
        smooth_dr: of the denominator.
    """
    axes = [0, *range(2, probabilities.ndim)]
    weighted = weights * probabilities
    common = (weighted * target).sum(axes)
    total = weighted.sum(axes) + (weights * target).sum(axes)
    return (1 - (2 * common + smooth_nr) / (total + smooth_dr)).mean()


def class_weights(target: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask of each class, and how much each voxel counts in it.

    A voxel counts by its confidence in each class that it has or cannot have, and not in one of several possible ones.

    Args:
        target: labels of shape `(B, 1 or 2, *spatial_size)`.

    Returns:
        Truth values, and weights from 0 to 1, both of shape `(B, num_classes, *spatial_size)`.
    """
    members = member_mask(target[:, :1], num_classes)
    is_known = members.sum(dim=1, keepdim=True) == 1
    return members & is_known, voxel_weights(target) * (is_known | ~members)


def member_cross_entropy(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of what voxels count, of the probabilities of all classes that a voxel may have.

    Args:
        probabilities: of shape `(B, num_classes, *spatial_size)`, which exclude one another.
        target: labels of shape `(B, 1 or 2, *spatial_size)`.
    """
    weights = voxel_weights(target)
    of_members = (probabilities * member_mask(target[:, :1], probabilities.shape[1])).sum(dim=1, keepdim=True)
    return -(weights * of_members.clamp(min=_LOWEST).log()).sum() / weights.sum().clamp(min=1)


def voxel_weights(target: torch.Tensor) -> torch.Tensor:
    """Return how much each voxel counts, of shape `(B, 1, *spatial_size)`: voxels that may be anything do not."""
    confidence = (target[:, :1].long() != IGNORED).float()
    return confidence * (1 - target[:, 1:].float() / MAX_DOUBT) if target.shape[1] > 1 else confidence
