"""How slices and their labels reach a network with a channel for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.networks import one_hot

__all__ = ["PrepareClasses"]


class PrepareClasses(PrepareBatch):
    """Take the image as the input, and a mask for each class as the target; background has none.

    Args:
        num_classes: background included.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images of shape `(B, C, H, W)` and masks of shape `(B, num_classes - 1, H, W)`."""
        image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        label = batchdata["label"].to(device=device, non_blocking=non_blocking)
        return image, one_hot(label, self.num_classes, dtype=image.dtype)[:, 1:]
