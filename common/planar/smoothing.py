"""Gaussian averages over a grid of points."""

from __future__ import annotations

import torch
from monai.networks.layers import gaussian_1d

__all__ = ["smooth"]


def smooth(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return images of shape `(C, H, W, D)` averaged by a Gaussian; beyond their border they are 0.

    It is `monai.networks.layers.GaussianFilter` with `approx="sampled"`, by a matrix product along each axis. A
    convolution of one channel is several times as slow on a CPU.

    Args:
        images: of floating-point numbers.
        sigma: standard deviation in voxels, along each axis.
    """
    kernel = gaussian_1d(torch.tensor(sigma), approx="sampled").to(images)
    radius = len(kernel) // 2
    for axis in (1, 2, 3):
        place = torch.arange(images.shape[axis], device=images.device)
        distance = (place.unsqueeze(1) - place).abs()
        band = kernel[(radius + distance).clamp(max=2 * radius)].where(distance <= radius, 0)
        images = (band @ images.flatten(axis + 1)).view_as(images) if axis < 3 else images @ band
    return images
