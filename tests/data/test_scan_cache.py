"""Laws of the cache of preprocessed scans: the same scans from memory and from disk, each made once."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, ScaleIntensityd

from common.cli import InputError
from common.data import LoadVolume, Record, ScanCache, ScanDataset, StoredArray, fingerprint, make_record, reader, store

EDGE = 20  # voxels, of scans that are too large for the description of a file


class Read:
    """Reader that counts, and refuses a file by its name."""

    def __init__(self, offset: float = 0.0, record: Record | None = None) -> None:
        self.offset = offset
        self.record = record

    def __call__(self, case):
        READS[Path(case["image"]).name] += 1
        if Path(case["image"]).name.startswith("bad"):
            raise InputError(f"{case['image']}: must be good, got a bad one; mend it")
        return {"image": LoadVolume()(case["image"]).as_tensor() + self.offset, "case": case["image"]}


READS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _count_anew():
    READS.clear()


@pytest.fixture
def cases(write_scan):
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(EDGE, EDGE, EDGE)).astype("float32") for _ in range(4)]
    return [{"image": write_scan(f"scan_{index}.nii.gz", scan)} for index, scan in enumerate(scans)]


@pytest.fixture
def hold(tmp_path, cases):
    """Return a function that holds the scans, with as much memory as some of them take."""

    def _hold(num_in_memory=0, transform=None, data=cases, **options):
        cache = ScanCache(num_in_memory * 4 * EDGE**3 / 1e9, tmp_path / "cache", **options)
        return ScanDataset(data, transform or Read(), cache)

    return _hold


def files(tmp_path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_in_memory", [0, 3, 4])
def test_scans_are_the_same_wherever_they_are_and_in_memory_while_there_is_room(
    hold, cases, tmp_path, num_in_memory, num_workers
):
    dataset = hold(num_in_memory, num_workers=num_workers)
    kept = [not isinstance(dataset[index]["image"], StoredArray) for index in range(4)]
    assert sum(kept) == num_in_memory and len(files(tmp_path)) == 4 - num_in_memory if num_in_memory < 4 else all(kept)
    for item, case in zip(dataset, cases, strict=True):
        assert torch.equal(item["image"][...], LoadVolume()(case["image"]).as_tensor())
        assert item["case"] == case["image"]


def test_data_sets_of_one_cache_share_its_memory(cases, tmp_path):
    cache = ScanCache(3 * 4 * EDGE**3 / 1e9, tmp_path / "cache")
    first, second = (ScanDataset(cases[part], Read(), cache) for part in (slice(2), slice(2, 4)))
    assert [isinstance(item["image"], StoredArray) for item in (*first, *second)] == [False, False, False, True]


def test_a_later_run_preprocesses_nothing_and_knows_the_checksums(hold, cases, monkeypatch):
    hold()
    known = [fingerprint(case["image"]) for case in cases]
    READS.clear()
    monkeypatch.setattr(reader, "_fingerprints", {})
    again = hold()
    monkeypatch.setattr(reader, "read_volume", None)
    assert not READS and len(again) == 4
    assert [fingerprint(case["image"]) for case in cases] == known
    assert all(not isinstance(item["image"], StoredArray) for item in hold(4)) and not READS


def test_only_what_has_changed_is_made_anew(hold, cases, write_scan):
    hold()
    READS.clear()
    write_scan("scan_2.nii.gz", np.ones((EDGE, EDGE, EDGE), "float32"))
    dataset = hold()
    assert READS == {"scan_2.nii.gz": 1}
    assert torch.equal(dataset[2]["image"][...], torch.ones(1, EDGE, EDGE, EDGE))


@pytest.mark.parametrize(
    ("transform", "is_other"),
    [
        (Compose([Read()]), False),
        (Compose([Read(1.0)]), True),
        (Compose([Read(), ScaleIntensityd("image", minv=0.0, maxv=1.0)]), True),
        (Compose([Read(record=make_record(modality=["MR"]))]), True),
    ],
)
def test_scans_are_made_anew_for_another_preprocessing_and_for_no_other_option(hold, transform, is_other):
    hold(transform=Compose([Read()]))
    READS.clear()
    hold(transform=transform)
    assert sum(READS.values()) == 4 * is_other


def test_the_options_of_a_training_make_no_other_scans(hold):
    for settings in ({"learning_rate": 1.0}, {"learning_rate": 2.0}):
        hold(transform=Read(record=make_record(modality=["CT"], settings=settings)))
    assert sum(READS.values()) == 4


def test_a_damaged_scan_is_made_anew(hold, tmp_path, caplog):
    hold()
    READS.clear()
    damaged = files(tmp_path)[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    hold()
    assert sum(READS.values()) == 1
    assert f"{damaged}: preprocessed scan is damaged, it is made anew" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_scan_is_refused_in_the_same_sentence_by_any_number_of_processes(hold, cases, num_workers):
    bad = [*cases, {"image": "/data/bad.nii.gz"}]
    with pytest.raises(InputError) as raised:
        hold(data=bad, num_workers=num_workers)
    assert str(raised.value) == "/data/bad.nii.gz: must be good, got a bad one; mend it"


def test_a_full_disk_is_told_of_in_one_sentence_and_nothing_partial_stays(hold, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", fail)
    with pytest.raises(InputError, match=r"cache/\w+.scan: must have room on its disk to be written, got none left"):
        hold()
    assert files(tmp_path) == []


def test_processes_that_share_a_folder_begin_at_other_scans(hold, deal):
    """Each of two that work at the same pace then preprocesses half."""
    order = []

    def note():
        READS.clear()
        hold(4, transform=lambda case: order.append(Path(case["image"]).name) or Read()(case))

    deal(note, 2)
    assert [name[5] for name in order] == [*"0123", *"2301"]


def test_scans_of_other_runs_go_the_longest_unused_first_and_none_that_is_in_use(hold, cases, tmp_path, monkeypatch):
    hold(transform=Read(1.0))
    old = files(tmp_path)
    for age, path in enumerate(old):
        os.utime(path, (1e9 - age, 1e9 - age) if age < 3 else None)  # the last one was used a moment ago
    size = old[0].stat().st_size
    usage = type("Usage", (), {"free": 5.5 * size})
    monkeypatch.setattr("common.data.scan_cache.shutil.disk_usage", lambda folder: usage)
    hold()  # 8 scans, where those of 6.75 may be
    assert {path for path in old if path.exists()} == {old[0], old[3]}
    assert len(files(tmp_path)) == 6


def test_the_log_says_where_scans_are_and_how_much_they_take(hold, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hold(1)
    size = sum(path.stat().st_size for path in files(tmp_path)) / 1e6
    assert f"3 of 4 scan(s) are read from {tmp_path / 'cache'} ({size:.3g} MB)" in caplog.text


def test_without_a_cache_a_scan_is_preprocessed_whenever_it_is_asked_for(cases):
    dataset = ScanDataset(cases, Read())
    assert not READS
    assert torch.equal(dataset[0]["image"], dataset[0]["image"]) and READS == {"scan_0.nii.gz": 2}


def test_half_of_what_is_free_is_taken_and_a_share_of_it_by_each_process(monkeypatch, tmp_path):
    monkeypatch.setattr("common.data.scan_cache.free_memory", lambda device: 8000)
    assert ScanCache(folder=tmp_path).room() == 4000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ScanCache(folder=tmp_path).room() == 1000
    assert ScanCache(2, tmp_path).room() == 2e9


def test_drawing_goes_on_as_if_nothing_had_been_cached(hold):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    hold(num_workers=2)
    assert torch.equal(torch.rand(3), expected)
