"""Descriptor of a whole scan: what a network that learned without labels sees in each part of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import nn

from common.cli import InputError

__all__ = ["describe_scan"]

_SIZE = 64  # voxels along each axis of what a convolutional network is shown

_NUM_PARTS = 3  # of a scan along each axis


class _WidestMap:
    """Forward hook of convolutions that keeps the map with the most channels, of equal ones the first.

    That of the last convolution, which may have one channel for each of many classes, is never taken.
    """

    def __init__(self) -> None:
        self.features = self.latest = torch.empty(1, 0)

    def __call__(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if self.latest.shape[1] > self.features.shape[1]:
            self.features = self.latest
        self.latest = output


@torch.no_grad()
def describe_scan(network: nn.Module, image: torch.Tensor, axis: int = 2) -> torch.Tensor:
    """Return the features that a network finds in a scan, averaged over each of 3 x 3 x 3 parts of it.

    A network with a method `describe`, such as `PlanarAtlas`, describes places itself. Of any other, the features are
    the output of its widest convolution but the last; of equally wide ones, of the first that is reached. In a U-Net
    that is the bottom of its encoder, in F-Net the pathway of the coarsest level. It is shown the scan averaged to 64
    voxels along each axis: in one pass and in bounded memory it sees all of the anatomy, where windows of the full
    resolution would see a part, or take as long as a segmentation.

    Args:
        network: in eval mode, on the device of the image.
        image: preprocessed scan of shape `(C, H, W, D)`.
        axis: of the scan, to which the slices are perpendicular that a 2D network is shown.

    Returns:
        Tensor of shape `(27 F,)`, on the CPU, for `F` features.
    """
    image = convert_to_tensor(image, dtype=torch.float32)  # without metadata, which weights_only cannot load
    if hasattr(network, "describe"):
        features: torch.Tensor = network.describe(image)  # type: ignore[operator]
    else:
        features = _widest_map(network, image, axis)
    descriptor = F.adaptive_avg_pool3d(features.float(), _NUM_PARTS).flatten().cpu()
    if not descriptor.isfinite().all():
        raise InputError("image must give finite features, got NaN or Inf; look at the intensities of the scan")
    return descriptor


def _widest_map(network: nn.Module, image: torch.Tensor, axis: int) -> torch.Tensor:
    """Return features of shape `(F, h, w, d)`, or `(F, slices, h, w)` of a 2D network."""
    convolutions = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))]
    if len(convolutions) < 2:
        raise InputError(f"network must have two convolutions, got {len(convolutions)} in {type(network).__name__}")
    views = F.interpolate(image[None], (_SIZE,) * 3, mode="area")
    is_2d = isinstance(convolutions[0], nn.Conv2d)
    if is_2d:
        views = views[0].movedim(1 + axis, 0)
    widest = _WidestMap()
    hooks = [module.register_forward_hook(widest) for module in convolutions]
    try:
        network(views)
    finally:
        for hook in hooks:
            hook.remove()
    return widest.features.transpose(0, 1) if is_2d else widest.features[0]
