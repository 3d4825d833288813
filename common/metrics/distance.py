"""Distances between segmentations, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from ignite.metrics.metric import reinit__is_reduced
from monai.data import MetaTensor
from monai.handlers import HausdorffDistance

__all__ = ["HausdorffDistanceInMm"]


class HausdorffDistanceInMm(HausdorffDistance):
    """Hausdorff distance between the surfaces of two segmentations in mm.

    MONAI's own handler counts voxels, whatever their size. A class that the segmentation or the label lacks has no
    distance: NaN, which is left out of the mean. So the mean is that of the cases in which something was found. Where
    there is none, it is NaN; MONAI's is 0, that of a perfect segmentation.

    Arguments are those of `monai.handlers.HausdorffDistance`.
    """

    @reinit__is_reduced
    def update(self, output: Sequence[Sequence[torch.Tensor]]) -> None:
        """Add cases.

        Args:
            output: segmentations and labels of shape `(num_classes, H, W, D)`, one-hot; the labels tell the voxel size.

        Raises:
            TypeError: when a label tells none.
        """
        for prediction, label in zip(*output, strict=True):
            if not isinstance(label, MetaTensor):
                raise TypeError(f"label must be a MetaTensor, which tells its voxel size, got {type(label).__name__}")
            spacing = label.pixdim.tolist()
            self.metric_fn(prediction[None].as_subclass(torch.Tensor), label[None].as_tensor(), spacing=spacing)

    def compute(self) -> Any:
        mean = super().compute()
        return math.nan if self.metric_fn.get_buffer().isnan().all() else mean
