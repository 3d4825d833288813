"""Laws of patches around positions in a volume, and of random pairs of them that are cut where the volumes stay."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, LoadImaged

from common.data import DeviceCacheDataset
from common.planar import Lattice, PairLoader, PairTask, RandCubePair, RandSlabPair, TriplanarPretext, sample_patches
from common.planar import pairs as patch_pairs
from common.training import PrepareTask

SIZE = (7, 5, 9)
LATTICE = Lattice((0.3, 0.2, 0.1), (4, 2, 3))


@pytest.fixture
def volume():
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))


def test_points_on_voxels_have_the_intensities_of_the_voxels(volume):
    for mode in ("bilinear", "nearest"):
        patches = sample_patches([volume], torch.zeros(1, 1, 3), Lattice((1, 1, 1), SIZE), mode)
        torch.testing.assert_close(patches[0, 0], volume, atol=1e-4, rtol=0)


def test_between_voxels_intensities_are_interpolated_along_each_axis(volume):
    center = torch.tensor([0.1, -0.25, 0.33])
    patch = sample_patches([volume], center.view(1, 1, 3), Lattice((0, 0, 0), (1, 1, 1)))
    block = volume[0]
    for coordinate, size in zip(center.tolist(), SIZE, strict=True):
        place = (coordinate + 1) / 2 * (size - 1)
        low, share = int(place), place - int(place)
        block = (1 - share) * block[low] + share * block[low + 1]
    torch.testing.assert_close(patch, block.view(1, 1, 1, 1, 1, 1), atol=1e-5, rtol=1e-4)


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
    assert patches[0, 0, 0, :, 1, 1].tolist() == list(range(1, 101, 99 // (num_points - 1)))


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
    assert torch.equal(patches[0], expected)
    share = (patches == 0).float().mean()
    assert share == 0 if padding_mode == "border" else 0.1 < share < 0.9  # some are inside, some across, some outside


def test_many_volumes_of_several_sizes_are_sampled_as_each_one_alone(volume):
    other = torch.randn(1, 4, 12, 3)
    centers = torch.rand(2, 3, 3) * 2 - 1
    patches = sample_patches([volume, other], centers, LATTICE)
    assert patches.shape == (2, 3, 1, 4, 2, 3)
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
    torch.testing.assert_close(zeros[0, 0, 0, 0, 0, 0], volume[0, -1, -1, -1], atol=1e-3, rtol=0)
    assert zeros.count_nonzero() == 1
    torch.testing.assert_close(border, volume[0, -1, -1, -1].expand(1, 1, 1, 2, 2, 2))


@pytest.mark.parametrize("lattice", [LATTICE, Lattice((1 / 3, 0.5, 0.25), (3, 3, 3))])  # not on voxels, and on voxels
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes_in_half_precision_are_sampled_in_single_precision(volume, lattice, mode):
    centers = torch.rand(1, 4, 3) - 0.5
    patches = sample_patches([volume.half()], centers, lattice, mode)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, sample_patches([volume.half().float()], centers, lattice, mode))


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("lattice", [LATTICE, Lattice((1 / 3, 0.5, 0.25), (3, 3, 3))])  # not on voxels, and on voxels
def test_every_channel_is_sampled_at_the_same_places_as_alone(volume, lattice, mode, padding_mode):
    channels = [volume, torch.randn(1, *SIZE)]
    centers = torch.rand(1, 6, 3) * 3 - 1.5
    patches = sample_patches([torch.cat(channels)], centers, lattice, mode, padding_mode)
    assert patches.shape == (1, 6, 2, *lattice.num_points)
    for index, channel in enumerate(channels):
        alone = sample_patches([channel], centers, lattice, mode, padding_mode)
        torch.testing.assert_close(patches[:, :, index, None], alone, atol=0, rtol=0)


def test_volumes_that_are_flat_or_of_other_channels_are_refused():
    for shape in ((2, 4, 4, 4), (1, 4, 4, 1)):
        with pytest.raises(
            ValueError, match=rf"volumes must be \(1, .* 2 voxels or more a side, got {re.escape(str(shape))}"
        ):
            sample_patches([torch.zeros(1, 4, 4, 4), torch.zeros(shape)], torch.zeros(2, 1, 3), LATTICE)


# ---- the loader ----------------------------------------------------------------------------------

READ = Compose([LoadImaged("image", image_only=True, ensure_channel_first=True)])


@pytest.fixture
def volumes(unequal_cases):
    return DeviceCacheDataset(unequal_cases, READ)


def loader(volumes, pairs=None, batch_size=2, num_batches=4, **options):
    return PairLoader(volumes, pairs or RandSlabPair(), batch_size, num_batches, **options)


def images(batches):
    return [batch["image"] for batch in batches]


def test_half_precision_halves_the_memory_and_hardly_changes_the_patches(unequal_cases, volumes):
    half = DeviceCacheDataset(unequal_cases, READ, half=True)
    assert half[0]["image"].dtype == torch.float16
    for batch, same in zip(loader(volumes), loader(half), strict=True):
        assert same["image"].dtype == torch.float32
        torch.testing.assert_close(batch["image"], same["image"], atol=5e-3, rtol=1e-3)
        assert torch.equal(batch["label"], same["label"])


def test_a_minibatch_is_what_the_pretext_task_returns_for_its_volumes(volumes):
    batch = next(iter(loader(volumes, RandSlabPair())))
    assert batch["image"].shape == (2, 3, 2, 3, 42, 42) and batch["label"].shape == (2, 3, 1, 19, 19)
    batch = next(iter(loader(volumes, RandCubePair())))
    assert batch["image"].shape == (2, 2, 1, 25, 25, 25) and batch["label"].shape == (2,)


def test_every_volume_is_drawn_as_often_as_any_other(volumes):
    drawn = [case for batch in loader(volumes, num_batches=10) for case in batch["case"]]
    turns = [sorted(turn) for turn in zip(*[iter(drawn)] * 5, strict=True)]
    assert turns == [sorted(item["case"] for item in volumes)] * 4
    assert len({tuple(drawn[first : first + 5]) for first in range(0, 20, 5)}) > 1  # in another order each time


def test_patches_are_those_of_the_named_volume(volumes):
    for batch in loader(volumes, RandSlabPair(padding_mode="border")):
        for case, image in zip(batch["case"], batch["image"], strict=True):
            number = int(case.split("scan_")[1][0])  # which is the mean of its intensities
            assert image.mean().item() == pytest.approx(number, abs=0.3)


def test_the_same_seed_gives_the_same_minibatches_and_another_seed_others(volumes):
    first, same, other = (images(loader(volumes, seed=seed)) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def test_every_epoch_draws_anew_and_a_resumed_training_goes_on_as_if_it_had_not_stopped(volumes):
    whole = loader(volumes, max_epochs=3)
    epochs = [images(whole) for _ in range(3)]
    assert not any(map(torch.equal, epochs[0], epochs[1]))
    resumed = loader(volumes, max_epochs=3)
    resumed.set_epoch(2)
    assert all(map(torch.equal, epochs[2], images(resumed)))


def test_a_minibatch_depends_on_its_number_and_not_on_how_epochs_are_cut(volumes):
    short, long = loader(volumes, num_batches=2, max_epochs=4), loader(volumes, num_batches=4, max_epochs=2)
    parts = images(itertools.chain.from_iterable(short for _ in range(4)))
    assert all(map(torch.equal, parts, images(itertools.chain.from_iterable(long for _ in range(2)))))


@pytest.mark.parametrize("pairs", [RandSlabPair(), RandCubePair()], ids=lambda pairs: type(pairs).__name__)
def test_the_minibatches_of_several_processes_are_those_of_one_dealt_out(volumes, pairs, deal):
    whole = list(loader(volumes, pairs, batch_size=6, num_batches=5))
    for rank, part in enumerate(deal(lambda: list(loader(volumes, pairs, batch_size=2, num_batches=5)), 3)):
        for own, batch in zip(part, whole, strict=True):
            assert own["case"] == batch["case"][rank::3]
            assert torch.equal(own["image"], batch["image"][rank::3])
            assert torch.equal(own["label"], batch["label"][rank::3])


def test_a_task_shows_the_patches_and_wants_the_target_of_its_pairs(volumes):
    network, pairs, loss, handler = (
        TriplanarPretext("displacement"),
        RandSlabPair("displacement"),
        torch.nn.L1Loss(),
        object(),
    )
    task = PairTask(network, pairs, loss, [handler])
    assert task.network is network and task.pairs is pairs and task.handlers == [handler]
    assert task.loss is loss and task.selection_loss is loss
    (batch,) = loader(volumes, task.pairs, num_batches=1)
    image, target = PrepareTask(task)(batch, "cpu", False)
    assert image is batch["image"] and target is batch["label"]
    assert task.loss(task.network(image), target).isfinite()


def test_displacements_become_more_diverse_from_the_first_to_the_last_minibatch(volumes):
    pairs = RandSlabPair("displacement")
    batches = loader(volumes, pairs, batch_size=100, num_batches=2, max_epochs=2)
    labels = [batch["label"].abs() for _ in range(2) for batch in batches]
    assert labels[0].min() >= 0.25 - 1e-6 and labels[0].max() <= 0.3 + 1e-6
    assert labels[1].min() >= 0.1667 - 1e-3 and 0.40 < labels[1].max() <= 0.4334
    assert labels[3].min() < 0.02 and labels[3].max() > 0.68


def test_fixed_minibatches_are_the_same_in_every_epoch_and_as_diverse_as_the_last_ones(volumes):
    pairs = RandSlabPair("displacement")
    fixed = loader(volumes, pairs, batch_size=60, num_batches=1, max_epochs=9, fixed=True)
    (first,), (second,) = fixed, fixed
    assert torch.equal(first["image"], second["image"])
    assert first["label"].abs().max() > 0.6


def test_a_trainer_takes_the_minibatches_as_they_are(volumes):
    torch.manual_seed(0)
    network = TriplanarPretext(out_channels=8, features=4)
    batches = loader(volumes, RandSlabPair(), num_batches=3, max_epochs=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        loss_function=torch.nn.MSELoss(),
        decollate=False,
    )
    trainer.run()
    assert trainer.state.iteration == 6 and batches.epoch == 2
    assert np.isfinite(trainer.state.output["loss"].item())
    assert all(not torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"batch_size": 0},
            ValueError,
            "batch_size and num_batches must be at least 1 .* got 0, 4 and 0",
        ),
        ({"seed": -1}, ValueError, "seed at least 0, got 2, 4 and -1"),
        ({"num_batches": "4"}, TypeError, "num_batches must be a whole number, got '4'"),
        ({"fixed": "no"}, TypeError, "fixed must be True or False, got 'no'"),
    ],
)
def test_options_out_of_range_are_refused(volumes, options, error, message):
    with pytest.raises(error, match=message):
        loader(volumes, **options)
