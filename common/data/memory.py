"""Memory that is free on a device, within the limits that a container or a batch system sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["format_size", "free_memory"]

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_GROUP_FILES = (  # of both versions: the limit, and what is taken of it
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def free_memory(device: str) -> int | None:
    """Return the free bytes of the memory of a device; None where nobody tells."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    if device != "cpu" or not _MEMINFO.is_file():
        return None
    lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *_group_rooms()], default=None)


def format_size(num_bytes: float) -> str:
    """Return a number of bytes as a text, such as 1.5 GB."""
    scale, unit = (1e9, "GB") if num_bytes >= 1e9 else (1e6, "MB")
    return f"{num_bytes / scale:.3g} {unit}"


def _group_rooms() -> Iterator[int]:
    """Yield the bytes that each control group of this process, and those above it, may still take."""
    own = _OWN_GROUP.read_text(encoding="utf-8").splitlines() if _OWN_GROUP.is_file() else []
    for line in ["::", *own]:
        _, controllers, place = line.split(":", 2)
        group = _GROUPS / ("memory" if "memory" in controllers else "") / place.lstrip("/")
        for folder in (group, *group.parents):
            for limit, usage in _GROUP_FILES:
                if folder.is_relative_to(_GROUPS) and (folder / limit).is_file():
                    most = (folder / limit).read_text(encoding="utf-8").strip()
                    if most.isdigit():  # or the word max
                        yield int(most) - int((folder / usage).read_text(encoding="utf-8")) + _reclaimable(folder)


def _reclaimable(group: Path) -> int:
    """Return the bytes of files in the memory of a control group, which the system gives back when it needs them."""
    stat = group / "memory.stat"
    pairs = (line.split() for line in stat.read_text(encoding="utf-8").splitlines()) if stat.is_file() else ()
    return sum(int(number) for name, number in pairs if name == "inactive_file")
