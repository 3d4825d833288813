"""Laws of random patches that are cut where the volumes stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd

from common.data import CombinedLoader, DeviceCacheDataset
from common.layers import PatchLoader

SIZES = [(12, 10, 9), (9, 14, 11), (10, 12, 13)]
SPACING = (1.0, 2.0, 3.0)


def make_case(index, size):
    """Return a volume whose voxels tell where they lie, a small organ, and in the second one a label."""
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    image = torch.arange(1.0, 1 + np.prod(size)).view(1, *size) + 10_000 * index
    organ = torch.zeros(1, *size)
    organ[:, 1:4, 2:8, 3:5] = 3
    label = torch.zeros(1, *size)
    label[:, -1, -1, -1] = index == 1
    return {
        "image": MetaTensor(image, affine, meta={"filename_or_obj": f"scan_{index}"}),
        "organ": organ,
        "label": label,
    }


def make_volumes(keys=("image", "organ", "label"), sizes=SIZES, **options):
    cases = [make_case(index, size) for index, size in enumerate(sizes)]
    return DeviceCacheDataset([{key: case[key] for key in keys} for case in cases], Compose([]), **options)


@pytest.fixture
def volumes():
    return make_volumes()


def loader(volumes, patch_size=(5, 4, 3), batch_size=2, num_batches=6, **options):
    return PatchLoader(volumes, patch_size, batch_size, num_batches, **options)


def same(first, second):
    return len(first) == len(second) and all(
        one.keys() == other.keys()
        and all(
            torch.equal(one[key], other[key]) if torch.is_tensor(one[key]) else one[key] == other[key] for key in one
        )
        for one, other in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("with_donor", [False, True])
def test_the_minibatches_of_several_processes_are_those_of_one_dealt_out(volumes, deal, with_donor):
    whole = list(loader(volumes, batch_size=6, with_donor=with_donor))
    for rank, part in enumerate(deal(lambda: list(loader(volumes, with_donor=with_donor)), 3)):
        assert same(part, [{key: value[rank::3] for key, value in batch.items()} for batch in whole])


def patches(batches):
    """Yield every patch as a dictionary."""
    for batch in batches:
        for index in range(len(batch["case"])):
            yield {key: value[index] for key, value in batch.items()}


def test_masks_and_spacing_stay_beside_the_volumes(volumes):
    for index, item in enumerate(volumes):
        assert item["image"].dtype == torch.float32 and item["case"] == f"scan_{index}"
        assert item["spacing"] == [*SPACING]
        assert item["organ"].dtype == item["label"].dtype == torch.uint8
        assert set(item["organ"].unique().tolist()) == {0, 3}
    assert "organ" not in make_volumes(("image",))[0]
    half = make_volumes(half=True, sizes=[(4, 4, 5)])[0]
    assert half["image"].dtype == torch.float16 and half["organ"].dtype == torch.uint8


def test_a_mask_on_another_grid_is_refused_by_name():
    case = make_case(0, SIZES[0])
    with pytest.raises(Exception) as caught:
        DeviceCacheDataset([{**case, "organ": case["organ"][:, 1:]}], Compose([]))
    cause: BaseException = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    with pytest.raises(ValueError, match=r"scan_0: organ must be on the grid of the image \(1, 12, 10, 9\), got"):
        raise cause


def test_a_patch_is_a_part_of_its_volume_with_its_masks_and_holds_a_voxel_of_the_organ(volumes):
    starts = set()
    for patch in patches(loader(volumes, num_batches=40)):
        case = volumes[int(patch["case"][-1])]
        first = int(patch["image"][0, 0, 0, 0]) - 1 - 10_000 * int(patch["case"][-1])
        start = np.unravel_index(first, case["image"].shape[1:])
        starts.add(start)
        window = (slice(None), *(slice(low, low + edge) for low, edge in zip(start, (5, 4, 3), strict=True)))
        for key in ("image", "organ", "label"):
            assert torch.equal(patch[key], case[key][window].to(patch[key].dtype))
            assert patch[key].shape == (1, 5, 4, 3)
        assert patch["organ"].any()
        assert patch["spacing"].tolist() == [*SPACING]
    assert len(starts) > 30  # the voxel lies anywhere in the patch


def test_without_an_organ_patches_come_from_everywhere():
    seen = torch.zeros(SIZES[0], dtype=torch.bool)
    for patch in patches(loader(make_volumes(("image",), SIZES[:1]), num_batches=150)):
        assert "organ" not in patch and "label" not in patch
        seen.view(-1)[patch["image"].flatten().long() - 1] = True
    assert seen.all()


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0, 0.02), (0.5, 0.35, 0.65), (1.0, 1, 1)])
def test_labeled_voxels_are_in_a_share_of_the_patches_of_a_volume_that_has_some(volumes, fraction, low, high):
    drawn = [*patches(loader(volumes, (3, 3, 3), num_batches=120, foreground_fraction=fraction))]
    labeled = [bool(patch["label"].any()) for patch in drawn if patch["case"] == "scan_1"]
    assert len(labeled) == 80 and low <= np.mean(labeled) <= high
    assert all(patch["organ"].any() for patch in drawn if patch["case"] != "scan_1")  # nothing is labeled there


def test_each_class_is_drawn_as_often_however_small_it_is():
    case = make_case(1, SIZES[1])
    case["label"][..., :4] = 2
    volumes = DeviceCacheDataset([case], Compose([]))
    drawn = [*patches(loader(volumes, (1, 1, 1), num_batches=100, foreground_fraction=1.0))]
    shares = np.bincount([int(patch["label"]) for patch in drawn]) / len(drawn)
    assert shares[0] == 0 and abs(shares[1] - shares[2]) < 0.2


def test_every_volume_is_drawn_as_often_as_any_other(volumes):
    counts = Counter(patch["case"] for patch in patches(loader(volumes, num_batches=12)))
    assert counts == {f"scan_{index}": 8 for index in range(3)}


def test_a_volume_smaller_than_a_patch_lies_in_the_middle_of_zeros(volumes):
    for patch in patches(loader(volumes, (16, 16, 16))):
        case = volumes[int(patch["case"][-1])]
        window = tuple(slice((16 - edge) // 2, (16 - edge) // 2 + edge) for edge in case["image"].shape[1:])
        for key in ("image", "organ"):
            expected = torch.zeros(1, 16, 16, 16)
            expected[(slice(None), *window)] = case[key].float()
            assert torch.equal(patch[key].float(), expected)


def test_a_donor_is_another_volume_around_a_voxel_of_its_organ(volumes):
    donors = set()
    for patch in patches(loader(volumes, num_batches=30, with_donor=True)):
        donor = int(patch["donor"][0, 0, 0, 0]) // 10_000
        assert donor != int(patch["case"][-1]) and patch["donor"].shape == patch["image"].shape
        donors.add((patch["case"], donor))
        inside = torch.isin(patch["donor"], volumes[donor]["image"][volumes[donor]["organ"] > 0])
        assert inside[0, 2, 2, 1]
    assert len(donors) == 6
    lonely = next(patches(loader(make_volumes(sizes=SIZES[:1]), with_donor=True)))
    assert lonely["donor"].any()


def test_the_same_seed_gives_the_same_minibatches_and_a_resumed_training_goes_on(volumes):
    options = {"with_donor": True, "foreground_fraction": 0.5, "augmentation": RandFlipd("image", 0.5)}
    whole = loader(volumes, seed=3, **options)
    epochs = [list(whole) for _ in range(3)]
    assert not same(epochs[0], epochs[1])
    assert same(epochs[0], list(loader(volumes, seed=3, **options)))
    assert not same(epochs[0], list(loader(volumes, seed=4, **options)))
    resumed = loader(volumes, seed=3, **options)
    resumed.set_epoch(2)
    assert same(epochs[2], list(resumed))


def test_every_patch_has_a_seed_of_its_own(volumes):
    seeds = [int(patch["seed"]) for patch in patches(loader(volumes, num_batches=20))]
    assert len(set(seeds)) == 40 and min(seeds) >= 0


def test_fixed_minibatches_repeat_and_are_not_augmented(volumes):
    brighter = RandScaleIntensityd("image", (1.0, 1.0), prob=1.0)
    fixed = loader(volumes, fixed=True, augmentation=brighter)
    first = list(fixed)
    assert same(first, list(fixed)) and same(first, list(loader(volumes)))
    augmented = list(loader(volumes, augmentation=brighter))
    for patch, plain in zip(patches(augmented), patches(first), strict=True):
        torch.testing.assert_close(
            patch["image"].as_tensor() if isinstance(patch["image"], MetaTensor) else patch["image"], 2 * plain["image"]
        )


def test_augmentation_flips_image_and_masks_alike_and_never_the_donor(volumes):
    flip = Compose([RandFlipd(["image", "organ"], prob=1.0, spatial_axis=0)])
    for patch, plain in zip(
        patches(loader(volumes, with_donor=True, augmentation=flip)),
        patches(loader(volumes, with_donor=True)),
        strict=True,
    ):
        for key in ("image", "organ"):
            assert torch.equal(torch.as_tensor(np.asarray(patch[key])), plain[key].flip(1))
        for key in ("label", "donor", "seed"):
            assert torch.equal(patch[key], plain[key])


def test_patches_are_copies(volumes):
    before = [item["image"].clone() for item in volumes]
    for patch in patches(loader(volumes, with_donor=True)):
        patch["image"].zero_()
        patch["donor"].zero_()
    assert all(torch.equal(item["image"], copy) for item, copy in zip(volumes, before, strict=True))


def test_it_is_a_stream_beside_others(volumes):
    together = CombinedLoader(normal=loader(volumes, with_donor=True), real=loader(volumes, seed=1))
    together.set_epoch(1)
    expected = loader(volumes, seed=1)
    expected.set_epoch(1)
    batches = list(together)
    assert [list(batch) for batch in batches] == [["normal", "real"]] * 6
    assert same([batch["real"] for batch in batches], list(expected))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"patch_size": 0}, ValueError, "patch_size must be a whole number from 1, or three of them, got 0"),
        ({"patch_size": (2, 2, 2.5)}, ValueError, r"patch_size must be .* got \(2, 2, 2.5\)"),
        ({"foreground_fraction": 1.5}, ValueError, "foreground_fraction must be a number from 0 to 1, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size and num_batches must be at least 1"),
        ({"fixed": "no"}, TypeError, "fixed must be True or False, got 'no'"),
    ],
)
def test_options_out_of_range_are_refused(volumes, options, error, match):
    with pytest.raises(error, match=match):
        loader(volumes, **options)


def test_all_channels_of_a_patch_are_of_the_same_place():
    cases = [make_case(index, size) for index, size in enumerate(SIZES)]
    for case in cases:
        case["image"] = torch.cat((case["image"], -2 * case["image"]))
    volumes = DeviceCacheDataset(cases, Compose([]))
    flips = [RandFlipd(("image", "organ", "label"), prob=0.5, spatial_axis=axis) for axis in range(3)]
    batches = [*loader(volumes, patch_size=(11, 4, 3), with_donor=True, augmentation=Compose(flips))]
    alone = [*loader(make_volumes(), patch_size=(11, 4, 3), with_donor=True, augmentation=Compose(flips))]
    for batch, single in zip(batches, alone, strict=True):
        for key in ("image", "donor"):
            assert torch.equal(batch[key], torch.cat((single[key], -2 * single[key]), dim=1))
        for key in ("organ", "label"):
            assert torch.equal(batch[key], single[key])


# ---- labels that leave something open ------------------------------------------------------------


def make_open(num_labeled=2, num_pseudo_labeled=4):
    """Return volumes with labels of 1, -1 and a set of classes, of which the last ones are pseudo-labels."""
    cases = [make_case(index, SIZES[0]) for index in range(num_labeled + num_pseudo_labeled)]
    for index, case in enumerate(cases):
        case["label"][:, :, :, :3] = -1
        case["label"][:, :2, :2, 4:6] = 1
        case["label"][:, 5:, :, 6:] = -5
        if index >= num_labeled:
            case["label"] = torch.cat((case["label"], torch.full_like(case["label"], 9)))
            case["confidence"] = "confidence.nii"
    return DeviceCacheDataset(cases, Compose([]))


def test_what_is_open_stays_on_the_device_as_it_is():
    volumes = make_open()
    assert volumes.pseudo_labeled == [2, 3, 4, 5]
    assert volumes[0]["label"].unique().tolist() == [-5, -1, 0, 1]
    assert volumes[2]["label"].shape == (2, *SIZES[0])
    assert make_volumes()[0]["label"].dtype == torch.uint8


def test_foreground_is_drawn_of_known_classes_alone():
    batches = loader(make_open(1, 0), (1, 1, 1), foreground_fraction=1.0)
    assert all(batch["label"].eq(1).all() for batch in batches)


def test_labels_of_a_minibatch_have_two_channels_where_any_has_a_pseudo_label():
    for batch in loader(make_open(), batch_size=6):
        assert batch["label"].shape == (6, 2, 5, 4, 3)
        for label, case in zip(batch["label"], batch["case"], strict=True):
            assert label[1].unique().tolist() == [0 if case in ("scan_0", "scan_1") else 9]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("fraction", "share"), [(0.5, 3), (0.3, 2), (0.8, 5)])
def test_labeled_volumes_have_their_share_of_each_minibatch(deal, processes, fraction, share):
    volumes = make_open()
    draw = lambda: list(loader(volumes, batch_size=6 // processes, labeled_fraction=fraction))  # noqa: E731
    for parts in zip(*deal(draw, processes), strict=True):
        cases = [case for part in parts for case in part["case"]]
        assert len(cases) == 6
        assert sum(case in ("scan_0", "scan_1") for case in cases) == share


def test_without_a_share_all_volumes_come_as_often():
    drawn = Counter(case for batch in loader(make_open(), num_batches=6) for case in batch["case"])
    assert {*drawn.values()} == {2} and len(drawn) == 6


def test_a_share_without_pseudo_labels_changes_nothing(volumes):
    assert same(list(loader(volumes)), list(loader(volumes, labeled_fraction=0.5)))
