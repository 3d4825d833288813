"""Laws of arrays that are read from disk in parts."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.data.store import StoredArray, Strided, is_whole, load_stored, pack, read_packed, unpack, write_packed

SHAPE = (2, 37, 40, 35)
INDICES = {
    "all": ...,
    "one of the first axis": 1,
    "a box": (slice(None), slice(3, 20), slice(0, 33), slice(30, 35)),
    "a box in steps": (..., slice(3, 37, 4), slice(1, 22, 4), slice(0, 35, 4)),
    "other steps": (..., slice(3, 37, 2), slice(1, 22, 3), slice(0, 35)),
    "nothing": (..., slice(0, 0), slice(1, 22, 4), slice(0, 35, 4)),
    "one voxel": (0, 36, 39, 34),
}


@pytest.fixture
def array() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=SHAPE).astype("float32"))


@pytest.fixture
def store(tmp_path):
    """Return a function that writes an item and returns what the file holds."""

    def _store(item):
        write_packed(tmp_path / "scan", pack(item))
        return load_stored(tmp_path / "scan")

    return _store


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_an_index_reads_what_it_takes_of_a_tensor(store, array, index, step):
    stored = store({"image": Strided(array, step)})["image"]
    assert isinstance(stored, StoredArray)
    assert (stored.shape, stored.dtype, stored.device, len(stored)) == (array.shape, array.dtype, array.device, 2)
    assert torch.equal(stored[index], array[index])
    assert stored[index].dtype == array.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.int16, torch.int32])
def test_numbers_keep_their_type(store, array, dtype):
    assert torch.equal(store([(100 * array).to(dtype)])[0][...], (100 * array).to(dtype))


def test_a_long_list_of_numbers_is_read_one_by_one(store):
    voxels = torch.arange(0, 900_000, 3, dtype=torch.int32)
    stored = store({"voxels": {1: voxels}})["voxels"][1]
    assert isinstance(stored, StoredArray)
    assert [int(stored[place]) for place in (0, 7, 299_999)] == [0, 21, 899_997]


def test_what_was_read_can_be_changed_and_the_file_stays(store, array):
    stored = store([array])[0]
    stored[0].zero_()
    assert torch.equal(stored[0], array[0])


def test_an_image_keeps_its_metadata_and_small_tensors_stay_tensors(store, array):
    image = MetaTensor(array, meta={"affine": torch.eye(4), "name": "scan"}, applied_operations=[{"id": 3}])
    found = store({"image": image, "fill": array[:, 0, 0, 0], "case": "a.nii"})
    assert type(found["image"]) is MetaTensor and torch.equal(found["image"].as_tensor(), array)
    assert found["image"].meta["name"] == "scan" and found["image"].applied_operations == [{"id": 3}]
    assert torch.equal(found["fill"], array[:, 0, 0, 0]) and found["case"] == "a.nii"


def test_a_scan_that_is_put_together_in_memory_is_the_same(array, tmp_path):
    packed = pack({"levels": [Strided(array, 4), array[:, ::2]], "case": "a.nii"})
    write_packed(tmp_path / "scan", packed)
    for item in (unpack(packed), unpack(read_packed(tmp_path / "scan"))):
        assert torch.equal(item["levels"][0], array) and torch.equal(item["levels"][1], array[:, ::2])
        assert item["case"] == "a.nii"


def test_a_file_is_whole_as_it_was_written_and_with_no_byte_changed_or_lost(array, tmp_path):
    path = tmp_path / "scan"
    assert not is_whole(path)
    write_packed(path, pack([array]))
    content = path.read_bytes()
    assert is_whole(path) and [*tmp_path.iterdir()] == [path]
    for place in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not is_whole(path)
    path.write_bytes(content[:-100])
    assert not is_whole(path)


def test_a_file_that_is_gone_is_told_of(tmp_path):
    with pytest.raises(FileNotFoundError, match="scan: preprocessed scan must stay while it is used, got none; start"):
        load_stored(tmp_path / "scan")


def test_smooth_numbers_take_less_of_the_disk(tmp_path):
    ramp = torch.arange(64.0).expand(64, 64, 64).contiguous()
    write_packed(tmp_path / "scan", pack([ramp]))
    assert (tmp_path / "scan").stat().st_size < ramp.numel() * 4 / 10


class _Command:
    def __reduce__(self):
        return os.system, ("touch done",)


@pytest.mark.parametrize("item", [{"a": _Command()}, _Command(), {"a": np.load}], ids=["inside", "alone", "function"])
def test_a_file_that_holds_more_than_data_is_refused_and_nothing_of_it_is_run(store, tmp_path, monkeypatch, item):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="preprocessed scan must hold nothing but data, got this; remove the folder"):
        store(item)
    assert not (tmp_path / "done").exists()


def test_metadata_with_tensors_come_back_as_they_were(store):
    volume = MetaTensor(torch.zeros(1, 20, 20, 20), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    volume.meta |= {"case_id": "a", "sizes": torch.Size((1, 2)), "numbers": np.arange(3), "one": np.float32(4)}
    volume.push_applied_operation({"class": "Flip", "extra_info": {"matrix": torch.eye(4)}})
    found = store(volume)
    assert torch.equal(found.affine, volume.affine) and found.meta["sizes"] == (1, 2) and found.meta["one"] == 4
    assert torch.equal(found.applied_operations[0]["extra_info"]["matrix"], torch.eye(4))
    assert found.meta["case_id"] == "a" and found.meta["numbers"].tolist() == [0, 1, 2]
