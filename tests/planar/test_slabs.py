"""Laws of the pretext tasks of planar descriptors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from common.planar import RandSlabPair, displacement_heatmap, sample_slabs
from common.planar import slabs as planar_slabs

ROOT = Path(__file__).resolve().parents[2]
IN_PLANE = {0: (1, 2), 1: (0, 2), 2: (0, 1)}
SIZE = (30, 24, 40)


@pytest.fixture
def coordinates():
    """Return three volumes: the value of a voxel is its own coordinate along axis 0, 1 or 2."""
    lines = [torch.linspace(-1, 1, size) for size in SIZE]
    return [volume.unsqueeze(0) for volume in torch.meshgrid(*lines, indexing="ij")]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_rows_and_columns_of_a_slab_run_along_the_axes_that_they_should(coordinates, axis):
    centers = torch.rand(3, 3) - 0.5
    line, depth = torch.linspace(-0.4, 0.4, 42), torch.linspace(-0.05, 0.05, 3)
    runs = {axis: depth.view(3, 1, 1), IN_PLANE[axis][0]: line.view(42, 1), IN_PLANE[axis][1]: line}
    for coordinate, volume in enumerate(coordinates):
        slabs = sample_slabs(volume, centers, axis)
        expected = centers[:, coordinate].view(3, 1, 1, 1) + runs[coordinate]
        torch.testing.assert_close(slabs, expected.expand(3, 3, 42, 42))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_second_slab_moves_in_the_plane_by_the_target_and_along_the_normal_by_the_gap(coordinates, axis):
    pair = RandSlabPair("displacement", half_width=0.15).set_random_state(1)
    pair.randomize(5, progress=0)  # inside of the volume
    moved = {}
    for coordinate, volume in enumerate(coordinates):
        slabs, target = pair([volume] * 5, randomize=False)
        moved[coordinate] = (slabs[:, axis, 1] - slabs[:, axis, 0]).flatten(1)
        torch.testing.assert_close(moved[coordinate].std(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    for place, other in enumerate(IN_PLANE[axis]):
        torch.testing.assert_close(moved[other].mean(dim=1), target[:, axis, place], atol=1e-5, rtol=1e-5)
    gap = moved[axis].mean(dim=1).abs()
    assert gap.min() > 0.125 - 1e-5 and gap.max() < 0.25 + 1e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_never_overlap_along_the_normal(coordinates, axis):
    pair = RandSlabPair(half_width=0.15).set_random_state(2)
    slabs, _ = pair([coordinates[axis]] * 50, progress=0)
    planes = slabs[:, axis].mean(dim=(-1, -2)).sort(dim=1).values  # (50, 2, 3): where the planes lie
    before, after = planes.amax(-1), planes.amin(-1)
    assert ((after[:, 1] > before[:, 0]) ^ (after[:, 0] > before[:, 1])).all()


def test_where_a_voxel_is_a_sample_the_nearest_slab_is_a_slice():
    volume = torch.randn(1, 50, 50, 50)
    voxel = 2 / 49
    center = -1 + voxel * torch.tensor([[22.0, 25.0, 28.0]])  # samples lie around it, halfway between voxels
    slab = sample_slabs(volume, center, 1, 20.5 * voxel, voxel, mode="nearest")
    assert torch.equal(slab[0], volume[0, 2:44, 24:27, 8:50].movedim(1, 0))


SLAB = {"half_width": 41 / 102, "half_depth": 6 / 102}  # plain slices in 103 voxels a side


@pytest.mark.parametrize("size", [(103, 103, 103), (104, 103, 102), (205, 205, 205)])
def test_slabs_that_take_each_voxel_once_are_not_warned_of(caplog, size):
    volume = torch.zeros(1, *size)
    sample_slabs(volume, torch.zeros(1, 3), 0, mode="nearest", **SLAB)
    RandSlabPair(**SLAB, mode="nearest", gap=(0.14, 0.25))([volume])
    assert caplog.text == ""


@pytest.mark.parametrize("size", [(60, 60, 60), (80, 103, 103), (103, 103, 128)])
def test_slabs_that_repeat_or_skip_voxels_are_warned_of_once(caplog, size):
    """In 60 voxels a side, 42 samples along an axis are 24 voxels."""
    planar_slabs._warn_of_unevenness.cache_clear()
    volume, centers = torch.zeros(1, *size), torch.zeros(2, 3)
    sample_slabs(volume, centers, 1, **SLAB)
    assert caplog.text == ""
    for axis in range(3):
        sample_slabs(volume, centers, axis, mode="nearest", **SLAB)
    RandSlabPair(**SLAB, mode="nearest", gap=(0.14, 0.25))([volume])
    (record,) = caplog.records
    assert record.getMessage() == (
        f"slabs of nearest voxels repeat or skip some in a grid of {' x '.join(map(str, size))}; choose spacing and "
        "field_of_view such that it has 103 a side, or --sampling bilinear"
    )


def test_the_brightest_pixel_of_a_heatmap_is_at_the_displacement():
    displacements = torch.rand(200, 2) * 2 - 1
    heatmaps = displacement_heatmap(displacements)
    assert heatmaps.shape == (200, 1, 19, 19)
    brightest = heatmaps.flatten(1).argmax(dim=1)
    rows, columns = (9 * displacements).round().long().unbind(dim=1)
    assert torch.equal(brightest, (rows + 9) * 19 + columns + 9)


def test_a_heatmap_has_the_values_of_the_formula():
    heatmap = displacement_heatmap(torch.tensor([0.3, -0.5]))[0]
    for i, j in ((0, 0), (3, -4), (-9, 9)):
        expected = 10 * np.exp(-15 * ((i / 9 - 0.3) ** 2 + (j / 9 + 0.5) ** 2))
        assert heatmap[i + 9, j + 9].item() == pytest.approx(expected, rel=1e-4)


def test_heatmap_and_displacement_are_the_same_target():
    volumes = [torch.randn(1, 9, 9, 9)] * 4
    slabs, heatmaps = RandSlabPair().set_random_state(3)(volumes)
    same_slabs, displacements = RandSlabPair(target="displacement").set_random_state(3)(volumes)
    assert torch.equal(slabs, same_slabs)
    assert displacements.shape == (4, 3, 2)
    torch.testing.assert_close(heatmaps, displacement_heatmap(displacements))


@pytest.mark.parametrize(("progress", "low", "high"), [(0.0, 0.25, 0.3), (0.5, 0.125, 0.5), (1.0, 0.0, 0.7)])
def test_displacements_become_more_diverse(progress, low, high):
    pair = RandSlabPair().set_random_state(0)
    pair.randomize(5000, progress)
    targets = abs(pair.centers[:, 0, 1, 1:] - pair.centers[:, 0, 0, 1:])
    assert low - 1e-9 < targets.min() < low + 0.01 and high - 0.01 < targets.max() < high + 1e-9
    assert targets.mean() == pytest.approx((low + high) / 2, abs=0.01)


def test_displacements_and_gaps_go_in_all_directions_alike():
    pair = RandSlabPair().set_random_state(0)
    pair.randomize(8000)
    directions = np.diff(pair.centers[:, 1], axis=1)[:, 0] > 0
    np.testing.assert_allclose(np.bincount(directions @ [1, 2, 4]), 1000, atol=120)


def test_the_slabs_of_a_pair_are_those_around_its_centers():
    volume = torch.randn(1, *SIZE)
    pair = RandSlabPair(half_width=0.3, half_depth=0.06, padding_mode="border")
    slabs, _ = pair.set_random_state(4)([volume] * 2)
    for axis in range(3):
        centers = torch.from_numpy(pair.centers[:, axis]).float().flatten(0, 1)
        alone = sample_slabs(volume, centers, axis, 0.3, 0.06, padding_mode="border")
        assert torch.equal(slabs[:, axis].flatten(0, 1), alone)


def test_first_centers_are_uniform_up_to_the_bound():
    pair = RandSlabPair().set_random_state(0)
    pair.randomize(4000)
    first = pair.centers[:, :, 0]
    assert abs(first).max() <= 0.5
    np.testing.assert_allclose(np.quantile(first, [0.25, 0.5, 0.75]), [-0.25, 0, 0.25], atol=0.02)


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others():
    volumes = [torch.randn(1, 8, 8, 8)] * 2
    slabs, heatmaps = RandSlabPair().set_random_state(5)(volumes)
    again, same_heatmaps = RandSlabPair().set_random_state(5)(volumes)
    others, _ = RandSlabPair().set_random_state(6)(volumes)
    assert torch.equal(slabs, again) and torch.equal(heatmaps, same_heatmaps)
    assert not torch.equal(slabs, others)


def test_volumes_are_left_as_they_were():
    volume = torch.randn(1, 8, 8, 8)
    before = volume.clone()
    RandSlabPair().set_random_state(0)([volume])
    assert torch.equal(volume, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "offset"}, "target must be one of heatmap, displacement, got 'offset'"),
        ({"gap": (0.1, 0.2)}, r"gap must be larger than the depth of a slab 0.1, got \(0.1, 0.2\)"),
        ({"gap": (0.3, 0.2)}, r"gap must be two increasing numbers in \[0, 1\], got \(0.3, 0.2\)"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandSlabPair(**arguments)


@pytest.mark.parametrize("task", ["heatmap", "doersch"])
def test_pairs_of_the_bundle_share_no_voxel_across_the_gap(task):
    """Nearest voxels are up to half a voxel off, which a gap must leave room for."""
    config = ConfigParser()
    config.read_config(str(ROOT / "bundles" / "planar_heatmap_descriptor" / "configs" / "pretrain.yaml"))
    pair = config.get_parsed_content(f"tasks::{task}::pairs").set_random_state(0)
    for axis in range(3):
        shape = [-1 if other == axis else 1 for other in range(3)]
        volume = torch.arange(103.0).view(1, *shape).expand(1, 103, 103, 103)
        patches, target = pair([volume] * 300)
        for index in range(300):
            if task == "heatmap":
                first, second = patches[index, axis]
            elif int(target[index]) // 2 != axis:
                continue
            else:
                first, second = patches[index]
            shared = set(first.unique().tolist()) & set(second.unique().tolist())
            assert not shared - {0.0, 102.0}  # beyond the volume its border is repeated


def test_channels_are_planes_one_channel_after_the_other():
    volume = torch.randn(2, 24, 22, 20, generator=torch.Generator().manual_seed(0))
    slabs, heatmaps = RandSlabPair().set_random_state(0)([volume])
    assert slabs.shape == (1, 3, 2, 6, 42, 42)
    for channel, planes in enumerate(slabs.split(3, dim=3)):
        alone, same = RandSlabPair().set_random_state(0)([volume[channel, None]])
        assert torch.equal(planes, alone) and torch.equal(heatmaps, same)
    for axis in range(3):
        parts = [sample_slabs(volume[channel, None], torch.zeros(2, 3), axis) for channel in range(2)]
        assert torch.equal(sample_slabs(volume, torch.zeros(2, 3), axis), torch.cat(parts, dim=1))
