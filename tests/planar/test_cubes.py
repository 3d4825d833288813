"""Laws of the pretext task of cubic descriptors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.planar import RandCubePair, sample_cubes

SIZE = (20, 16, 24)


@pytest.fixture
def coordinates():
    """Return three volumes: the value of a voxel is its own coordinate along axis 0, 1 or 2."""
    lines = [torch.linspace(-1, 1, size) for size in SIZE]
    return [volume.unsqueeze(0) for volume in torch.meshgrid(*lines, indexing="ij")]


def test_a_cube_runs_along_the_axes_of_the_volume(coordinates):
    centers = torch.rand(2, 3) - 0.5
    line = torch.linspace(-0.2, 0.2, 25)
    for axis, volume in enumerate(coordinates):
        expected = centers[:, axis].view(2, 1, 1, 1, 1) + line.view([25 if other == axis else 1 for other in range(3)])
        torch.testing.assert_close(sample_cubes(volume, centers), expected.expand(2, 1, 25, 25, 25))


def test_the_neighbor_lies_where_its_class_says(coordinates):
    pair = RandCubePair(half_width=0.1, distance=0.3).set_random_state(0)  # inside of the volume
    pair.randomize(60)
    moved = []
    for volume in coordinates:
        cubes, classes = pair([volume] * 60, randomize=False)
        moved.append((cubes[:, 1] - cubes[:, 0]).flatten(1).mean(dim=1))
    assert cubes.shape == (60, 2, 1, 25, 25, 25) and classes.dtype == torch.int64
    assert classes.unique().tolist() == [0, 1, 2, 3, 4, 5]
    for place, direction in enumerate(torch.stack(moved, dim=1)):
        axis = direction.abs().argmax()
        assert classes[place] == 2 * axis + (direction[axis] < 0)
        assert 0.25 - 1e-5 < direction[axis].abs() < 0.35 + 1e-5  # far enough to share no sample
        assert direction.abs().sort().values[:2].max() < 0.05 + 1e-5
    jitter = torch.stack(moved).abs().sort(dim=0).values[0]
    assert jitter.min() > 0 and jitter.max() > 0.02


def test_neighbors_are_drawn_alike():
    pair = RandCubePair().set_random_state(0)
    pair.randomize(6000)
    np.testing.assert_allclose(np.bincount(pair.neighbors), 1000, atol=120)


def test_the_same_seed_gives_the_same_pairs():
    volumes = [torch.randn(1, 6, 6, 6)] * 2
    cubes, classes = RandCubePair().set_random_state(5)(volumes)
    again, same_classes = RandCubePair().set_random_state(5)(volumes)
    assert torch.equal(cubes, again) and torch.equal(classes, same_classes)


def test_cubes_that_could_overlap_are_refused():
    with pytest.raises(ValueError, match=r"cube_distance must be at least .*: 0.45, got 0.44"):
        RandCubePair(distance=0.44)


def test_cubes_have_the_channels_of_their_volume():
    volume = torch.randn(2, 24, 22, 20, generator=torch.Generator().manual_seed(0))
    cubes, classes = RandCubePair().set_random_state(0)([volume])
    for channel in range(2):
        alone, same = RandCubePair().set_random_state(0)([volume[channel, None]])
        assert torch.equal(cubes[:, :, channel, None], alone) and torch.equal(classes, same)
    centers = torch.rand(3, 3) - 0.5
    assert torch.equal(sample_cubes(volume, centers)[:, 1:], sample_cubes(volume[1:], centers))
