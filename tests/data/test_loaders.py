"""Laws of parallel streams: each goes its own way, and every case has its turn."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose

from common.data import CombinedLoader
from common.fnet import FNetGeometry, PatchBatchSampler, PatchDataset


def make_loader(prefix: str, num_cases: int, batch_size: int, num_batches: int = 4) -> DataLoader:
    cases = [
        {"image": MetaTensor(torch.full((1, 8, 8, 8), float(case)), meta={"filename_or_obj": f"{prefix}{case}"})}
        for case in range(num_cases)
    ]
    dataset = PatchDataset(cases, Compose([]), FNetGeometry(2, 3), 4)
    return DataLoader(dataset, batch_sampler=PatchBatchSampler(dataset, batch_size, num_batches))


def drawn(loader: CombinedLoader) -> list[dict[str, list[str]]]:
    return [{name: batch["case"] for name, batch in batches.items()} for batches in loader]


def test_every_stream_visits_every_case_at_its_own_pace():
    loader = CombinedLoader(labeled=make_loader("l", 2, 1), unlabeled=make_loader("u", 6, 3))
    epoch = drawn(loader)
    assert len(epoch) == len(loader) == 4
    assert Counter(case for batches in epoch for case in batches["labeled"]) == {"l0": 2, "l1": 2}
    assert Counter(case for batches in epoch for case in batches["unlabeled"]) == {f"u{case}": 2 for case in range(6)}


def test_an_epoch_can_be_taken_up_again():
    make = lambda: CombinedLoader(labeled=make_loader("l", 5, 2), unlabeled=make_loader("u", 7, 3))  # noqa: E731
    loader, resumed = make(), make()
    epochs = [drawn(loader) for _ in range(3)]
    assert epochs[0] != epochs[1]
    resumed.set_epoch(2)
    assert drawn(resumed) == epochs[2]


@pytest.mark.parametrize("num_batches", [1, 5])
def test_streams_of_different_lengths_are_refused(num_batches):
    with pytest.raises(ValueError, match=rf"same number of minibatches .* got .'labeled': 4, 'other': {num_batches}"):
        CombinedLoader(labeled=make_loader("l", 2, 1), other=make_loader("u", 2, 1, num_batches))


def test_no_stream_is_refused():
    with pytest.raises(ValueError, match=r"same number of minibatches in an epoch, got \{\}"):
        CombinedLoader()
