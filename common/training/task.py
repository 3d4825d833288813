"""How scans reach a network that learns a pretext task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from monai.engines import PrepareBatch

__all__ = ["PrepareTask"]


class Task(Protocol):
    """What makes an input and a target of images; see `RandRotationTask`."""

    def make_batch(self, images: torch.Tensor, seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


class PrepareTask(PrepareBatch):
    """Make the input and the target of a pretext task where the network is.

    A batch has `image`, of shape `(B, C, H, W, D)`, and `seed`, a whole number for each image.

    Args:
        task: such as `RandRotationTask`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input and target."""
        images = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        return self.task.make_batch(images, batchdata["seed"])
