"""How images reach a network that learns to inpaint them.

Source: J. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*, arXiv
2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

from common.transforms import RandContextCorruption

__all__ = ["PrepareContext"]


class PrepareContext(PrepareBatch):
    """Corrupt the images of a batch where the network is, and take the images themselves as the target.

    A batch has `image`, of shape `(B, C, H, W)`, and `seed`, a whole number for each image. All chance of a corruption
    is in its seed: where seeds depend on the epoch and the iteration alone, a resumed training goes on with the same
    patches, and a validation with fixed seeds always has the same ones.

    Args:
        corruption: draws and corrupts the patches.
    """

    def __init__(self, corruption: RandContextCorruption) -> None:
        self.corruption = corruption

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the corrupted images and the images."""
        target = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        return self.corruption.corrupt_batch(target, batchdata["seed"]), target
