"""Laws of patches around positions in a volume."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.transforms import RandSlabPair, sample_patches

SIZE = (7, 5, 9)
LINE = torch.tensor([-0.2, 0.0, 0.1, 0.3])


@pytest.fixture
def volume():
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))


def test_points_on_voxels_have_the_intensities_of_the_voxels(volume):
    axes = [torch.linspace(-1, 1, size) for size in SIZE]
    for mode in ("bilinear", "nearest"):
        patches = sample_patches([volume], torch.zeros(1, 1, 3), axes, mode)
        torch.testing.assert_close(patches[0], volume, atol=1e-4, rtol=0)


def test_between_voxels_intensities_are_interpolated_along_each_axis(volume):
    center = torch.tensor([0.1, -0.25, 0.33])
    patch = sample_patches([volume], center.view(1, 1, 3), [torch.zeros(1)] * 3).item()
    block = volume[0]
    for coordinate, size in zip(center.tolist(), SIZE, strict=True):
        place = (coordinate + 1) / 2 * (size - 1)
        low, share = int(place), place - int(place)
        block = (1 - share) * block[low] + share * block[low + 1]
    assert patch == pytest.approx(block.item(), abs=1e-5)


def test_halfway_between_voxels_the_nearest_one_is_the_later_one():
    volume = torch.arange(101.0).view(1, 101, 1, 1).expand(1, 101, 3, 3)
    between = torch.linspace(-0.99, 0.99, 100)  # of which float32 puts some below and some above the middle
    zero = torch.zeros(1)
    patches = sample_patches([volume], torch.zeros(1, 1, 3), [between, zero, zero], "nearest")
    assert patches.flatten().tolist() == list(range(1, 101))


def test_many_volumes_of_several_sizes_are_sampled_as_each_one_alone(volume):
    other = torch.randn(1, 4, 12, 3)
    centers = torch.rand(2, 3, 3) * 2 - 1
    patches = sample_patches([volume, other], centers, [LINE, LINE[:2], LINE[1:]])
    assert patches.shape == (2, 3, 4, 2, 3)
    for index, alone in enumerate((volume, other)):
        for place in range(3):
            expected = sample_patches([alone], centers[index, place].view(1, 1, 3), [LINE, LINE[:2], LINE[1:]])
            torch.testing.assert_close(patches[index, place], expected[0, 0], atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_outside_are_zeros_or_the_border(volume, mode):
    corner = torch.full((1, 1, 3), 1.0)
    far = [torch.tensor([0.0, 0.6])] * 3
    zeros = sample_patches([volume], corner, far, mode)
    border = sample_patches([volume], corner, far, mode, "border")
    torch.testing.assert_close(zeros[0, 0, 0, 0, 0], volume[0, -1, -1, -1], atol=1e-3, rtol=0)
    assert zeros.count_nonzero() == 1
    torch.testing.assert_close(border, volume[0, -1, -1, -1].expand(1, 1, 2, 2, 2))


def test_volumes_in_half_precision_are_sampled_in_single_precision(volume):
    centers = torch.rand(1, 4, 3) - 0.5
    patches = sample_patches([volume.half()], centers, [LINE] * 3)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, sample_patches([volume.half().float()], centers, [LINE] * 3))


def test_patches_are_those_of_grid_sample(volume):
    centers = torch.rand(1, 2, 3) * 2 - 1
    patches = sample_patches([volume], centers, [LINE, LINE[:2], LINE[1:]])
    for place in range(2):
        x, y, z = (centers[0, place, axis] + line for axis, line in enumerate((LINE, LINE[:2], LINE[1:])))
        grid = torch.stack(torch.meshgrid(x, y, z, indexing="ij")[::-1], dim=-1)
        expected = F.grid_sample(volume[None], grid[None], align_corners=True)[0, 0]
        torch.testing.assert_close(patches[0, place], expected)


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
        ({"mode": "cubic"}, "mode must be bilinear or nearest, got 'cubic'"),
        ({"padding_mode": "reflection"}, "padding_mode must be zeros or border, got 'reflection'"),
        ({"centers": torch.zeros(2, 1, 3)}, r"centers must have shape \(1, K, 3\), got \(2, 1, 3\)"),
        ({"volumes": [torch.zeros(2, 4, 4, 4)]}, r"volumes must be \(1, H, W, D\) .* got \(2, 4, 4, 4\)"),
        ({"volumes": [torch.zeros(1, 4, 4, 1)]}, r"volumes must be .* 2 voxels or more a side, got \(1, 4, 4, 1\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(volume, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_patches(**{"volumes": [volume], "centers": torch.zeros(1, 1, 3), "offsets": [LINE] * 3, **arguments})


@pytest.mark.parametrize("name", ["max_center", "max_outside"])
def test_shares_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=r"max_center and max_outside must be in \[0, 1\], got "):
        RandSlabPair(**{name: 1.5})
