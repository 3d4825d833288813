"""Laws of resampling axis by axis: it is MONAI's resampling but for rounding, and comes back as MONAI's does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from common.transforms import IsotropicSpacingd
from common.transforms.separable import SeparableResample, interpolate_axes

SIZE = (9, 12, 7)
FINER = ((18, 30, 20), (0.5, 0.4, 0.35))
COARSER = ((4, 5, 3), (2.25, 2.4, 2.3))
MIXED = ((30, 4, 7), (0.3, 3.0, 1.0))


def turned(angle=0.4):
    """Return an affine of oblique axes."""
    affine = np.diag([1.5, -2.0, 3.0, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine
    affine[:3, 3] = (10, -20, 300)
    return affine


def make_case(size, steps, shift=(-0.3, 0.25, 0.1), channels=2):
    """Return a volume, and the affine of a grid parallel to its own."""
    generator = torch.Generator().manual_seed(0)
    image = MetaTensor(1000 * torch.randn(channels, *SIZE, generator=generator), affine=torch.from_numpy(turned()))
    change = np.diag([*steps, 1.0])
    change[:3, 3] = shift
    return image, torch.from_numpy(turned() @ change), size


def count_calls(monkeypatch):
    """Note each time that MONAI's own resampling is called."""
    calls = []
    own = SpatialResample.__call__
    monkeypatch.setattr(SpatialResample, "__call__", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    return calls


@pytest.mark.parametrize("grid", [FINER, COARSER, MIXED], ids=["finer", "coarser", "mixed"])
def test_the_result_is_that_of_monai(monkeypatch, grid):
    image, affine, size = make_case(*grid)
    expected = SpatialResample()(image, affine, size)
    calls = count_calls(monkeypatch)
    found = SeparableResample()(image, affine, size)
    assert not calls
    assert found.shape == expected.shape == (2, *size)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)  # of values around 1000
    torch.testing.assert_close(found.affine, expected.affine)
    assert found.applied_operations[0].keys() == expected.applied_operations[0].keys()


@pytest.mark.parametrize("grid", [FINER, COARSER, MIXED], ids=["finer", "coarser", "mixed"])
def test_the_way_back_is_that_of_monai(monkeypatch, grid):
    image, affine, size = make_case(*grid)
    theirs, ours = SpatialResample(), SeparableResample()
    expected = theirs.inverse(theirs(image, affine, size))
    there = ours(image, affine, size)
    calls = count_calls(monkeypatch)
    found = ours.inverse(there)
    assert not calls
    assert found.shape == image.shape
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.affine, image.affine)
    assert not found.applied_operations


def test_axes_that_point_the_other_way_are_followed():
    image, affine, size = make_case(SIZE, (-1, 1, -1), (8, 0, 6))
    found = SeparableResample()(image, affine, size)
    torch.testing.assert_close(found.as_tensor(), image.as_tensor().flip(1, 3))


def test_a_single_slice_is_its_own_neighbor():
    image = MetaTensor(torch.arange(6.0).reshape(1, 2, 3, 1), affine=torch.eye(4))
    affine = torch.diag(torch.tensor([1.0, 1.0, 0.5, 1.0]))
    found = SeparableResample()(image, affine, (2, 3, 4))
    torch.testing.assert_close(found.as_tensor(), image.as_tensor().expand(1, 2, 3, 4))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", 0, 1])
@pytest.mark.parametrize("angle", [0.0, 0.1], ids=["parallel", "turned"])
def test_what_is_not_linear_along_axes_is_left_to_monai(monkeypatch, mode, angle):
    image, affine, size = make_case(*FINER)
    turn = torch.eye(4, dtype=torch.float64)
    turn[1:3, 1:3] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = SpatialResample(mode)(image, affine @ turn, size)
    calls = count_calls(monkeypatch)
    found = SeparableResample()(image, affine @ turn, size, mode=mode)
    assert bool(calls) == (angle > 0 or mode != "bilinear")
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)


def test_a_grid_that_is_the_same_keeps_the_volume(monkeypatch):
    image, affine, size = make_case(SIZE, (1, 1, 1), (0, 0, 1e-4))
    calls = count_calls(monkeypatch)
    found = SeparableResample()(image, affine, size)
    assert calls
    assert torch.equal(found.as_tensor(), image.as_tensor())


def test_scans_are_resampled_so_there_and_back(monkeypatch):
    image, _, _ = make_case(*FINER)
    calls = count_calls(monkeypatch)
    resample = IsotropicSpacingd("image", 1.0)
    found = resample.inverse(resample({"image": image}))["image"]
    assert not calls
    assert found.shape == image.shape


def test_places_between_voxels_take_both():
    volume = torch.arange(4.0)[None, :, None, None] ** 2
    found = interpolate_axes(volume, [np.array([-1, 0.5, 2.25, 3, 9]), np.zeros(1), np.zeros(1)])
    torch.testing.assert_close(found.flatten(), torch.tensor([0, 0.5, 5.25, 9, 9]))
