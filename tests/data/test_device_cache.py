"""Laws of random pairs that are drawn where the volumes stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, LoadImaged

from common.data import DeviceCacheDataset
from common.planar import PairLoader, RandCubePair, RandSlabPair, TriplanarPretext

READ = Compose([LoadImaged("image", image_only=True, ensure_channel_first=True)])
SIZES = [(12, 10, 8), (9, 14, 11), (8, 8, 8), (10, 9, 12), (13, 8, 9)]


@pytest.fixture
def data(write_scan):
    rng = np.random.default_rng(0)
    scans = [(index + rng.normal(size=size)).astype("float32") for index, size in enumerate(SIZES)]
    return [{"image": write_scan(f"scan_{index}.nii.gz", scan)} for index, scan in enumerate(scans)]


@pytest.fixture
def volumes(data):
    return DeviceCacheDataset(data, READ)


def loader(volumes, pairs=None, batch_size=2, num_batches=4, **options):
    return PairLoader(volumes, pairs or RandSlabPair((2,)), batch_size, num_batches, **options)


def images(batches):
    return [batch["image"] for batch in batches]


def test_volumes_of_several_sizes_stay_as_they_were_read(volumes, data):
    assert [item["image"].shape for item in volumes] == [(1, *size) for size in SIZES]
    assert [item["case"] for item in volumes] == [item["image"] for item in data]
    assert all(type(item["image"]) is torch.Tensor for item in volumes)
    assert volumes[1]["image"] is volumes[1]["image"]


def test_a_mask_that_is_not_read_changes_nothing(data, volumes):
    """A data set that lists organs made `torch.as_tensor` of their paths."""
    listed = DeviceCacheDataset([{**data[0], "organ": "/nowhere/organ.nii.gz"}, *data[1:]], READ)
    assert [list(item) for item in listed] == [list(item) for item in volumes]
    assert all(torch.equal(item["image"], same["image"]) for item, same in zip(listed, volumes, strict=True))


def test_half_precision_halves_the_memory_and_hardly_changes_the_patches(data, volumes):
    half = DeviceCacheDataset(data, READ, half=True)
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
    for batch in loader(volumes, RandSlabPair((0,), max_outside=0)):
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


@pytest.mark.parametrize("pairs", [RandSlabPair((1,)), RandCubePair()], ids=lambda pairs: type(pairs).__name__)
def test_the_minibatches_of_several_processes_are_those_of_one_dealt_out(volumes, pairs, deal):
    whole = list(loader(volumes, pairs, batch_size=6, num_batches=5))
    for rank, part in enumerate(deal(lambda: list(loader(volumes, pairs, batch_size=2, num_batches=5)), 3)):
        for own, batch in zip(part, whole, strict=True):
            assert own["case"] == batch["case"][rank::3]
            assert torch.equal(own["image"], batch["image"][rank::3])
            assert torch.equal(own["label"], batch["label"][rank::3])


def test_displacements_become_more_diverse_from_the_first_to_the_last_minibatch(volumes):
    pairs = RandSlabPair((1,), target="displacement", num_samples=2)
    batches = loader(volumes, pairs, batch_size=400, num_batches=2, max_epochs=2)
    labels = [batch["label"].abs() for _ in range(2) for batch in batches]
    assert labels[0].min() >= 0.25 - 1e-6 and labels[0].max() <= 0.3 + 1e-6
    assert labels[1].min() >= 0.1667 - 1e-3 and 0.40 < labels[1].max() <= 0.4334
    assert labels[3].min() < 0.02 and labels[3].max() > 0.68


def test_fixed_minibatches_are_the_same_in_every_epoch_and_as_diverse_as_the_last_ones(volumes):
    pairs = RandSlabPair((1,), target="displacement", num_samples=2)
    fixed = loader(volumes, pairs, batch_size=200, num_batches=1, max_epochs=9, fixed=True)
    (first,), (second,) = fixed, fixed
    assert torch.equal(first["image"], second["image"])
    assert first["label"].abs().max() > 0.6


def test_a_trainer_takes_the_minibatches_as_they_are(volumes):
    torch.manual_seed(0)
    network = TriplanarPretext((0,), out_channels=8, features=4)
    batches = loader(volumes, RandSlabPair((0,)), num_batches=3, max_epochs=2)
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
    ("scan", "half", "message"),
    [
        (np.zeros((4, 4, 4, 2), "float32"), False, r"image must have one channel and 2 voxels .* got \(2, 4, 4, 4\)"),
        (np.zeros((4, 4, 1), "float32"), False, r"image must have one channel and 2 voxels .* got \(1, 4, 4, 1\)"),
        (np.full((4, 4, 4), np.nan, "float32"), False, "image must be finite in torch.float32, got 64 voxels"),
        (np.full((4, 4, 4), 1e5, "float32"), True, "image must be finite in torch.float16, got 64 voxels"),
    ],
)
def test_a_scan_that_cannot_be_sampled_is_refused_by_name(write_scan, scan, half, message):
    path = write_scan("bad.nii.gz", scan)
    with pytest.raises(Exception) as caught:
        DeviceCacheDataset([{"image": path}], READ, half=half)
    cause = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ValueError)
    with pytest.raises(ValueError, match=f"bad.nii.gz: {message}"):
        raise cause


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="data must hold at least one case, got none"):
        DeviceCacheDataset([], READ)


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
