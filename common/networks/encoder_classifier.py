"""The encoder of a U-Net that learns to classify scans, or how pieces of a scan belong together."""

from __future__ import annotations

import torch
from torch import nn

from common.utils import check_whole_numbers

from .layer_unet import LayerUNet

__all__ = ["EncoderClassifier"]


class EncoderClassifier(nn.Module):
    """Average the coarsest features of one patch or several, and tell a class from them.

    Args:
        unet: its encoder is used; under the same names, `transfer_unet` finds it in the weights.
        num_classes: of the output.
        num_patches: of one item.
        hidden_channels: of the layer before the last.

    Raises:
        TypeError: when a number is no whole number.
        ValueError: when a number is out of range.
    """

    def __init__(self, unet: LayerUNet, num_classes: int, num_patches: int = 1, hidden_channels: int = 64) -> None:
        super().__init__()
        check_whole_numbers(num_classes=num_classes, num_patches=num_patches, hidden_channels=hidden_channels)
        if num_classes < 2 or num_patches < 1 or hidden_channels < 1:
            raise ValueError(
                "num_classes must be 2 or more, num_patches and hidden_channels 1 or more, got "
                f"{num_classes}, {num_patches} and {hidden_channels}"
            )
        self.encoder = unet.encoder
        self.num_patches = num_patches
        self.head = nn.Sequential(
            nn.Linear(num_patches * unet.features[-1], hidden_channels),
            nn.ReLU(),
            nn.Linear(hidden_channels, num_classes),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(B, num_classes)`.

        Args:
            patches: tensor of shape `(B, C, H, W, D)`, or `(B, num_patches, C, H, W, D)`.

        Raises:
            ValueError: when there are not `num_patches` of each item.
        """
        patches = patches.unsqueeze(1) if patches.ndim == 5 else patches
        if patches.shape[1] != self.num_patches:
            raise ValueError(f"patches must be {self.num_patches} of each item, got {patches.shape[1]}")
        features = self.encoder(patches.flatten(0, 1))[-1].mean(dim=(2, 3, 4))
        return self.head(features.unflatten(0, (-1, self.num_patches)).flatten(1))
