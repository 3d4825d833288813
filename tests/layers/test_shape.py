"""Laws of the bodies of simulated tumors, and of the noise that shapes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.layers import RandStarShape, draw_permutation, fractal_noise, simplex_noise
from common.layers.shape import keep_joined

SPACINGS = [(1.0, 1.0, 1.0), (0.9, 0.9, 3.0), (2.0, 0.7, 1.3)]

every_spacing = pytest.mark.parametrize("spacing", SPACINGS)


def draw(seed=0, spacing=(1.0, 1.0, 1.0), volume=(2000.0, 10_000.0), **options):
    """Return a body and its mask."""
    shape = RandStarShape(volume, **options).set_random_state(seed)
    return shape, shape(spacing)


def places(mask, spacing):
    """Return where the voxels of a mask are in mm from its middle, in the order of `mask[...]`."""
    axes = [(np.arange(length) - length // 2) * edge for length, edge in zip(mask.shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@every_spacing
def test_a_body_has_the_volume_that_was_drawn(spacing):
    for seed in range(12):
        shape, mask = draw(seed, spacing)
        assert 2000 <= shape.volume_mm3 <= 10_000
        assert mask.sum().item() * math.prod(spacing) == pytest.approx(shape.volume_mm3, rel=0.05)


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 7.0), (2.0, 2.0, 5.0), (6.0, 1.0, 1.0)])
def test_a_body_has_its_volume_in_thick_slices_too(spacing):
    """They lost up to a quarter of it: thin lobes lie between the slices."""
    for seed in range(20):
        shape, mask = draw(seed, spacing, (6000.0, 100_000.0))
        assert mask.sum().item() * math.prod(spacing) == pytest.approx(shape.volume_mm3, rel=0.05)


def test_a_scaled_body_has_a_share_of_the_volume_and_the_same_form():
    shape, mask = draw(volume=(8000.0, 8000.0))
    half = shape((1.0, 1.0, 1.0), randomize=False, scale=0.5)
    assert half.sum() == pytest.approx(mask.sum().item() / 2, rel=0.03)
    finer = shape((0.5**0.5, 0.5, 0.5), randomize=False, scale=0.5**2.5)
    same = shape((2**0.5, 1.0, 1.0), randomize=False, scale=2**0.5)
    assert torch.equal(finer, same)


@every_spacing
@pytest.mark.parametrize("roughness", [0.5, 0.9])
def test_a_body_is_one_component_and_holds_its_center(spacing, roughness):
    """Voxels of thin tips lay apart in one body of eight."""
    for seed in range(12):
        _, mask = draw(seed, spacing, (300.0, 6000.0), roughness=roughness)
        assert ndimage.label(mask.numpy())[1] == 1
        assert all(length % 2 for length in mask.shape)
        assert mask[tuple(length // 2 for length in mask.shape)]


@every_spacing
def test_the_box_holds_the_whole_body(spacing):
    for seed in range(12):
        _, mask = draw(seed, spacing)
        for axis in range(3):
            assert not mask.select(axis, 0).any() and not mask.select(axis, -1).any()


def test_a_body_smaller_than_a_voxel_is_its_center():
    _, mask = draw(spacing=(20.0, 20.0, 20.0), volume=(1.0, 1.0))
    assert mask.sum() == 1


@every_spacing
def test_the_way_to_the_center_never_leaves_the_body(spacing):
    _, mask = draw(3, spacing)
    inside = np.argwhere(mask.numpy())
    middle = np.array(mask.shape) // 2
    for share in np.linspace(0, 1, 8):
        way = np.rint(middle + share * (inside - middle)).astype(int)
        # a voxel of the way may be rounded out of the body by half an edge
        near = ndimage.binary_dilation(mask.numpy(), np.ones((3, 3, 3)))
        assert near[tuple(way.T)].all()


@every_spacing
def test_a_voxel_is_inside_if_it_is_nearer_than_the_radius_in_its_direction(spacing):
    """Evaluated for every voxel of the box, octave by octave, without the shortcuts of the shell."""
    octaves = 2
    shape, mask = draw(5, spacing, octaves=(octaves, octaves), roughness=0.6)
    permutation = torch.from_numpy(shape.permutation)

    def radius(directions):
        weights = [0.5**octave for octave in range(octaves)]
        shifted = torch.from_numpy(directions + shape.offset)
        noise = [weight * simplex_noise(2**octave * shifted, permutation) for octave, weight in enumerate(weights)]
        return 1 + 0.6 * (torch.stack(noise).sum(0) / sum(weights)).numpy()

    random = np.random.RandomState(0).normal(size=(20_000, 3))
    sphere = random / np.linalg.norm(random, axis=1, keepdims=True)
    star = 4 / 3 * math.pi * (radius(sphere) ** 3).mean() * shape.axes.prod()
    semi_axes = shape.axes * (shape.volume_mm3 / star) ** (1 / 3)
    turned = places(mask, spacing) @ shape.rotation / semi_axes  # to the sphere
    distance = np.linalg.norm(turned, axis=-1)
    expected = distance < radius(turned / np.maximum(distance, 1e-9)[..., None])
    assert (expected != mask.numpy()).sum() < 0.02 * expected.sum()
    assert expected.sum() > 500


def test_without_roughness_and_with_equal_axes_it_is_a_ball():
    spacing = (1.0, 0.8, 2.0)
    shape, mask = draw(1, spacing, axis_ratio=(1.0, 1.0), roughness=0.0)
    radius = (shape.volume_mm3 * 3 / 4 / math.pi) ** (1 / 3)
    np.testing.assert_array_equal(mask.numpy(), np.linalg.norm(places(mask, spacing), axis=-1) < radius)


def sphericity(mask):
    """Return the surface of the ball of the same volume over that of the mask, in cubic voxels.

    The surface is the integral of the gradient of the softened mask.
    """
    soft = ndimage.gaussian_filter(np.pad(mask.numpy().astype(float), 8), 1.0)
    surface = np.sqrt(sum(slope**2 for slope in np.gradient(soft))).sum()
    return math.pi ** (1 / 3) * (6 * mask.sum().item()) ** (2 / 3) / surface


def test_sphericity_is_that_of_the_axes_and_falls_with_roughness():
    def mean_of(**options):
        drawn = [draw(seed, volume=(20_000.0, 20_000.0), **options)[1] for seed in range(5)]
        return np.mean([sphericity(mask) for mask in drawn])

    ball = mean_of(axis_ratio=(1.0, 1.0), roughness=0.0)
    assert ball == pytest.approx(1, abs=0.02)
    for ratio in (0.7, 0.4):  # a prolate spheroid of semi-axes 1, ratio, ratio
        eccentricity = math.sqrt(1 - ratio**2)
        surface = 2 * math.pi * ratio * (ratio + math.asin(eccentricity) / eccentricity)
        expected = 4 * math.pi * ratio ** (4 / 3) / surface
        assert mean_of(axis_ratio=(ratio, ratio), roughness=0.0) == pytest.approx(expected, abs=0.02)
    smooth, rough = (mean_of(axis_ratio=(1.0, 1.0), roughness=roughness) for roughness in (0.25, 0.5))
    assert rough < smooth - 0.03 < ball - 0.06


def test_without_roughness_it_is_a_rotated_ellipsoid_of_the_drawn_axes():
    for seed in range(3):
        shape, mask = draw(seed, volume=(10_000.0, 10_000.0), axis_ratio=(0.4, 0.7), roughness=0.0)
        where = places(mask, (1.0, 1.0, 1.0))[mask.numpy()]
        longest = (10_000 * 3 / 4 / math.pi / shape.axes.prod()) ** (1 / 3)
        expected = (shape.rotation * (longest * shape.axes) ** 2 / 5) @ shape.rotation.T  # covariance of an ellipsoid
        np.testing.assert_allclose(np.cov(where.T), expected, atol=0.03 * longest**2 / 5)
        assert shape.axes[1:].min() >= 0.4 and shape.axes[1:].max() <= 0.7


def test_roughness_moves_the_surface_both_ways_by_no_more_than_its_share():
    for seed in range(4):
        _, mask = draw(seed, volume=(8000.0, 8000.0), axis_ratio=(1.0, 1.0), roughness=0.3)
        distance = np.linalg.norm(places(mask, (1.0, 1.0, 1.0)), axis=-1)
        outermost, innermost = distance[mask.numpy()].max(), distance[~mask.numpy()].min()
        ball = (8000 * 3 / 4 / math.pi) ** (1 / 3)
        assert innermost < 0.97 * ball < 1.03 * ball < outermost
        assert outermost / innermost < 1.3 / 0.7 * 1.1


def test_the_same_seed_gives_the_same_body_and_each_call_another():
    first, second = (RandStarShape((500.0, 2000.0)).set_random_state(7) for _ in range(2))
    masks = [first((1.0, 1.0, 2.0)) for _ in range(3)]
    assert all(torch.equal(mask, second((1.0, 1.0, 2.0))) for mask in masks)
    assert len({(*mask.shape, int(mask.sum())) for mask in masks}) == 3
    assert torch.equal(first((1.0, 1.0, 2.0), randomize=False), masks[-1])


def test_volumes_are_log_uniform_and_the_rest_is_uniform_in_its_range():
    shape = RandStarShape((100.0, 10_000.0), axis_ratio=(0.5, 0.9), octaves=(2, 4)).set_random_state(0)
    volumes, ratios, octaves = [], [], []
    for _ in range(400):
        shape.randomize()
        volumes.append(math.log10(shape.volume_mm3))
        ratios.extend(shape.axes[1:])
        octaves.append(shape.num_octaves)
    quarters = np.histogram(volumes, bins=4, range=(2, 4))[0]
    assert quarters.sum() == 400 and quarters.min() > 75
    parts = np.histogram(ratios, bins=4, range=(0.5, 0.9))[0]
    assert parts.sum() == 800 and parts.min() > 150
    counts = np.bincount(octaves, minlength=5)
    assert counts[:2].sum() == 0 and counts[2:].min() > 100 and len(counts) == 5


def test_a_center_keeps_what_is_joined_to_it_through_faces():
    body = torch.zeros(5, 5, 5, dtype=torch.bool)
    body[2, 2, 1:] = True
    body[1, 2, 4] = True
    expected = body.clone()
    body[0, 1, 4] = True  # shares an edge only
    body[4, 4, 4] = body[0, 0, 0] = True
    assert torch.equal(keep_joined(body), expected)
    assert torch.equal(keep_joined(expected), expected)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"volume": (0, 5)}, ValueError, r"volume must be a list, each entry a number above 0, got \(0, 5\)"),
        ({"volume": (9, 5)}, ValueError, r"volume must be two numbers that do not decrease, got \[9, 5\]"),
        ({"volume": (9, math.inf)}, ValueError, r"volume must be .* a number above 0, got \(9, inf\)"),
        ({"volume": (9,)}, ValueError, r"volume must be two .* got \[9\]"),
        ({"axis_ratio": (-1, 1)}, ValueError, r"axis_ratio must be .* a number above 0, got \(-1, 1\)"),
        ({"octaves": (0, 3)}, ValueError, r"octaves must be .* a whole number from 1, got \(0, 3\)"),
        ({"octaves": (1, 2.5)}, ValueError, r"octaves must be .* a whole number from 1, got \(1, 2.5\)"),
        ({"roughness": 1.0}, ValueError, "roughness must be from 0 to below 1, got 1.0"),
        ({"roughness": -0.1}, ValueError, "roughness must be from 0 to below 1, got -0.1"),
        ({"roughness": math.nan}, ValueError, "roughness must be from 0 to below 1, got nan"),
    ],
)
def test_options_out_of_range_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        RandStarShape(**options)


@pytest.mark.gpu
@every_spacing
def test_a_gpu_draws_the_same_body(spacing):
    shape, mask = draw(0, spacing)
    drawn = shape(spacing, "cuda", randomize=False)
    assert drawn.is_cuda
    assert (drawn.cpu() != mask).sum() <= 0.001 * mask.sum()  # voxels that lie on the surface


# ---- noise ---------------------------------------------------------------------------------------


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
    weights = [1, 0.5, 0.25]
    expected = sum(
        weight * simplex_noise(where * 2**octave, permutation()) for octave, weight in enumerate(weights)
    ) / sum(weights)
    torch.testing.assert_close(fractal_noise(where, permutation(), 3), expected)
    torch.testing.assert_close(fractal_noise(where, permutation(), 1), simplex_noise(where, permutation()))


@pytest.mark.parametrize("octaves", [1, 4, 7])
def test_octaves_keep_the_range(octaves):
    noise = fractal_noise(points(5000).view(50, 100, 3), permutation(), octaves)
    assert noise.shape == (50, 100) and noise.abs().max() <= 1


@pytest.mark.gpu
def test_a_gpu_returns_the_same_values():
    where = points(2000, 3.0, torch.float32)
    noise = fractal_noise(where.cuda(), permutation().cuda(), 7)
    assert noise.is_cuda
    torch.testing.assert_close(noise.cpu(), fractal_noise(where, permutation(), 7), atol=1e-3, rtol=0)
