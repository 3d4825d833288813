"""What the tests of the atlas share: a volume in which every place looks different, and its label."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def volume():
    """Return smooth noise of shape `(1, 14, 11, 9)`."""
    noise = torch.randn(1, 1, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (14, 11, 9), mode="trilinear", align_corners=True)[0]


@pytest.fixture
def label():
    """Return classes 0 to 2, two boxes in a background, of shape `(1, 14, 11, 9)`."""
    label = torch.zeros(1, 14, 11, 9)
    label[0, 2:8, 1:6, 2:7] = 1
    label[0, 9:13, 5:10, 1:8] = 2
    return label
