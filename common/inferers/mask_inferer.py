"""From layers to the two classes of a segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from common.transforms import LAYERS

__all__ = ["MaskInferer"]


class MaskInferer(Inferer):
    """Run another inferer and give the mask as logits of background, which are 0, and of tumor.

    The softmax of the two is the sigmoid of the mask, and the tumor is where that is above one half.

    Args:
        inferer: such as MONAI's sliding window.
        with_layers: append the organ without its tumor and the tumor, as two more channels.
    """

    def __init__(self, inferer: Inferer, with_layers: bool = False) -> None:
        super().__init__()
        self.inferer = inferer
        self.with_layers = with_layers

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return logits of shape `(B, 2, H, W, D)` for scans of shape `(B, 1, H, W, D)`."""
        layers = self.inferer(inputs, network, *args, **kwargs)
        mask = layers[:, LAYERS.index("mask"), None]
        logits = torch.cat((torch.zeros_like(mask), mask), dim=1)
        return torch.cat((logits, layers[:, :2]), dim=1) if self.with_layers else logits
