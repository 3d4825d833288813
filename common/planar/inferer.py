"""Inference by an atlas, whose votes on a volume are sought part by part."""

from __future__ import annotations

from typing import Any, Self

import torch
from monai.inferers import Inferer

from common.cli import check_each
from common.cli.options import POSITIVE_INT

__all__ = ["AtlasInferer"]

_SMALLER = 512  # of the 2048 places that keep a GPU busy
_SMALLEST = 8


class AtlasInferer(Inferer):
    """Inference of a `PlanarAtlas` on whole volumes.

    Args:
        batch_size: places that are described at once; `None`: what suits the device.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        super().__init__()
        check_each(POSITIVE_INT.or_null, batch_size=batch_size)
        self.batch_size = batch_size

    def smaller(self) -> Self | None:
        """Return an inferer of fewer places at a time, with the same result; None where that saves nothing."""
        batch_size = _SMALLER if self.batch_size is None else self.batch_size // 4
        return type(self)(batch_size) if batch_size >= _SMALLEST else None

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return votes of shape `(B, num_classes, H, W, D)` for volumes of shape `(B, C, H, W, D)`."""
        atlas = getattr(network, "module", network)
        atlas.batch_size = self.batch_size
        return network(inputs, *args, **kwargs)
