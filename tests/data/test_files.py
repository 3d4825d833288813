"""Laws of writing files: whole, or as they were."""

from __future__ import annotations

import errno

import pytest
import torch.distributed

from common.data import is_main_process, write_atomically


def test_missing_folders_are_made_and_nothing_temporary_stays(tmp_path):
    path = tmp_path / "a" / "b" / "weights.tar.gz"
    assert write_atomically(path, lambda temporary: temporary.write_text("new", encoding="utf-8")) == path
    assert [file.name for file in path.parent.iterdir()] == ["weights.tar.gz"]
    assert path.read_text(encoding="utf-8") == "new"


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    names = []
    write_atomically(tmp_path / "mask.nii.gz", lambda path: names.append(path.name) or path.touch())
    assert names[0].endswith("mask.nii.gz") and names[0] != "mask.nii.gz"


def test_two_processes_may_write_a_shared_file(tmp_path, monkeypatch):
    """The first one's temporary file was renamed by the second."""
    path = tmp_path / "shared.pt"

    def write_beside_another(temporary):
        temporary.write_text("first", encoding="utf-8")
        monkeypatch.setattr("os.getpid", lambda: 0)
        write_atomically(path, lambda other: other.write_text("second", encoding="utf-8"), shared=True)

    write_atomically(path, write_beside_another, shared=True)
    assert path.read_text(encoding="utf-8") == "first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_the_old_file_survives_a_writer_that_fails(tmp_path, error):
    path = tmp_path / "model.pt"
    path.write_text("old", encoding="utf-8")

    def fail(temporary):
        temporary.write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_not_there_when_its_writer_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "new.txt", lambda temporary: temporary.write_text(str(1 / 0), encoding="utf-8"))
    assert list(tmp_path.iterdir()) == []


def test_the_first_process_of_a_distributed_run_writes(monkeypatch):
    assert is_main_process()
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank, expected in ((0, True), (1, False)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert is_main_process() is expected


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:815] . PytorchStreamWriter failed writing file data/0"),
    ],
    ids=str,
)
def test_a_full_disk_is_told_by_the_path_and_leaves_the_older_file(tmp_path, error):
    """Neither the system nor PyTorch says which file it was."""
    path = tmp_path / "model.pt"
    path.write_text("older")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(
        ValueError, match=r"model.pt: must have room on its disk to be written, got none left; .* make room"
    ):
        write_atomically(path, write)
    assert path.read_text() == "older" and [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    def write(temporary):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "model.pt", write)
