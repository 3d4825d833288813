"""Laws of patches around positions in a volume."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.planar import Lattice, RandSlabPair, sample_patches
from common.planar import pairs as patch_pairs

SIZE = (7, 5, 9)
LATTICE = Lattice((0.3, 0.2, 0.1), (4, 2, 3))


@pytest.fixture
def volume():
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))


def test_points_on_voxels_have_the_intensities_of_the_voxels(volume):
    for mode in ("bilinear", "nearest"):
        patches = sample_patches([volume], torch.zeros(1, 1, 3), Lattice((1, 1, 1), SIZE), mode)
        torch.testing.assert_close(patches[0], volume, atol=1e-4, rtol=0)


def test_between_voxels_intensities_are_interpolated_along_each_axis(volume):
    center = torch.tensor([0.1, -0.25, 0.33])
    patch = sample_patches([volume], center.view(1, 1, 3), Lattice((0, 0, 0), (1, 1, 1)))
    block = volume[0]
    for coordinate, size in zip(center.tolist(), SIZE, strict=True):
        place = (coordinate + 1) / 2 * (size - 1)
        low, share = int(place), place - int(place)
        block = (1 - share) * block[low] + share * block[low + 1]
    torch.testing.assert_close(patch, block.view(1, 1, 1, 1, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_points", [100, 34])  # a voxel apart, and three
@pytest.mark.parametrize("is_sliced", [True, False])
def test_halfway_between_voxels_the_nearest_one_is_the_later_one(num_points, is_sliced, monkeypatch):
    volume = torch.arange(101.0).view(1, 101, 1, 1).expand(1, 101, 3, 3)
    lattice = Lattice((0.99, 1, 1), (num_points, 3, 3))  # float32 puts some points below, and some above the middle
    if is_sliced:
        monkeypatch.delattr(F, "grid_sample")
    else:
        monkeypatch.setattr(patch_pairs, "_can_slice", lambda volume, lattice: False)
    patches = sample_patches([volume], torch.zeros(1, 1, 3), lattice, "nearest")
    assert patches[0, 0, :, 1, 1].tolist() == list(range(1, 101, 99 // (num_points - 1)))


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 1, 3)])
def test_slices_are_what_grid_sample_says_the_nearest_voxels_are(monkeypatch, steps, padding_mode):
    volume, num_points = torch.randn(1, 21, 17, 31), (8, 3, 6)
    sizes = zip(steps, num_points, volume.shape[1:], strict=True)
    lattice = Lattice(tuple(step * (num - 1) / (size - 1) for step, num, size in sizes), num_points)
    centers = torch.cat([torch.rand(1, 200, 3) * 4 - 2, torch.full((1, 1, 3), 9.0), torch.full((1, 1, 3), -9.0)], 1)
    x, y, z = (centers[0, :, axis, None] + 1e-5 + offset for axis, offset in enumerate(lattice.offsets()))
    points = torch.broadcast_tensors(z[:, None, None, :], y[:, None, :, None], x[:, :, None, None])
    volumes = volume.expand(202, 1, -1, -1, -1)
    expected = F.grid_sample(volumes, torch.stack(points, dim=-1), "nearest", padding_mode, align_corners=True)
    monkeypatch.delattr(F, "grid_sample")  # slices do without it
    patches = sample_patches([volume], centers, lattice, "nearest", padding_mode)
    assert torch.equal(patches[0], expected[:, 0])
    share = (patches == 0).float().mean()
    assert share == 0 if padding_mode == "border" else 0.1 < share < 0.9  # some are inside, some across, some outside


def test_many_volumes_of_several_sizes_are_sampled_as_each_one_alone(volume):
    other = torch.randn(1, 4, 12, 3)
    centers = torch.rand(2, 3, 3) * 2 - 1
    patches = sample_patches([volume, other], centers, LATTICE)
    assert patches.shape == (2, 3, 4, 2, 3)
    for index, alone in enumerate((volume, other)):
        for place in range(3):
            expected = sample_patches([alone], centers[index, place].view(1, 1, 3), LATTICE)
            torch.testing.assert_close(patches[index, place], expected[0, 0], atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_outside_are_zeros_or_the_border(volume, mode):
    beyond = torch.full((1, 1, 3), 1.4)
    lattice = Lattice((0.4, 0.4, 0.4), (2, 2, 2))
    zeros = sample_patches([volume], beyond, lattice, mode)
    border = sample_patches([volume], beyond, lattice, mode, "border")
    torch.testing.assert_close(zeros[0, 0, 0, 0, 0], volume[0, -1, -1, -1], atol=1e-3, rtol=0)
    assert zeros.count_nonzero() == 1
    torch.testing.assert_close(border, volume[0, -1, -1, -1].expand(1, 1, 2, 2, 2))


@pytest.mark.parametrize("lattice", [LATTICE, Lattice((1 / 3, 0.5, 0.25), (3, 3, 3))])  # not on voxels, and on voxels
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes_in_half_precision_are_sampled_in_single_precision(volume, lattice, mode):
    centers = torch.rand(1, 4, 3) - 0.5
    patches = sample_patches([volume.half()], centers, lattice, mode)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, sample_patches([volume.half().float()], centers, lattice, mode))


def test_limit_on_the_outside_keeps_patches_inside_and_displacements_as_they_are():
    free, limited = (RandSlabPair((2,), max_outside=limit).set_random_state(0) for limit in (1.0, 0.0))
    for pair in (free, limited):
        pair.randomize(2000)
    reach = torch.tensor([0.4, 0.4, 0.05]).numpy()
    assert (abs(free.centers) + reach).max() > 1.5
    assert (abs(limited.centers) + reach).max() <= 1 + 1e-6
    sizes = [abs(pair.centers[:, 0, 1, :2] - pair.centers[:, 0, 0, :2]) for pair in (free, limited)]
    assert sizes[0].mean() == pytest.approx(0.35, abs=0.01)
    assert sizes[1].mean() == pytest.approx(0.35, abs=0.01)


def test_a_limit_that_leaves_no_room_is_refused():
    pair = RandSlabPair((2,), half_width=0.95, max_outside=0.1).set_random_state(0)
    with pytest.raises(ValueError, match=r"max_outside must leave room for patches at a distance of 0.\d+, got 0.1"):
        pair([torch.zeros(1, 5, 5, 5)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "cubic"}, "mode must be one of bilinear, nearest, got 'cubic'"),
        ({"padding_mode": "reflection"}, "padding_mode must be one of zeros, border, got 'reflection'"),
        ({"centers": torch.zeros(2, 1, 3)}, r"centers must have shape \(1, K, 3\), got \(2, 1, 3\)"),
        ({"volumes": [torch.zeros(2, 4, 4, 4)]}, r"volumes must be \(1, H, W, D\) .* got \(2, 4, 4, 4\)"),
        ({"volumes": [torch.zeros(1, 4, 4, 1)]}, r"volumes must be .* 2 voxels or more a side, got \(1, 4, 4, 1\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(volume, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_patches(**{"volumes": [volume], "centers": torch.zeros(1, 1, 3), "lattice": LATTICE, **arguments})


@pytest.mark.parametrize("name", ["max_center", "max_outside"])
def test_shares_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=r"max_center and max_outside must be in \[0, 1\], got "):
        RandSlabPair(**{name: 1.5})
