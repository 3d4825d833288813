"""Laws of random patches: what is cut, and who is drawn how often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose
from torch.nn import functional as F

from common.fnet import (
    FNetGeometry,
    PatchAugmentation,
    PatchBatchSampler,
    PatchDataset,
    PatchReconstruction,
    PatchRequest,
    PatchSegmentation,
)
from common.training import PrepareTask

GEOMETRY = FNetGeometry(num_levels=3, kernel_size=3)
SIZE = (20, 17, 15)


def coordinates(size=SIZE):
    """Return a volume whose intensity tells its voxel: 1 + flat index."""
    return 1 + torch.arange(float(np.prod(size))).view(1, *size)


def box(value=1, size=SIZE, low=(4, 5, 6), high=(8, 9, 9)):
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = value
    return label


def make(cases, patch_size=8, **options):
    return PatchDataset(cases, Compose([]), GEOMETRY, patch_size, **options)


@pytest.fixture
def labeled():
    """Three cases: two with foreground of different size, one without."""
    labels = [box(), torch.zeros(1, *SIZE, dtype=torch.uint8), box(2, low=(0, 0, 0), high=(1, 1, 1))]
    return [{"image": coordinates() + 1e4 * case, "label": label} for case, label in enumerate(labels)]


def cut(volume, start, size, step, fill):
    """Cut a patch of block means from the padded volume."""
    spans = [(first, first + step * edge) for first, edge in zip(start, size, strict=True)]
    padding = [(max(0, -low), max(0, high - edge)) for (low, high), edge in zip(spans, SIZE, strict=True)]
    padded = F.pad(volume - fill, [amount for pair in reversed(padding) for amount in pair]) + fill
    axes = [slice(low + before, high + before) for (low, high), (before, _) in zip(spans, padding, strict=True)]
    return F.avg_pool3d(padded[(slice(None), *axes)], step)


# ---- what is cut ---------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [8, (4, 8, 16), 32])
def test_patches_equal_those_cut_by_hand_and_the_label_lies_on_the_image(patch_size):
    image = torch.randn(2, *SIZE, dtype=torch.float32)
    image[0] = coordinates()[0] / 1000
    label = box()
    dataset = make([{"image": image, "label": label}], patch_size)
    fill = image.amin((1, 2, 3), keepdim=True)
    for seed in range(5):
        item = dataset[PatchRequest(0, seed, True)]
        start = dataset._start(dataset._source(PatchRequest(0, seed, True)), True, np.random.default_rng(seed))
        patches = [item["image"], *item["context"]]
        for level, (patch, margin, size) in enumerate(
            zip(patches, GEOMETRY.margins, GEOMETRY.input_sizes(patch_size), strict=True)
        ):
            expected = cut(image.double(), [first - margin for first in start], size, 2**level, fill.double())
            torch.testing.assert_close(patch.double(), expected, atol=1e-4, rtol=0)
        assert torch.equal(item["label"].double(), cut(label.double(), start, dataset.patch_size, 1, 0))


@pytest.mark.parametrize("seed", range(20))
def test_where_the_image_is_its_label_the_patches_agree(seed):
    label = box(3)
    dataset = make([{"image": label.float(), "label": label}])
    item = dataset[PatchRequest(0, seed, seed % 2 == 0)]
    margin = GEOMETRY.margins[0]
    inner = item["image"][:, margin:-margin, margin:-margin, margin:-margin]
    assert torch.equal(inner, item["label"].float())
    assert item["label"].dtype == torch.int32


def test_a_case_without_label_gives_no_label_and_names_its_file():
    image = MetaTensor(coordinates(), meta={"filename_or_obj": "scan.nii.gz"})
    item = make([{"image": image}])[PatchRequest(0, 0, False)]
    assert set(item) == {"image", "context", "case"}
    assert item["case"] == "scan.nii.gz"
    assert type(item["image"]) is torch.Tensor and item["image"].is_contiguous()


@pytest.mark.parametrize("is_foreground", [True, False])
def test_a_patch_larger_than_the_volume_is_padded_with_its_smallest_intensity(is_foreground):
    label = torch.ones(1, 3, 4, 5, dtype=torch.uint8)
    dataset = make([{"image": torch.randn(1, 3, 4, 5) - 5, "label": label}], 16)
    item = dataset[PatchRequest(0, 1, is_foreground)]
    assert item["label"].shape == (1, 16, 16, 16)
    assert 0 < item["label"].sum() <= 60
    assert item["image"][0, 0, 0, 0] == item["image"].min()


def test_changing_a_patch_leaves_the_cache_as_it_was():
    """A patch that is the whole volume was the cached volume itself."""
    size = GEOMETRY.input_sizes(8)[0]
    dataset = make([{"image": torch.randn(1, *size)}])
    before = [level.clone() for level in dataset._source(PatchRequest(0, 0, False))["pyramid"].levels]
    for seed in range(3):
        item = dataset[PatchRequest(0, seed, False)]
        for patch in (item["image"], *item["context"]):
            patch.zero_()
    after = dataset._source(PatchRequest(0, 0, False))["pyramid"].levels
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


# ---- where patches lie ---------------------------------------------------------------------------


def test_foreground_patches_hold_foreground_anywhere_within(labeled):
    dataset = make(labeled[:1], 8)
    offsets = []
    for seed in range(300):
        label = dataset[PatchRequest(0, seed, True)]["label"]
        assert label.any()
        offsets.append(np.argwhere(label[0].numpy()).mean(0))
    assert (np.min(offsets, 0) < 2).all() and (np.max(offsets, 0) > 5).all()


def test_foreground_classes_are_equally_likely_however_large():
    label = box(1, low=(0, 0, 0), high=(10, 17, 15))
    label[0, -1, -1, -1] = 2
    dataset = make([{"image": coordinates(), "label": label}], 4)
    found = Counter(bool((dataset[PatchRequest(0, seed, True)]["label"] == 2).any()) for seed in range(400))
    assert 160 < found[True] < 240


def test_gaussian_centers_are_concentrated_uniform_ones_are_not():
    size = np.array((64, 40, 48))
    centers = {}
    for kind in ("gaussian", "uniform"):
        dataset = make([{"image": torch.zeros(1, *size)}], centers=kind)
        source = dataset._source(PatchRequest(0, 0, False))
        starts = [dataset._start(source, False, np.random.default_rng(seed)) for seed in range(3000)]
        centers[kind] = (np.array(starts) + 4.5) / size
    np.testing.assert_allclose(centers["gaussian"].mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(centers["uniform"].mean(0), 0.5, atol=0.02)
    inside = np.abs(centers["gaussian"] - 0.5) < 0.25  # one standard deviation is a quarter of the size
    np.testing.assert_allclose(inside.mean(0), 0.683, atol=0.03)
    np.testing.assert_allclose(centers["uniform"].std(0), 12**-0.5, atol=0.01)
    assert centers["gaussian"].min() >= 0 and centers["gaussian"].max() < 1


# ---- who is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", range(1, 9))
def test_at_least_thirty_percent_of_every_minibatch_hold_foreground(labeled, batch_size):
    dataset = make(labeled, 4)
    sampler = PatchBatchSampler(dataset, batch_size, num_batches=12, foreground_fraction=0.3)
    for batch in sampler:
        assert len(batch) == batch_size
        assert sum(bool(dataset[request]["label"].any()) for request in batch) >= 0.3 * batch_size


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.3, 3), (0.31, 4), (0.7, 7), (1.0, 10)])
def test_the_demand_is_rounded_up_but_not_by_rounding_errors(labeled, fraction, expected):
    (batch,) = PatchBatchSampler(make(labeled), 10, 1, fraction)
    assert sum(request.is_foreground for request in batch) == expected


def test_every_case_is_drawn_equally_often_in_random_order(labeled):
    sampler = PatchBatchSampler(make(labeled), batch_size=2, num_batches=15)
    draws = [[request.case for batch in sampler for request in batch] for _ in range(3)]
    assert all(Counter(epoch) == {0: 10, 1: 10, 2: 10} for epoch in draws)
    assert draws[0] != draws[1] != draws[2]
    requests = [request.seed for _ in range(3) for batch in sampler for request in batch]
    assert len(set(requests)) == len(requests)


def test_an_epoch_of_a_resumed_run_is_that_of_an_uninterrupted_one(labeled):
    whole, resumed = (PatchBatchSampler(make(labeled), 4, 5, 0.3, seed=7) for _ in range(2))
    epochs = [list(whole) for _ in range(4)]
    resumed.set_epoch(2)
    assert [list(resumed), list(resumed)] == epochs[2:]
    assert epochs[0] != list(PatchBatchSampler(make(labeled), 4, 5, 0.3, seed=8))


def test_a_fixed_sampler_draws_the_same_in_every_epoch(labeled):
    fixed = PatchBatchSampler(make(labeled), 4, 5, 0.3, seed=7, fixed=True)
    first = list(PatchBatchSampler(make(labeled), 4, 5, 0.3, seed=7))
    assert [list(fixed), list(fixed)] == [first, first]


def test_any_number_of_workers_gives_the_same_batches(labeled):
    epochs = []
    for num_workers in (0, 2):
        dataset = make(labeled)
        sampler = PatchBatchSampler(dataset, 3, 4, 0.3, seed=1)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
        torch.manual_seed(num_workers)  # the global state plays no part
        epochs.append([batch for _ in range(2) for batch in loader])
    assert len(epochs[0]) == 8
    for first, second in zip(*epochs, strict=True):
        assert first["image"].shape == (3, 1, *GEOMETRY.input_sizes(8)[0])
        assert torch.equal(first["label"], second["label"])
        for patches in zip([first["image"], *first["context"]], [second["image"], *second["context"]], strict=True):
            assert torch.equal(*patches)


def test_the_minibatches_of_several_processes_are_those_of_one_dealt_out(labeled, deal):
    def draw(batch_size):
        sampler = PatchBatchSampler(make(labeled), batch_size, 6, 0.5)
        return [batch for _ in range(2) for batch in sampler]

    whole = draw(6)
    for rank, part in enumerate(deal(lambda: draw(2), 3)):
        assert part == [batch[rank::3] for batch in whole]


# ---- what is refused -----------------------------------------------------------------------------


def test_foreground_wanted_where_all_labels_are_empty_is_refused(labeled):
    with pytest.raises(
        ValueError, match="labels must hold foreground in at least one of the 1 training cases, got none"
    ):
        make(labeled[1:2])[PatchRequest(0, 0, True)]


def test_a_class_that_no_label_has_is_warned_of_and_labels_without_any_are_refused(labeled, caplog):
    make(labeled, labels={0: "background", 1: "liver", 200: "spleen"})
    assert "has spleen (200), so that nothing will be segmented as it" in caplog.text
    with pytest.raises(ValueError, match="labels must hold foreground in at least one of 1 cases, got none"):
        make(labeled[1:2], labels={0: "background", 1: "liver"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centers": "corner"}, "centers must be one of uniform, gaussian, got 'corner'"),
        ({"patch_size": 9}, r"patch_size must be a feasible size such as \[8, 12\] .* got \(9, 9, 9\)"),
    ],
)
def test_options_out_of_range_are_refused(labeled, options, message):
    with pytest.raises(ValueError, match=message):
        make(labeled, **options)


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="data must hold at least one case, got none"):
        make([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"num_batches": 0}, "num_batches must be a whole number from 1, got 0"),
        ({"foreground_fraction": 1.1}, "foreground_fraction must be a number from 0 to 1, got 1.1"),
        ({"foreground_fraction": -0.1}, "foreground_fraction must be a number from 0 to 1, got -0.1"),
    ],
)
def test_sampler_options_out_of_range_are_refused(labeled, options, message):
    with pytest.raises(ValueError, match=message):
        PatchBatchSampler(make(labeled), **{"batch_size": 2, "num_batches": 2, **options})


# ---- tasks ---------------------------------------------------------------------------------------

TASK_BATCH = {
    "image": torch.randn(2, 1, 4, 4, 4),
    "context": [torch.randn(2, 1, 3, 3, 3)],
    "label": torch.ones(2, 1, 2, 2, 2),
}


def test_the_label_is_the_target_and_the_coarser_patches_are_arguments():
    image, target, context, named = PrepareTask(PatchSegmentation())(TASK_BATCH, "cpu", False)
    assert image is TASK_BATCH["image"] and target is TASK_BATCH["label"] and named == {}
    assert context == (TASK_BATCH["context"],)


def test_autoencoders_have_their_input_as_target():
    unlabeled = {"image": TASK_BATCH["image"], "context": TASK_BATCH["context"]}
    image, target, context, _ = PrepareTask(PatchReconstruction())(unlabeled)
    assert target == [image, *context] and len(context) == 1


@pytest.mark.parametrize("task", [PatchSegmentation, PatchReconstruction])
def test_every_tensor_is_moved(task):
    image, target, context, _ = PrepareTask(task())(TASK_BATCH, torch.device("cpu"), dtype=torch.float64)
    targets = target if isinstance(target, list) else [target]
    coarser = context[0] if isinstance(context[0], list) else context
    assert {tensor.dtype for tensor in (image, *targets, *coarser)} == {torch.float64}


@pytest.mark.parametrize(
    "augmentation", [None, PatchAugmentation(log_contrast_range=0, brightness_range=0)], ids=["as it is", "augmented"]
)
def test_the_channels_of_a_place_are_cut_and_transformed_alike(augmentation):
    volume = coordinates()
    alone = make([{"image": volume}], augmentation=augmentation)
    together = make([{"image": torch.cat([volume, 2 * volume, volume / 2])}], augmentation=augmentation)
    for seed in range(4):
        first, second = (dataset[PatchRequest(0, seed, False)] for dataset in (alone, together))
        for patch, channels in zip(
            [first["image"], *first["context"]], [second["image"], *second["context"]], strict=True
        ):
            torch.testing.assert_close(channels, torch.cat([patch, 2 * patch, patch / 2]))


# ---- labels that leave something open ------------------------------------------------------------


def with_pseudo_labels(cases):
    """Return cases beside as many with pseudo-labels, which are in some doubt."""
    doubted = [{**case, "label": torch.cat((case["label"].int(), torch.full((1, *SIZE), 9)))} for case in cases]
    return [*cases, *({**case, "confidence": "confidence.nii"} for case in doubted)]


def test_foreground_is_drawn_of_known_classes_alone():
    label = box().int()
    label[..., 8:] = -1
    doubt = torch.where(torch.arange(SIZE[0]).view(-1, 1, 1) < 6, 0, 255).expand(1, *SIZE).int()
    dataset = make([{"image": coordinates(), "label": torch.cat((label, doubt)), "confidence": "c.nii"}])
    (voxels,) = dataset._transform(0)["foreground"].values()
    places = np.stack(np.unravel_index(voxels, SIZE))
    expected = (box()[0] > 0).numpy().copy()
    expected[..., 8:] = False
    expected[6:] = False
    assert expected.any()
    assert np.array_equal(places, np.stack(expected.nonzero()))


def test_labels_of_all_patches_have_two_channels_where_any_has_a_pseudo_label(labeled):
    dataset = make(with_pseudo_labels(labeled))
    assert dataset.pseudo_labeled == [3, 4, 5]
    for case, doubts in ((0, {0}), (3, {0, 9})):  # no doubt beyond the border
        label = dataset[PatchRequest(case, 1, True)]["label"]
        assert label.shape == (2, 8, 8, 8)
        assert {*label[1].unique().tolist()} <= doubts
        assert torch.equal(label[0], dataset[PatchRequest(0, 1, True)]["label"][0])


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("fraction", "share"), [(0.5, 3), (0.3, 2), (0.8, 5)])
def test_labeled_cases_have_their_share_of_each_minibatch(labeled, deal, processes, fraction, share):
    dataset = make(with_pseudo_labels(labeled))
    draw = lambda: list(PatchBatchSampler(dataset, 6 // processes, 5, 0.5, fraction))  # noqa: E731
    for parts in zip(*deal(draw, processes), strict=True):
        batch = [request for part in parts for request in part]
        assert len(batch) == 6
        assert sum(request.case < 3 for request in batch) == share
        assert sum(request.is_foreground for request in batch) >= 3


def test_without_a_share_pseudo_labels_change_nothing_of_what_is_drawn(labeled):
    expected = [*PatchBatchSampler(make([*labeled, *labeled]), 4, 3, 0.5, 0.5)]  # there are none
    assert [*PatchBatchSampler(make(with_pseudo_labels(labeled)), 4, 3, 0.5)] == expected
