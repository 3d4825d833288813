"""Files that are either whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

__all__ = ["is_main_process", "write_atomically"]


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name and rename it, so that a failure leaves the older file as it was.

    Args:
        path: file to write; missing folders are made.
        write: called with the temporary path, which has the suffix of `path`.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial.{path.name}")  # one that a killed process left is overwritten
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_main_process() -> bool:
    """Tell whether this process writes the files: the first of a distributed run, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
