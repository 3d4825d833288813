"""Losses of layer decomposition: that of the training, and the one by which its weights are chosen.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230), section 3.3. The composition loss is that of equation 5, by which the
scans are made; equations 2 and 9 are printed with organ and tumor swapped, and minimizing those makes everything tumor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import nn

from common.cli import InputError

from .network import num_layers
from .simulation import compose_layers, split_layers

__all__ = ["LayerDecompositionLoss", "selection_loss"]


class LayerDecompositionLoss(nn.Module):
    """Loss of the predicted organ, tumor and mask beside the simulated ones, and of their composition beside the scan.

    Real scans have no layers to compare with: where the mask of the target is negative, only their composition counts,
    with opacity 1 (adaptation, section 3.3). Errors are means over the channels of a scan, which share the mask.

    Args:
        organ_weight: of the mean absolute error of the organ without its tumor (L0).
        tumor_weight: of the mean absolute error of the tumor (L1).
        mask_weight: of the soft Dice loss of the mask (L2), over all voxels of a minibatch at once, so that a scan
            without a tumor has its share.
        composition_weight: of the mean absolute error of the composition of what was predicted (L3).
        cross_entropy_weight: of the binary cross entropy of the mask beside its Dice loss; 0 in the paper. With the
            Dice loss alone, the mask of a short training easily becomes nothing or everything.

    Attributes:
        is_composed: whether the composition loss counts; see `DelayComposition`.

    Raises:
        ValueError: when a weight is negative, or all are 0.
    """

    def __init__(
        self,
        organ_weight: float = 1.0,
        tumor_weight: float = 1.0,
        mask_weight: float = 1.0,
        composition_weight: float = 1.0,
        cross_entropy_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = (organ_weight, tumor_weight, mask_weight, composition_weight, cross_entropy_weight)
        if min(self.weights) < 0 or not any(self.weights):
            raise InputError(f"weights must be 0 or more and one of them positive, got {self.weights}")
        self.is_composed = True
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of layers beside the simulated ones, a scalar.

        Args:
            input: organ, tumor and logit of the mask, of shape `(B, 2 * C + 1, H, W, D)`.
            target: the layers of a simulation, of shape `(B, 3 * C + 2, H, W, D)`, see `Layers`.
        """
        true_organ, true_tumor, true_mask, alpha, image = split_layers(target)
        channels = image.shape[1]
        if input.shape[1] != num_layers(channels) or input.shape[2:] != target.shape[2:]:
            raise InputError(
                f"input must have {num_layers(channels)} channels of the size of target {tuple(target.shape)}, got "
                f"{tuple(input.shape)}"
            )
        known = true_mask.flatten(1).amin(1) >= 0
        organ, tumor, logit = input.split([channels, channels, 1], dim=1)
        organ_weight, tumor_weight, mask_weight, composition_weight, cross_entropy_weight = self.weights
        loss = input.new_zeros(())
        if known.any():
            if organ_weight:
                loss = loss + organ_weight * (organ[known] - true_organ[known]).abs().mean()
            if tumor_weight:
                loss = loss + tumor_weight * (tumor[known] - true_tumor[known]).abs().mean()
            if mask_weight:
                loss = loss + mask_weight * self.dice(logit[known], true_mask[known])
            if cross_entropy_weight:
                cross_entropy = F.binary_cross_entropy_with_logits(logit[known], true_mask[known])
                loss = loss + cross_entropy_weight * cross_entropy
        if composition_weight and self.is_composed:
            composed = compose_layers(organ, tumor, logit.sigmoid(), alpha)
            loss = loss + composition_weight * (composed - image).abs().mean()
        return loss


def selection_loss(loss: LayerDecompositionLoss) -> LayerDecompositionLoss:
    """Return the loss by which the weights of an epoch are chosen, on simulations in scans that are held out.

    It is the error of the layers that are learned, with weights of 1 and without the mask: Dice on simulations prefers
    a network that sees pasted edges. Where only the mask is learned, the layers tell nothing, and it is the loss of the
    mask.
    """
    organ_weight, tumor_weight, _, composition_weight, _ = loss.weights
    learned = [float(weight > 0) for weight in (organ_weight, tumor_weight, composition_weight)]
    if not any(learned):
        return loss
    return LayerDecompositionLoss(learned[0], learned[1], mask_weight=0.0, composition_weight=learned[2])
