"""Laws of erosions and closings: they are what SciPy and scikit-image make."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import disk

from common.layers.morphology import close_slices, deepest, erode, erode_slices

SHAPES = [(40, 50, 13), (33, 64, 70), (9, 80, 5), (30, 31, 1)]


def draw(shape):
    """Draw blobs, some of them at the border of the array."""
    noise = ndimage.gaussian_filter(np.random.RandomState(0).rand(*shape), (4, 4, 2))
    mask = noise > np.median(noise)
    mask[0, 0] = False  # no slice is all mask
    return mask


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_are_eroded_as_thresholds_of_their_distances(shape):
    mask = draw(shape)
    distances = np.stack([ndimage.distance_transform_edt(mask[..., k]) for k in range(shape[2])], axis=-1)
    assert deepest(mask) == round(distances.max() ** 2)
    for radius in (0, 1, 1.2, 2**0.5, 3, 5.5, 10, 100):
        np.testing.assert_array_equal(erode_slices(mask, radius), distances > radius + 1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.9375, 0.9375, 1.2), (1.0, 1.5, 2.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_volumes_are_eroded_as_thresholds_of_their_distances(shape, spacing):
    mask = draw(shape)
    distances = ndimage.distance_transform_edt(mask, spacing)
    for radius in (0.5, 2.0, 3.7, 8.0, 11.0):
        np.testing.assert_array_equal(erode(mask, radius, spacing), distances > radius)


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_are_closed_as_if_they_went_on_beyond_their_border(shape):
    mask = draw(shape)
    for radius in (1, 3, 6):
        sides = ((2 * radius, 2 * radius), (2 * radius, 2 * radius), (0, 0))
        closed = ndimage.binary_closing(np.pad(mask, sides, mode="edge"), disk(radius)[..., None])
        inner = slice(2 * radius, -2 * radius)
        np.testing.assert_array_equal(close_slices(mask, radius), closed[inner, inner])


def test_nothing_is_as_deep_as_nothing_and_all_stays_all():
    assert deepest(np.zeros((4, 5, 3), bool)) == 0 == deepest(np.zeros((4, 5, 0), bool))
    for spacing in ((1.0, 1.0, 2.0), (1.0, 2.0, 2.0)):
        assert erode(np.ones((4, 5, 3), bool), 3.0, spacing).all()
