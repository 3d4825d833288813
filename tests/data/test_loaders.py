"""Laws of loaders: parallel streams go their own ways, and a case that cannot be loaded does not end a pass."""

from __future__ import annotations

import errno
from collections import Counter

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from common.cli import InputError, concerns_run
from common.data import CaseLoader, CombinedLoader, LeftOutCase, row_of
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


# ---- cases one at a time -------------------------------------------------------------------------


def test_a_case_that_cannot_be_loaded_is_told_in_its_place(deal):
    def load(case):
        if case["case_id"] in ("b", "e"):
            raise InputError(f"{case['image']}: must be sound, got a fault; copy it again")
        return {"image": torch.zeros(1, 2, 2, 2)}

    cases = [{"image": f"{name}.nii", "case_id": name} for name in "abcde"]
    cases[3].update(outcome="kept", reason="it is there")

    def told():
        loader = CaseLoader(Dataset(cases, load))
        rows = [item.row if isinstance(item, LeftOutCase) else len(item["image"]) for item in loader]
        return len(loader), rows

    rows = {case["case_id"]: row for case, row in zip(cases, told()[1], strict=True)}
    assert rows["a"] == rows["c"] == 1
    reason = "b.nii: must be sound, got a fault; copy it again"
    assert rows["b"] == {"case": "b", "image": "b.nii", "outcome": "refused", "reason": reason}
    assert rows["d"] == {"case": "d", "image": "d.nii", "outcome": "kept", "reason": "it is there"}
    (length, first), (other, second) = deal(told)
    assert (length, other) == (3, 2) and [*first, *second] == [*rows.values()], "each process has its own cases"


def test_an_unforeseen_error_has_a_type_a_text_and_a_traceback():
    loader = CaseLoader(Dataset([{"image": "a.nii"}], lambda case: {}["image"]))
    (item,) = loader
    assert item.row["outcome"] == "failed" and item.row["reason"] == "KeyError: 'image'"
    assert "Traceback" in item.trace and "lambda" in item.trace


@pytest.mark.parametrize("name", ["a\nb.nii", "a\udc80b.nii"])
def test_a_name_that_is_no_line_of_text_becomes_one_in_a_report(name):
    row = row_of({"image": name}, "refused", "")
    assert "\n" not in row["case"] and row["image"].isprintable()


def test_a_full_disk_is_no_matter_of_one_case():
    def load(case):
        raise OSError(errno.ENOSPC, "No space left on device", "cache.pt")

    with pytest.raises(RuntimeError) as raised:  # MONAI wraps it
        list(CaseLoader(Dataset([{"image": "a.nii"}], load)))
    assert concerns_run(raised.value)
