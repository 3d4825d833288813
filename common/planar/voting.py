"""Voting of nearest neighbors: the share of each class among those of a voxel, and the shares in a whole image.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision).
Weights by distance, the weight of the background and smoothing are not the paper's.
"""

from __future__ import annotations

import math

import torch

from .smoothing import smooth
from .voxels import VoxelGrid

__all__ = ["WEIGHTINGS", "vote", "vote_image", "weight_background"]

WEIGHTINGS = ("majority", "distance")


def vote(labels: torch.Tensor, distances: torch.Tensor, num_classes: int, weighting: str = "majority") -> torch.Tensor:
    """Return the share of each class among neighbors.

    Args:
        labels: class of each neighbor, of shape `(N, num_neighbors)`.
        distances: of the neighbors, not squared, of the same shape.
        num_classes: background included.
        weighting: `majority` counts all neighbors alike; `distance` weights each with the inverse of its distance.

    Returns:
        Shares of shape `(N, num_classes)`, which add up to 1 for each query.
    """
    weights = torch.ones_like(distances) if weighting == "majority" else 1 / distances.clamp(min=1e-6)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.stack([(weights * (labels == value)).sum(dim=1) for value in range(num_classes)], dim=1)


def weight_background(shares: torch.Tensor, weight: float) -> torch.Tensor:
    """Return shares of shape `(N, num_classes)` in which a vote for class 0 counts `weight`, any other 1."""
    weighted = shares.clone()
    weighted[:, 0] *= weight
    return weighted / weighted.sum(dim=1, keepdim=True)


def vote_image(shares: torch.Tensor, points: torch.Tensor, grid: VoxelGrid, smoothing: float = 0.0) -> torch.Tensor:
    """Return the votes in every voxel of an image, given those at points of a grid.

    Args:
        shares: of each class, of shape `(N, num_classes)`.
        points: indices of the grid points that vote, of shape `(N,)`; at all others the vote is for the background.
        grid: of the image.
        smoothing: standard deviation in voxels of the Gaussian by which votes are averaged with those around them;
            beyond the border of the image, nothing votes.

    Returns:
        Shares of shape `(num_classes, H, W, D)`, linear between the points of the grid.
    """
    votes = shares.new_zeros((math.prod(grid.size), shares.shape[1]))
    votes[:, 0] = 1
    votes[points] = shares
    image = grid.upsample(votes)
    if smoothing:
        total = smooth(torch.cat((image, torch.ones_like(image[:1]))), smoothing)
        image = total[:-1] / total[-1:]
    return image
