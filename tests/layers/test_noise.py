"""Laws of the noise that shapes simulated tumors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.layers import draw_permutation, fractal_noise, simplex_noise


def permutation(seed=0):
    return torch.from_numpy(draw_permutation(np.random.RandomState(seed)))


def points(count, reach=20.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return reach * (2 * torch.rand(count, 3, generator=generator, dtype=dtype) - 1)


def test_a_permutation_holds_every_corner_once_and_is_repeated():
    drawn = draw_permutation(np.random.RandomState(0))
    assert sorted(drawn[:256]) == list(range(256)) and np.array_equal(drawn[:256], drawn[256:])


def test_the_same_permutation_gives_the_same_values_and_another_one_others():
    where = points(200)
    assert torch.equal(simplex_noise(where, permutation(3)), simplex_noise(where, permutation(3)))
    assert not torch.allclose(simplex_noise(where, permutation(3)), simplex_noise(where, permutation(4)), atol=0.1)


def test_a_point_has_its_value_whatever_other_points_there_are():
    where = points(60)
    whole = simplex_noise(where.view(3, 4, 5, 3), permutation())
    assert whole.shape == (3, 4, 5)
    torch.testing.assert_close(whole.flatten(), torch.stack([simplex_noise(point, permutation()) for point in where]))


def test_values_fill_the_range_from_minus_1_to_1_around_0():
    noise = simplex_noise(points(50_000), permutation())
    assert -1 <= noise.min() < -0.8 and 0.8 < noise.max() <= 1
    assert abs(noise.mean()) < 0.02 and 0.2 < noise.std() < 0.5


def test_every_octant_has_noise_of_its_own():
    """Cells are counted below 0, too, and no axis is the image of another."""
    where = points(500).abs()
    flipped = [simplex_noise(where * (1 - 2 * torch.tensor(signs)), permutation()) for signs in np.ndindex(2, 2, 2)]
    turned = [simplex_noise(where[:, order], permutation()) for order in ([1, 2, 0], [0, 2, 1])]
    similar = np.corrcoef(torch.stack([*flipped, *turned]).numpy()) - np.eye(10)
    assert np.abs(similar).max() < 0.25


def test_noise_is_continuous_and_smooth():
    """A step from one simplex to the next is below 0.01; the slope is bounded everywhere else."""
    start = points(400)
    direction = torch.nn.functional.normalize(points(400, 1.0), dim=1)
    along = start[:, None] + direction[:, None] * torch.linspace(0, 2, 2001, dtype=torch.float64).view(1, -1, 1)
    assert simplex_noise(along, permutation()).diff(dim=1).abs().max() < 0.01


def test_noise_has_features_of_about_the_size_1():
    where, shift = points(20_000), torch.tensor([[0.05, 0, 0], [1.5, 0, 0]], dtype=torch.float64)
    here, near, far = (simplex_noise(where + move, permutation()) for move in (0 * shift[0], *shift))
    correlation = np.corrcoef(torch.stack((here, near, far)).numpy())[0]
    assert correlation[1] > 0.9 and abs(correlation[2]) < 0.2


def test_it_repeats_after_256_cells_along_each_axis_of_the_skewed_lattice():
    where = points(100)
    cell = torch.tensor([256, 0, 0], dtype=torch.float64)
    period = cell - cell.sum() / 6  # back from the skewed lattice
    torch.testing.assert_close(
        simplex_noise(where + period, permutation()), simplex_noise(where, permutation()), atol=1e-9, rtol=0
    )


def test_octaves_are_the_weighted_mean_of_finer_and_weaker_noise():
    where = points(100, 3.0)
    weights = [1, 0.25, 0.0625]
    expected = sum(
        weight * simplex_noise(where * 3**octave, permutation()) for octave, weight in enumerate(weights)
    ) / sum(weights)
    torch.testing.assert_close(fractal_noise(where, permutation(), 3, persistence=0.25, lacunarity=3.0), expected)
    torch.testing.assert_close(fractal_noise(where, permutation(), 1), simplex_noise(where, permutation()))


@pytest.mark.parametrize("octaves", [1, 4, 7])
def test_octaves_keep_the_range(octaves):
    noise = fractal_noise(points(5000).view(50, 100, 3), permutation(), octaves)
    assert noise.shape == (50, 100) and noise.abs().max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_returns_the_same_values():
    where = points(2000, 3.0, torch.float32)
    noise = fractal_noise(where.cuda(), permutation().cuda(), 7)
    assert noise.is_cuda
    torch.testing.assert_close(noise.cpu(), fractal_noise(where, permutation(), 7), atol=1e-3, rtol=0)
