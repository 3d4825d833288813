"""Atomic writes: files and folders that are either whole or not there, and the process that writes them."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from common.cli import InputError

__all__ = [
    "hash_file",
    "is_main_process",
    "name_full_disk",
    "process_rank",
    "write_atomically",
    "write_folder",
    "write_together",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORCH_FAILED = ("PytorchStreamWriter failed writing", "unexpected pos")  # PyTorch does not say why


@contextmanager
def name_full_disk(path: str | Path) -> Iterator[None]:
    """Block in which a file is written: that its disk is full is told by the path, which neither system nor PyTorch do.

    Raises:
        ValueError: when there is no room for the file.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_torch = isinstance(error, RuntimeError) and any(text in str(error) for text in _TORCH_FAILED)
        if is_torch or getattr(error, "errno", None) in _FULL:
            raise InputError(
                f"{path}: must have room on its disk to be written, got none left; what was there before is whole, so "
                "make room and start the same command again"
            ) from error
        raise


def write_atomically(path: str | Path, write: Callable[[Path], object], shared: bool = False) -> Path:
    """Write a file under a temporary name and rename it, so that a failure leaves the older file as it was.

    Args:
        path: file to write, and returned; missing folders are made.
        write: called with the temporary path, which has the suffix of `path`.
        shared: several processes may write this file at once; the last one's stays.

    Raises:
        ValueError: when the disk is full.
    """
    write_together({Path(path): write}, shared)
    return Path(path)


def write_together(files: Mapping[Path, Callable[[Path], object]], shared: bool = False) -> None:
    """Write several files under temporary names and rename them when all are whole; see `write_atomically`.

    Args:
        files: what writes each of them, by its path.
        shared: see `write_atomically`.

    Raises:
        ValueError: when the disk is full.
    """
    writer = f"{os.getpid()}." if shared else ""  # if not, one that a killed process left is overwritten
    temporaries = {path: path.with_name(f".partial.{writer}{path.name}") for path in files}
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with name_full_disk(path):
                write(temporaries[path])
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def write_folder(folder: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a folder under a temporary name and rename it, so that a failure leaves nothing behind.

    Args:
        folder: to make, and returned; it may exist when it is empty. Missing parents are made.
        write: called with the temporary folder, which lies beside `folder`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: output folder must be new or empty, got one that holds something; choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial_") as temporary:
        root = Path(temporary) / "folder"  # an ordinary one: the temporary one is for its owner alone
        root.mkdir()
        write(root)
        root.replace(folder)
    return folder


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def process_rank() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes of a distributed run, or 0 and 1."""
    is_distributed = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if is_distributed else (0, 1)


def is_main_process() -> bool:
    """Tell whether this process writes the files: the first of a distributed run, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
