"""Laws of the votes of neighbors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from common.planar import VoxelGrid, vote
from common.planar.voting import vote_image, weight_background


def test_a_majority_vote_counts_heads():
    shares = vote(torch.tensor([[2, 0, 2, 1]]), torch.rand(1, 4), num_classes=4)
    torch.testing.assert_close(shares, torch.tensor([[0.25, 0.25, 0.5, 0.0]]))


def test_a_vote_by_distance_weights_with_the_inverse():
    shares = vote(torch.tensor([[2, 0, 2]]), torch.tensor([[1.0, 0.5, 4.0]]), 3, "distance")
    torch.testing.assert_close(shares, torch.tensor([[2.0, 0.0, 1.25]]) / 3.25)


def test_in_a_vote_by_distance_an_equal_decides():
    shares = vote(torch.tensor([[1, 0, 0]]), torch.tensor([[0.0, 0.1, 0.1]]), 2, "distance")
    assert shares.isfinite().all() and shares[0, 1] > 0.9999


@pytest.fixture
def grid():
    return VoxelGrid((14, 11, 9), (2, 3, 1))


@pytest.fixture
def shares(grid):
    """Return the shares of 3 classes at all points of the grid."""
    return torch.rand(7 * 3 * 9, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def test_votes_for_the_background_count_as_much_as_asked(shares):
    expected = shares * torch.tensor([3.0, 1, 1])
    torch.testing.assert_close(weight_background(shares, 3), expected / expected.sum(1, keepdim=True))


def test_points_of_the_grid_that_do_not_vote_are_background(grid, shares):
    points = torch.arange(0, len(shares), 3)
    at_points = vote_image(shares[points], points, grid)[:, *grid.indices().T].T
    torch.testing.assert_close(at_points[points], shares[points])
    at_points[points] = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(at_points, torch.tensor([1.0, 0, 0]).expand_as(shares))


def test_smoothed_votes_are_averages_of_those_around_them_and_add_up_to_one(grid, shares):
    points = torch.arange(len(shares))
    rough, smooth = (vote_image(shares, points, grid, smoothing) for smoothing in (0.0, 0.8))
    torch.testing.assert_close(smooth.sum(0), torch.ones(grid.spatial_size))
    filters = [
        gaussian_filter(values, 0.8, mode="constant", truncate=4) for values in (*rough, np.ones(grid.spatial_size))
    ]
    expected = torch.from_numpy(np.stack(filters[:-1]) / filters[-1]).float()
    torch.testing.assert_close(smooth, expected, atol=1e-5, rtol=0)
