"""Laws of slices: what an item holds, what is read how often, and who is drawn."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
import torch.distributed
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, Transform

from common.context import SliceBatchSampler, SliceDataset, SliceRequest
from common.context.slices import SliceSourced

SIZE = (5, 6, 7)


def make_case(index, size=SIZE, channels=2):
    """Return a case whose intensities tell the case, channel and voxel."""
    image = torch.arange(float(channels * np.prod(size))).view(channels, *size) + 1e4 * index
    return {"image": MetaTensor(image, meta={"filename_or_obj": f"{index}.nii"}), "label": (image[:1] % 3).byte()}


class Reader(Transform):
    """A preprocessing that counts how often each case is read."""

    def __init__(self):
        self.reads = Counter()

    def __call__(self, case):
        self.reads[case["image"].meta["filename_or_obj"]] += 1
        return case


def make(cases=3, size=SIZE, reader=None, **options):
    return SliceDataset([make_case(index, size) for index in range(cases)], reader or Reader(), **options)


# ---- what an item holds --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_perpendicular_to_its_axis_and_the_label_lies_on_it(axis):
    dataset, case = make(axis=axis), make_case(1)
    for index in range(SIZE[axis]):
        item = dataset[SliceRequest(1, index, 9)]
        assert torch.equal(item["image"], case["image"].as_tensor().select(axis + 1, index))
        assert torch.equal(item["label"], case["label"].select(axis + 1, index).short())
        assert (item["seed"], item["case"]) == (9, "1.nii")
        assert type(item["image"]) is torch.Tensor


@pytest.mark.parametrize("size", [(5, 6, 1), (1, 5, 6), (5, 1, 6)])
def test_a_2d_image_is_its_own_slice_whatever_plane_it_shows(size):
    dataset = make(1, size, axis=2)
    assert [len(slices) for slices in dataset.slices] == [1]
    assert torch.equal(dataset[SliceRequest(0, 0, 0)]["image"], make_case(0, size)["image"].as_tensor().squeeze())


def test_a_case_without_label_gives_no_label():
    dataset = SliceDataset([{"image": torch.rand(1, *SIZE)}], Compose([]))
    assert set(dataset[SliceRequest(0, 0, 0)]) == {"image", "seed", "case", "slice"}


def test_changing_an_item_leaves_the_cache_as_it_was():
    dataset, request = make(), SliceRequest(0, 2, 0)
    dataset[request]["image"].zero_()
    assert dataset[request]["image"].any()


@pytest.mark.parametrize("placement", ["random", "center"])
def test_a_slice_is_cropped_along_one_side_and_padded_along_the_other_with_the_minimum(placement):
    dataset, case = make(slice_size=(3, 10), placement=placement), make_case(2)
    for seed in range(20):
        item = dataset[SliceRequest(2, 4, seed)]
        assert item["image"].shape == (2, 3, 10) and item["label"].shape == (1, 3, 10)
        columns = (item["image"][0] != case["image"].min()).all(0).nonzero().flatten()
        left = int(columns[0])
        assert len(columns) == 6 and left == (2 if placement == "center" else left)
        found = item["image"][:, :, left : left + 6]
        whole = case["image"].as_tensor()[..., 4]
        tops = [top for top in range(3) if torch.equal(whole[:, top : top + 3], found)]
        assert tops == [1] if placement == "center" else len(tops) == 1
        label = torch.zeros(1, 3, 10, dtype=torch.int16)
        label[..., left : left + 6] = case["label"][:, tops[0] : tops[0] + 3, :, 4]
        assert torch.equal(item["label"], label)
        assert torch.equal(item["image"][:, 0, (left + 7) % 10], case["image"].as_tensor().amin((1, 2, 3)))


def test_random_placement_reaches_every_place_and_depends_on_the_seed_alone():
    dataset = make(1, slice_size=(2, 8))
    crops = [dataset[SliceRequest(0, 0, seed)]["image"] for seed in range(100)]
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 4 * 3
    assert torch.equal(crops[7], make(1, slice_size=(2, 8))[SliceRequest(0, 0, 7)]["image"])


def test_slices_of_several_sizes_need_a_slice_size():
    cases = [make_case(0), make_case(1, (5, 5, 7))]
    with pytest.raises(
        ValueError, match=r"slices must be of one size unless slice_size .* \(5, 6\) in 0.nii, \(5, 5\)"
    ):
        SliceDataset(cases, Compose([]))
    assert len(SliceDataset(cases, Compose([]), slice_size=(4, 4)).slices) == 2


# ---- slices without a body -----------------------------------------------------------------------


def make_body():
    """Return a volume of dim noise, with a body in slices 2 to 5 and a label in slices 5 and 6."""
    image = 0.02 * torch.rand(1, 20, 20, 9)
    image[:, 5:15, 5:15, 2:6] = 1 + torch.rand(1, 10, 10, 4)
    label = torch.zeros(1, 20, 20, 9, dtype=torch.uint8)
    label[:, 6, 6, 5:7] = 1
    return {"image": image, "label": label}


def test_slices_of_air_are_left_out_but_for_those_with_a_label():
    case = make_body()
    assert make_slices(case) == list(range(9))
    assert make_slices(case, body_contrast=0.5) == [2, 3, 4, 5, 6]
    assert make_slices({"image": case["image"]}, body_contrast=0.5) == [2, 3, 4, 5]
    assert make_slices({"image": torch.cat([case["image"], 7 * case["image"] - 900])}, body_contrast=0.5) == [
        2,
        3,
        4,
        5,
    ]


def make_slices(case, **options):
    return SliceDataset([case], Compose([]), **options).slices[0].tolist()


def test_no_body_in_any_case_is_refused_and_in_one_is_told(caplog):
    empty = {"image": torch.zeros(1, 20, 20, 3)}
    with pytest.raises(ValueError, match="data must hold slices that show a body, got none in 1 cases"):
        SliceDataset([empty], Compose([]), body_contrast=0.5)
    dataset = SliceDataset([empty, make_body()], Compose([]), body_contrast=0.5)
    assert "no slice shows a body" in caplog.text
    assert {request.case for batch in SliceBatchSampler(dataset, 2) for request in batch} == {1}


# ---- what is read how often ----------------------------------------------------------------------


def test_a_volume_is_preprocessed_once():
    reader = Reader()
    dataset = make(8, reader=reader)
    for _ in range(2):
        for batch in SliceBatchSampler(dataset, batch_size=5):
            for request in batch:
                assert dataset[request]["case"] == f"{request.case}.nii"
    assert [reader.reads[f"{index}.nii"] for index in range(8)] == 8 * [1]


# ---- who is drawn --------------------------------------------------------------------------------


def test_a_whole_pass_has_every_slice_once_in_random_order():
    sampler = SliceBatchSampler(make(), batch_size=4)
    epochs = [list(sampler) for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 4, 4, 4, 1] and len(sampler) == 6
        places = [request[:2] for batch in epoch for request in batch]
        assert sorted(places) == [(case, index) for case in range(3) for index in range(7)] != places
    assert epochs[0] != epochs[1]
    assert len({request.seed for epoch in epochs for batch in epoch for request in batch}) == 42
    cases = [request.case for batch in epochs[0] for request in batch]
    assert (sum(a != b for a, b in itertools.pairwise(cases)) > 5) and max(Counter(cases).values()) == 7


def test_epochs_of_a_given_length_take_every_slice_equally_often():
    sampler = SliceBatchSampler(make(), batch_size=2, num_batches=7)
    places = [request[:2] for _ in range(3) for batch in sampler for request in batch]
    assert set(Counter(places).values()) == {2} and len(places) == 42 and len(sampler) == 7


@pytest.mark.parametrize("num_batches", [None, 3])
def test_an_epoch_of_a_resumed_run_is_that_of_an_uninterrupted_one(num_batches):
    whole, resumed = (SliceBatchSampler(make(), 4, num_batches, seed=7) for _ in range(2))
    epochs = [list(whole) for _ in range(4)]
    resumed.set_epoch(2)
    assert [list(resumed), list(resumed)] == epochs[2:]
    assert epochs[0] != list(SliceBatchSampler(make(), 4, num_batches, seed=8))
    fixed = SliceBatchSampler(make(), 4, num_batches, seed=7, fixed=True)
    assert [list(fixed), list(fixed)] == [epochs[0], epochs[0]]


def test_any_number_of_workers_gives_the_same_batches_of_cached_volumes():
    epochs = []
    for num_workers in (0, 2):
        dataset = make(slice_size=(4, 8))
        sampler = SliceBatchSampler(dataset, 5, seed=1)
        epochs.append(list(DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)))
    for first, second in zip(*epochs, strict=True):
        assert torch.equal(first["image"], second["image"]) and torch.equal(first["label"], second["label"])
        assert torch.equal(first["seed"], second["seed"]) and first["case"] == second["case"]


@pytest.mark.parametrize("num_batches", [2, None])
def test_the_minibatches_of_several_processes_are_those_of_one_dealt_out(deal, num_batches):
    def draw(batch_size):
        sampler = SliceBatchSampler(make(), batch_size, num_batches)
        return [batch for _ in range(2) for batch in sampler]

    whole = draw(6)  # of 21 slices
    for rank, part in enumerate(deal(lambda: draw(2), 3)):
        assert part == [batch[rank::3] for batch in whole]


def test_the_processes_of_a_distributed_run_share_the_slices_of_an_epoch(deal):
    def draw():
        sampler = SliceBatchSampler(make(), 4)
        epoch = list(sampler)
        assert len(epoch) == len(sampler) == 3
        return [request for batch in epoch for request in batch]

    ranks = deal(draw)
    assert {request[:2] for rank in ranks for request in rank} == {(c, s) for c in range(3) for s in range(7)}
    assert [len(rank) for rank in ranks] == [11, 11]
    assert not {request.seed for request in ranks[0]} & {request.seed for request in ranks[1]}


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 3}, "axis must be one of 0, 1, 2, got 3"),
        ({"placement": "corner"}, "placement must be one of random, center, got 'corner'"),
        ({"cases": 0}, "data must hold at least one case, got none; look at .* dataset.json"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_line_is_no_slice():
    with pytest.raises(ValueError, match=r"0.nii: slices along axis 2 must be two-dimensional, got \(5, 1, 1\) voxels"):
        SliceSourced(2)(make_case(0, (5, 1, 1)))


@pytest.mark.parametrize(("name", "batch_size", "num_batches"), [("batch_size", 0, None), ("num_batches", 2, 0)])
def test_sampler_options_out_of_range_are_refused(name, batch_size, num_batches):
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 1.*, got 0"):
        SliceBatchSampler(make(), batch_size, num_batches)


def test_labels_without_any_foreground_are_refused_and_one_with_some_is_enough():
    case = {"image": make_body()["image"], "label": torch.zeros(1, *make_body()["image"].shape[1:])}
    with pytest.raises(ValueError, match="labels must hold foreground in at least one of 2 cases, got none"):
        SliceDataset([case, case], Compose([]))
    marked = {**case, "label": torch.ones_like(case["label"])}
    assert len(SliceDataset([case, marked], Compose([])).slices) == 2


def test_a_class_that_no_label_has_is_warned_of_by_name(caplog):
    case = make_body()
    marked = {"image": case["image"], "label": torch.ones_like(case["image"][:1])}
    SliceDataset([marked], Compose([]), labels={0: "background", 1: "liver", 2: "spleen"})
    assert "no label of 1 case(s) has spleen (2)" in caplog.text


@pytest.mark.parametrize("slice_size", [32, "32,32", [32, "32"], [32.5, 32], (4, 4, 4), [0, 4]], ids=str)
def test_a_slice_size_that_is_no_pair_of_whole_numbers_is_refused(slice_size):
    message = f"slice_size must be height and width in pixels, such as [256, 256], got {slice_size!r}"
    with pytest.raises(TypeError, match=re.escape(message)):
        SliceDataset([make_body()], Compose([]), slice_size=slice_size)


def test_text_for_the_contrast_of_the_body_is_refused():
    with pytest.raises(TypeError, match=r"body_contrast must be a number, or null .*, got 'some'"):
        SliceDataset([make_body()], Compose([]), body_contrast="some")


# ---- labels that leave something open ------------------------------------------------------------


def make_open(reader=None, sizes=(7, 7, 7, 7, 7, 7), **options):
    """Return slices of six cases, of which the last four have pseudo-labels."""
    cases = [make_case(index, (5, 6, size)) for index, size in enumerate(sizes)]
    for case in cases[2:]:
        case["label"] = torch.cat((case["label"].short(), torch.full(case["label"].shape, 9, dtype=torch.int16)))
        case["confidence"] = "confidence.nii"
    return SliceDataset(cases, reader or Reader(), **options)


def test_slices_that_are_not_labeled_are_not_requested_and_others_are():
    case, whole = make_case(0), make_case(1)
    label = case["label"].int()
    label[..., [1, 2, 5]] = -1
    label[:, 1:, :, 3] = -1
    dataset = SliceDataset([{**case, "label": label}, whole], Compose([]))
    assert [slices.tolist() for slices in dataset.slices] == [[0, 3, 4, 6], [*range(7)]]
    assert torch.equal(dataset[SliceRequest(0, 3, 0)]["label"], label[..., 3])


def test_slices_in_full_doubt_are_not_requested():
    case = make_case(0)
    doubt = torch.zeros_like(case["label"]).int()
    doubt[..., 2] = 255
    doubt[:, 0, :, 3] = 255
    label = torch.cat((case["label"].int(), doubt))
    dataset = SliceDataset([{**case, "label": label, "confidence": "c.nii"}], Compose([]))
    assert dataset.slices[0].tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("contrast", [None, 0.5])
def test_a_case_of_which_nothing_is_labeled_is_warned_of(contrast, caplog):
    nothing = {**make_case(0), "label": torch.full((1, *SIZE), -1)}
    dataset = SliceDataset([nothing, make_case(1)], Compose([]), body_contrast=contrast)
    assert not len(dataset.slices[0])
    assert "0.nii: no slice shows a body and is labeled, none is used" in caplog.text


def test_labels_of_all_items_have_two_channels_where_any_has_a_pseudo_label():
    dataset = make_open()
    for case, doubt in ((0, 0), (2, 9)):
        label = dataset[SliceRequest(case, 1, 0)]["label"]
        assert label.shape == (2, 5, 6)
        assert label[1].unique().tolist() == [doubt]
        assert torch.equal(label[0], make_case(case)["label"][0, ..., 1].int())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("num_batches", [None, 9])
@pytest.mark.parametrize(("fraction", "share"), [(0.5, 3), (0.3, 2), (0.8, 5)])
def test_labeled_slices_have_their_share_of_each_minibatch(deal, processes, num_batches, fraction, share):
    dataset = make_open()

    def draw():
        sampler = SliceBatchSampler(dataset, 6 // processes, num_batches, fraction, seed=1)
        return [list(batch) for _ in range(2) for batch in sampler]

    drawn = deal(draw, processes)
    assert all(len(batches) == len(drawn[0]) for batches in drawn)
    for batch in ([*chain(*batches)] for batches in zip(*drawn, strict=True)):
        assert len(batch) == 6
        assert sum(request.case < 2 for request in batch) == share


def test_labeled_slices_and_others_come_as_often_as_any_other_of_their_kind():
    dataset = make_open()
    sampler = SliceBatchSampler(dataset, 8, num_batches=7, labeled_fraction=0.5)  # 28 slices of each kind
    drawn = Counter((request.case, request.slice) for batch in sampler for request in batch)
    assert {count for (case, _), count in drawn.items() if case < 2} == {2}
    assert {count for (case, _), count in drawn.items() if case >= 2} == {1}
    assert len(drawn) == 42


def test_without_a_share_a_pseudo_label_changes_nothing_of_what_is_drawn():
    with_labels, with_pseudo_labels = make(6), make_open()
    for dataset in (with_labels, with_pseudo_labels):
        assert [*SliceBatchSampler(dataset, 4, seed=3)] == [
            *SliceBatchSampler(with_labels, 4, seed=3, labeled_fraction=0.5)
        ]
