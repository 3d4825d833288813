"""The average by matrix products is MONAI's Gaussian filter."""

from __future__ import annotations

import pytest
import torch
from monai.networks.layers import GaussianFilter

from common.planar.smoothing import smooth


@pytest.mark.parametrize("sigma", [0.3, 0.75, 1.5, 3.0])
@pytest.mark.parametrize("size", [(9, 14, 20), (1, 2, 30), (40, 1, 1)], ids=str)
def test_it_is_the_gaussian_filter(size, sigma):
    images = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    expected = GaussianFilter(3, torch.tensor(sigma), approx="sampled")(images.unsqueeze(1))
    torch.testing.assert_close(smooth(images, sigma), expected.squeeze(1), atol=1e-6, rtol=0)


def test_images_are_smoothed_one_by_one():
    images = torch.rand(4, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(smooth(images, 1.0)[2:3], smooth(images[2:3], 1.0))
