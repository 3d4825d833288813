"""Cache of preprocessed scans: in memory as long as they fit into a share of it, and in a store on disk beyond."""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from monai.data import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.cli import check_each
from common.cli.errors import find_cause
from common.cli.options import INT, NON_NEGATIVE

from .files import is_main_process, process_rank
from .memory import format_size, free_memory
from .record import Record
from .store import Packed, is_whole, load_stored, pack, read_packed, stored_size, unpack, write_packed
from .volumes import known_of, note_known

__all__ = ["ScanCache", "ScanDataset"]

logger = logging.getLogger(__name__)

_SHARE = 0.5  # of the free memory that scans may take, and of the free disk that those of other runs may
_SUFFIX = ".scan"
_IN_USE = 24 * 3600  # seconds since the last use, in which a scan of another run is not removed


class ScanCache:
    """Cache of the preprocessed scans of a run, whose data sets share its memory.

    A scan is preprocessed once. It is kept in memory while there is room, and beyond in a file, from which parts are
    read: numbers and their order are the same. Files are named by what is in them: the files of the scan with their
    sizes and dates, and all that its preprocessing depends on. So a later run takes those that are whole, other
    processes may share the folder, and only what has changed is made anew.

    Args:
        memory: GB that the scans may take, of each device and process; None: half of what is free.
        folder: of the files. Those of other runs are removed, the longest unused first, as long as all take more than
            half of what they and the free disk are; None: everything is kept in memory.
        num_workers: processes that preprocess.
    """

    def __init__(self, memory: float | None = None, folder: str | Path | None = None, num_workers: int = 0) -> None:
        check_each(NON_NEGATIVE.or_null, cache_memory=memory)
        check_each(INT, num_workers=num_workers)
        self.memory = memory
        self.folder = None if folder is None else Path(folder).absolute()
        self.num_workers = num_workers
        self.used: set[Path] = set()
        self._rooms: dict[str, Any] = {}  # bytes that are left on each device, numbers that processes share

    def hold(self, data: Sequence[Mapping[str, Any]], transform: Callable, device: torch.device | str = "cpu") -> Any:
        """Preprocess scans, and return a sequence of what the transform makes of each.

        Args:
            data: cases, as the transform takes them.
            transform: without randomness; its tensors are on the CPU.
            device: of the tensors in the sequence.

        Raises:
            ValueError: when a scan is refused, or the disk is full.
        """
        if str(device) not in self._rooms:
            self._rooms[str(device)] = multiprocessing.get_context().Value("d", self.room(str(device)))
        cases = _Cases(data, transform, self.folder, self._rooms[str(device)])
        count, (rank, num_processes) = len(data), process_rank()
        order = np.roll(np.arange(count), -(rank * count // num_processes)).tolist()  # each finds files of the others
        held: list[Any] = [None] * count
        paths: set[Path] = set()
        is_silent = None if is_main_process() else True  # None: but in a terminal
        with tqdm(cases.prepare(order, self.num_workers), "preprocessing", count, disable=is_silent) as prepared:
            for index, (found, known) in zip(order, prepared, strict=True):
                if isinstance(found, Exception):
                    raise found from None
                note_known(known)
                if isinstance(found, Path):
                    paths.add(found)
                held[index] = found if isinstance(found, Path) else unpack(found, device)[0]
        if paths and self.folder is not None:
            self.used |= paths
            _remove_unused(self.folder, self.used)
            if is_main_process():
                size = format_size(sum(path.stat().st_size for path in paths))
                logger.info("%d of %d scan(s) are read from %s (%s)", len(paths), count, self.folder, size)
        return _Held(held, device)

    def room(self, device: str = "cpu") -> float:
        """Return the bytes that scans may take on a device, before any of them is there."""
        if self.folder is None:
            return math.inf
        if self.memory is not None:
            return self.memory * 1e9
        free = free_memory(device)
        return math.inf if free is None else _SHARE * free / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class ScanDataset(Dataset):
    """Data set of preprocessed scans that a cache holds.

    Args:
        data: cases.
        transform: preprocessing, without randomness.
        cache: that holds them; None: a scan is preprocessed whenever it is asked for.
        device: of the tensors.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable,
        cache: ScanCache | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(data, transform)
        self.cache = cache
        self.held = None if cache is None else cache.hold(data, self.transform, device)

    def _transform(self, index: int) -> Any:
        return super()._transform(index) if self.held is None else self.held[index]


class _Held(Sequence[Any]):
    """Sequence of scans, each in memory or, where a path stands for it, in a store."""

    def __init__(self, scans: Sequence[Any], device: torch.device | str) -> None:
        self.scans = scans
        self.device = device

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: Any) -> Any:
        scan = self.scans[index]
        return load_stored(scan, self.device)[0] if isinstance(scan, Path) else scan


class _Cases(Dataset):
    """Data set whose items are preprocessed scans: packed where there is room in memory, and otherwise their files."""

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Callable, folder: Path | None, room: Any) -> None:
        super().__init__(data, transform)
        self.folder = folder
        self.room = room
        self.settings = None if folder is None else _describe(transform)

    def prepare(self, order: Sequence[int], num_workers: int) -> Iterator[Any]:
        """Yield the items in some order, or the foreseen error in place of one, and what is known of their files."""
        num_workers = min(num_workers, len(order), os.cpu_count() or 1)
        if num_workers < 2:
            return map(self.__getitem__, order)
        workers: dict[str, Any] = {"num_workers": num_workers, "prefetch_factor": 1}
        chance = torch.Generator()  # or the loader would take of that of the training
        return iter(DataLoader(self, None, sampler=order, collate_fn=_same, generator=chance, **workers))

    def __getitem__(self, index: int) -> tuple[Any, Any]:  # type: ignore[override]
        try:
            with _one_thread():
                return self._prepare(index)
        except Exception as error:
            if (cause := find_cause(error)) is None:
                raise
            return cause, None

    def _prepare(self, index: int) -> tuple[Packed | Path, Any]:
        path = None if self.folder is None else self._path(self.data[index])
        if path is not None and path.exists():
            if is_whole(path):
                os.utime(path)
                known = load_stored(path)[1]
                return (read_packed(path) if self._takes(stored_size(path)) else path), known
            logger.warning("%s: preprocessed scan is damaged, it is made anew", path)
        scan = self._transform(index)
        known = known_of(self.data[index])
        packed = pack((scan, known))
        if path is None or self._takes(packed.size):
            return packed, known
        write_packed(path, packed)
        return path, known

    def _takes(self, size: int) -> bool:
        """Take so many bytes of the memory, if there are as many left."""
        with self.room.get_lock():
            is_enough = self.room.value >= size
            self.room.value -= size * is_enough
        return is_enough

    def _path(self, case: Mapping[str, Any]) -> Path:
        """Return the file of a scan, named by what its content depends on."""
        digest = hashlib.blake2b(repr((self.settings, _describe_case(case))).encode(), digest_size=16)
        return Path(self.folder or "") / f"{digest.hexdigest()}{_SUFFIX}"


def _same(item: Any) -> Any:
    return item


@contextmanager
def _one_thread() -> Iterator[None]:
    """Block in which sums are the same in every process: PyTorch adds in another order where it has more threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _remove_unused(folder: Path, used: Collection[Path]) -> None:
    """Remove scans of other runs, the longest unused first, as long as all take more than a share of the disk."""
    files = {path: path.stat() for path in folder.iterdir() if path.suffix == _SUFFIX}
    total = sum(stat.st_size for stat in files.values())
    most = _SHARE * (total + shutil.disk_usage(folder).free)
    for path, stat in sorted(files.items(), key=lambda entry: entry[1].st_mtime):
        if total > most and path not in used and time.time() - stat.st_mtime > _IN_USE:
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _describe(part: Any, above: tuple[int, ...] = ()) -> Any:
    """Return what a part of a transform is made of, in numbers and texts that are the same in every process.

    Args:
        part: any object.
        above: identities of the objects that it is part of.
    """
    inner = partial(_describe, above=(*above, id(part)))
    if id(part) in above or isinstance(part, np.random.RandomState | np.random.Generator):
        return ""
    if isinstance(part, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(part)
        return str(array.dtype), array.shape, hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
    if isinstance(part, Record):  # whose other numbers are arguments of the transforms that need them
        return part.labels, part.modality
    if isinstance(part, Mapping):
        return sorted((repr(key), inner(value)) for key, value in part.items())
    if isinstance(part, list | tuple | set | frozenset):
        entries = [inner(entry) for entry in part]
        return entries if isinstance(part, list | tuple) else sorted(entries, key=repr)
    if isinstance(part, partial):
        return inner((part.func, part.args, part.keywords))
    if isinstance(part, MethodType):
        return inner(part.__self__), part.__name__
    if isinstance(part, type | FunctionType):
        return part.__qualname__, _source(part)
    if hasattr(part, "__dict__") and not isinstance(part, ModuleType):
        kind: Any = type(part)
        return kind.__qualname__, _source(kind), inner(vars(part))
    return repr(part)


@lru_cache
def _source(part: Any) -> str:
    """Return a checksum of the file that a class or a function is from; none for those of Python itself."""
    try:
        return hashlib.blake2b(Path(inspect.getfile(part)).read_bytes(), digest_size=16).hexdigest()
    except (OSError, TypeError):
        return ""


def _describe_case(entry: Any) -> Any:
    """Return what a case of a data list is made of: its files with their sizes and dates, and the rest."""
    if isinstance(entry, Mapping):
        return sorted((key, _describe_case(value)) for key, value in entry.items())
    if isinstance(entry, list | tuple):
        return [_describe_case(value) for value in entry]
    path = Path(entry) if isinstance(entry, str | Path) else None
    if path is None or not path.exists():
        return _describe(entry)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return str(path), [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
