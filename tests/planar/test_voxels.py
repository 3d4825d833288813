"""Laws of the grid of described voxels, and of which voxels an atlas keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.planar import VoxelGrid, choose_voxels
from common.planar.voxels import within_radius

SIZES = [(13, 8, 5), (1, 7, 2), (4, 4, 4), (3, 1, 30)]


def test_the_papers_volume_has_as_many_grid_points_as_the_paper_says():
    grid = VoxelGrid((243, 176, 293), 4)
    assert grid.size == (60, 44, 73)
    assert len(grid.indices()) == 192_720


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1, 3, 4, (1, 2, 5)])
def test_grid_points_are_voxels_of_the_image_at_the_step_and_in_its_middle(size, step):
    grid = VoxelGrid(size, step)
    indices = grid.indices()
    assert len(indices.unique(dim=0)) == len(indices) == grid.size[0] * grid.size[1] * grid.size[2]
    for axis, (edge, hop) in enumerate(zip(size, grid.step, strict=True)):
        places = indices[:, axis].unique()
        before, after = places[0].item(), edge - 1 - places[-1].item()
        assert 0 <= before <= after <= before + 1
        assert places.diff().eq(hop).all()


@pytest.mark.parametrize("size", SIZES)
def test_centers_run_from_minus_one_to_one(size):
    grid = VoxelGrid(size, 1)
    coordinates = torch.stack(
        torch.meshgrid(*(torch.linspace(-1, 1, edge) if edge > 1 else torch.zeros(1) for edge in size), indexing="ij"),
        dim=-1,
    )
    torch.testing.assert_close(grid.centers(grid.indices()), coordinates.flatten(0, 2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1, 3, (1, 2, 5)])
def test_upsampling_keeps_the_values_at_the_grid_points(size, step):
    torch.manual_seed(0)
    grid = VoxelGrid(size, step)
    indices = grid.indices()
    values = torch.rand(len(indices), 2)
    image = grid.upsample(values)
    assert image.shape == (2, *size)
    torch.testing.assert_close(image[:, *indices.T].T, values, rtol=0, atol=0)


def test_upsampling_restores_what_is_linear_between_the_grid_points_and_repeats_it_beyond():
    grid = VoxelGrid((14, 9, 10), (3, 2, 4))
    plane = torch.tensor([[0.3], [-1.0], [2.0]])
    image = grid.upsample(grid.indices().float() @ plane)
    every = VoxelGrid(grid.spatial_size, 1).indices()
    inside = torch.stack(
        [every[:, axis].clamp(grid.first[axis], grid.indices()[-1, axis].item()) for axis in range(3)], dim=1
    )
    torch.testing.assert_close(image.flatten(), (inside.float() @ plane).flatten())


def test_between_grid_points_upsampling_is_the_trilinear_one():
    grid = VoxelGrid((13, 9, 7), (4, 4, 2))
    values = torch.rand(len(grid.indices()), 3)
    inner = grid.upsample(values)[:, 2:11, 2:7, 1:6]
    expected = F.interpolate(
        values.T.unflatten(1, grid.size).unsqueeze(0), (9, 5, 5), mode="trilinear", align_corners=True
    )
    torch.testing.assert_close(inner, expected[0])


@pytest.mark.parametrize(("step", "error"), [(0, ValueError), (2.0, ValueError), ((4, 0, 4), ValueError)])
def test_a_step_that_is_no_whole_number_from_one_is_refused(step, error):
    with pytest.raises(error, match="step must be a whole number from 1, or three of them, got "):
        VoxelGrid((4, 4, 4), step)


def test_places_within_a_radius_are_those_that_all_distances_tell():
    torch.manual_seed(0)
    centers, others = torch.rand(200, 3), torch.rand(5, 3)
    is_near = torch.cdist(centers, others).amin(dim=1) <= 0.3
    assert is_near.any() and not is_near.all()
    assert torch.equal(within_radius(centers, others, 0.3), is_near)
    assert within_radius(centers, others, None).all() and not within_radius(centers, others[:0], 0.3).any()


@pytest.fixture
def indices():
    return VoxelGrid((12, 10, 8), 1).indices()


@pytest.fixture
def classes():
    """Return 960 classes: 60 voxels of class 1, 5 of class 2, none of class 3, 95 of class 4."""
    classes = torch.zeros(960, dtype=torch.long)
    classes[torch.randperm(960, generator=torch.Generator().manual_seed(0))[:160]] = torch.tensor(
        [1] * 60 + [2] * 5 + [4] * 95
    )
    return classes


def count(classes, chosen):
    return torch.bincount(classes[chosen], minlength=5).tolist()


def test_without_caps_all_voxels_are_kept(indices, classes):
    assert torch.equal(choose_voxels(indices, classes), torch.arange(960))
    assert torch.equal(choose_voxels(indices, classes, 800), torch.arange(960))


@pytest.mark.parametrize("max_background", [1, 7, 799])
def test_the_background_is_kept_up_to_its_cap(indices, classes, max_background):
    chosen = choose_voxels(indices, classes, max_background=max_background)
    assert count(classes, chosen) == [max_background, 60, 5, 0, 95]
    assert chosen.diff().gt(0).all()


def test_the_background_that_is_kept_is_evenly_spread():
    """Of 8 x 8 x 8 voxels, one eighth is kept: one in each block of 2 x 2 x 2."""
    indices = VoxelGrid((8, 8, 8), 1).indices()
    chosen = choose_voxels(indices, torch.zeros(512, dtype=torch.long), max_background=64)
    blocks = indices[chosen] // 2
    assert len(blocks.unique(dim=0)) == 64
    assert len((indices[chosen] % 2).unique(dim=0)) == 8  # at no preferred place


def test_the_choice_is_that_of_the_seed(indices, classes):
    choice = choose_voxels(indices, classes, 30, seed=3)
    assert torch.equal(choice, choose_voxels(indices, classes, 30, seed=3))
    assert not torch.equal(choice, choose_voxels(indices, classes, 30, seed=4))


def test_the_foreground_is_kept_and_a_volume_without_any_is_thinned(indices):
    assert len(choose_voxels(indices, torch.zeros(960, dtype=torch.long), 7)) == 7
    assert len(choose_voxels(indices, torch.ones(960, dtype=torch.long), 7)) == 960


@pytest.mark.parametrize("step", [1, 2, 3, (2, 3, 4)])
def test_each_grid_point_is_stood_for_by_the_nearest_known_voxel_around_it(step):
    """Worked out again, voxel by voxel."""
    grid = VoxelGrid((9, 7, 8), step)
    hops, points = torch.tensor(grid.step), grid.indices()
    is_known = torch.rand(9, 7, 8, generator=torch.Generator().manual_seed(0)) < 0.2
    nearest = {}
    for voxel in is_known.nonzero():
        place = tuple(
            min(max((int(v) - first + hop // 2) // hop, 0), size - 1)
            for v, first, hop, size in zip(voxel, grid.first, grid.step, grid.size, strict=True)
        )
        point = torch.tensor(grid.first) + hops * torch.tensor(place)
        distance = int((voxel - point).square().sum())
        nearest[place] = min(nearest.get(place, (distance, voxel.tolist())), (distance, voxel.tolist()))
    assert grid.known_indices(is_known).tolist() == [nearest[place][1] for place in sorted(nearest)]
    assert torch.equal(grid.known_indices(torch.ones(9, 7, 8, dtype=torch.bool)), points)


def test_without_any_known_voxel_there_is_none():
    assert VoxelGrid((4, 4, 4), 2).known_indices(torch.zeros(4, 4, 4, dtype=torch.bool)).shape == (0, 3)
