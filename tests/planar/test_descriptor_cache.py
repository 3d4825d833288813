"""Laws of descriptors that are kept on disk."""

from __future__ import annotations

import pytest
import torch

from common.planar import (
    DescriptorCache,
    GrayValueDifference,
    JointDescriptor,
    PlanarAtlas,
    PositionDescriptor,
    VoxelGrid,
)

SIZE = (14, 11, 9)


def test_what_is_kept_is_what_would_be_described_and_is_described_once(volume, tmp_path):
    described = []

    def describe(volume, centers):
        described.append(len(centers))
        return torch.cat((centers, volume.mean().expand(len(centers), 1)), dim=1)

    cache = DescriptorCache(tmp_path, describe)
    grid = VoxelGrid(SIZE, 2)
    centers = grid.centers(grid.indices())
    order = torch.randperm(len(centers), generator=torch.Generator().manual_seed(0))
    some, more = centers[order[:40]], centers[order[20:80]]
    for places, expected in ((some, [8, 40]), (more, [8, 40]), (more.flip(0), [8]), (centers[:0], [8])):
        described.clear()
        assert torch.equal(cache(volume, places), describe(volume, places))
        assert described[:-1] == expected
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["volume", "descriptor"])
def test_another_volume_or_descriptor_gets_its_own(volume, tmp_path, change):
    label = (volume > 0).float()
    first, other = (PlanarAtlas(GrayValueDifference(8, seed=seed), 2, step=2, cache_dir=tmp_path) for seed in (0, 1))
    first.add(volume, label, "case")
    if change == "volume":
        other, volume = first, volume.flip(1)
    fresh = PlanarAtlas(other.descriptor, 2, step=2)
    for atlas in (other, fresh):
        atlas.add(volume, label, "case")
    assert torch.equal(other.descriptors, fresh.descriptors)


def test_votes_are_the_same_with_a_cache(volume, tmp_path):
    label = (volume > 0).float()
    votes = []
    for cache_dir in (None, tmp_path, tmp_path):
        atlas = PlanarAtlas(GrayValueDifference(8), 2, step=(2, 3, 1), num_neighbors=3, cache_dir=cache_dir)
        atlas.add(volume, label, "case")
        votes.append(atlas(volume.flip(2)[None]))
    assert torch.equal(votes[0], votes[1]) and torch.equal(votes[0], votes[2])


def test_parts_of_a_joint_descriptor_are_kept_each_by_itself(volume, tmp_path):
    label = (volume > 0).float()
    parts = [GrayValueDifference(8, seed=seed) for seed in (0, 1)]
    fresh, joint = (PlanarAtlas(JointDescriptor(parts), 2, step=2, cache_dir=folder) for folder in (None, tmp_path))
    for atlas in (fresh, joint):
        atlas.add(volume, label, "case")
    assert torch.equal(joint.descriptors, fresh.descriptors)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2
    PlanarAtlas(parts[1], 2, step=2, cache_dir=tmp_path).add(volume, label, "case")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_a_damaged_file_is_made_anew(volume, tmp_path, caplog):
    centers = VoxelGrid(volume.shape[1:], 4).centers(VoxelGrid(volume.shape[1:], 4).indices())
    cache = DescriptorCache(tmp_path, GrayValueDifference(8))
    expected = cache(volume, centers)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(cache(volume, centers), expected)
    assert f"{path}: cannot be read and is made anew" in caplog.text


def test_the_description_of_a_whole_volume_leaves_no_trace(volume, tmp_path):
    """It lies between the voxels, and must not pass for what is on them."""
    atlas = PlanarAtlas(GrayValueDifference(8), 2, cache_dir=tmp_path)
    atlas.describe(volume)
    assert not list(tmp_path.iterdir())


def test_other_channels_have_files_of_their_own(volume, tmp_path):
    """The values of one channel, of double length, are those of two."""
    label = (volume > 0).float()
    both, longer = torch.zeros(2, 14, 11, 9), torch.zeros(1, 28, 11, 9)
    for image in (both, longer):
        atlas, fresh = (PlanarAtlas(PositionDescriptor(), 2, step=2, cache_dir=folder) for folder in (tmp_path, None))
        shape = (1, *image.shape[1:])
        for kept in (atlas, fresh):
            kept.add(image, label.repeat(1, shape[1] // 14, 1, 1), "case")
        assert torch.equal(atlas.descriptors, fresh.descriptors)
    assert len(list(tmp_path.iterdir())) == 2
