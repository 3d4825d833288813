"""How patches at several resolutions reach the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

__all__ = ["PreparePatches"]


class PreparePatches(PrepareBatch):
    """Give the patches of all levels to the network and take the label, or the patches themselves, as the target.

    Args:
        reconstruct: the target is the input, for autoencoders.
    """

    def __init__(self, reconstruct: bool = False) -> None:
        self.reconstruct = reconstruct

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any, tuple[torch.Tensor, ...], dict[str, Any]]:
        """Return the image, the target, the coarser patches as further arguments, and no named ones."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, non_blocking=non_blocking, **kwargs)

        image = move(batchdata["image"])
        context = tuple(move(patch) for patch in batchdata["context"])
        target = [image, *context] if self.reconstruct else move(batchdata["label"])
        return image, target, context, {}
