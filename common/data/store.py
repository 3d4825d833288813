"""Store of preprocessed scans on disk: compressed arrays that are read in parts, one file for each scan."""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import StrEnum

from common.cli import InputError, MissingFileError

from .files import write_atomically

__all__ = [
    "Packed",
    "StoredArray",
    "Strided",
    "is_whole",
    "load_stored",
    "pack",
    "read_packed",
    "stored_size",
    "unpack",
    "write_packed",
]

_BLOCK, _CHUNK = 32, 128  # voxels along each of the last three axes: what is read, and what is written, at once
_SMALL = 4096  # numbers, up to which an array is kept beside the description of a scan
_SIZE, _SUM = struct.Struct("<Q"), struct.Struct("<I")  # at the end of a file: of the description, and of all before
_READ = 2**24  # bytes, of a file at once
_PACKAGES = ("collections", "monai", "numpy", "torch", __name__.partition(".")[0])  # of what a description is made of
_PARTS = (
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("torch", "Size"),
)
_RECENT = 3600  # seconds, after which the use of a file is noted anew


class Strided(NamedTuple):
    """Array of shape `(..., H, W, D)` that will be read at every `step`-th voxel along its last three axes.

    In a store, voxels that are `step` apart lie beside one another. It is pickled as the array alone.
    """

    array: torch.Tensor
    step: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self.array,)


def _same(array: torch.Tensor) -> torch.Tensor:
    return array


class Packed(NamedTuple):
    """Preprocessed scan, taken apart.

    Attributes:
        description: all of it but the large arrays, as `pickle` writes it.
        arrays: the large arrays.
        steps: in which each of them is read, see `Strided`.
    """

    description: bytes
    arrays: list[np.ndarray]
    steps: list[int]

    @property
    def size(self) -> int:
        """The bytes of the large arrays."""
        return sum(array.nbytes for array in self.arrays)


class StoredArray:
    """Array in a store, of which each index reads a part, as a tensor; any index of a NumPy array will do.

    Args:
        path: of the file.
        offset: of the array in the file, in bytes.
        shape: of the array.
        dtype: type of its numbers.
        step: in which it is laid out, see `Strided`.
        device: of the tensors.
    """

    def __init__(
        self, path: Path, offset: int, shape: Sequence[int], dtype: torch.dtype, step: int, device: torch.device | str
    ) -> None:
        self.path = path
        self.offset = offset
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.step = step
        self.device = torch.device(device)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> torch.Tensor:
        stored = _open(self.path, self.offset)
        if self.step > 1:
            places = _spatial_slices(index, self.shape)
            sizes = [len(range(place.start, place.stop, place.step)) for place in places]
            if 0 in sizes:
                return torch.empty((*self.shape[:-3], *sizes), dtype=self.dtype, device=self.device)
            if all(place.step == self.step for place in places):  # each is a plain slice of one of the parts
                parts = [place.start % self.step for place in places]
                firsts = [place.start // self.step for place in places]
                own = [slice(first, first + size) for first, size in zip(firsts, sizes, strict=True)]
                found = stored[(*parts, *[slice(None)] * (self.ndim - 3), *own)]
            else:
                found = _join_steps(stored[:], self.shape)[index]
        else:
            found = stored[index]
        return torch.from_numpy(np.array(found)).to(self.device)  # a copy, which may be written to


def pack(item: Any) -> Packed:
    """Take a preprocessed scan apart: any object with tensors on the CPU in it."""
    packed = Packed(b"", [], [])
    file = io.BytesIO()
    _Pickler(file, packed).dump(item)
    return packed._replace(description=file.getvalue())


def unpack(packed: Packed, device: torch.device | str = "cpu") -> Any:
    """Put together what `pack` took apart, with its tensors on a device."""
    return _load(packed.description, lambda place: torch.from_numpy(packed.arrays[place]).to(device), device)


def write_packed(path: Path, packed: Packed) -> None:
    """Write a scan into a file, which has its name when it is whole on the disk.

    Raises:
        ValueError: when the disk is full.
    """
    write_atomically(path, lambda temporary: _write(temporary, packed), shared=True)


def read_packed(path: Path) -> Packed:
    """Return the scan in a file, with its large arrays."""
    description, places = _read_description(path)
    arrays = [StoredArray(path, *place, "cpu")[...].numpy() for place in places]
    return Packed(description, arrays, [place[-1] for place in places])


def stored_size(path: Path) -> int:
    """Return the bytes that the large arrays of the scan in a file take in memory."""
    return sum(math.prod(shape) * dtype.itemsize for _, shape, dtype, _ in _read_description(path)[1])


def load_stored(path: Path, device: torch.device | str = "cpu") -> Any:
    """Return the scan in a file, with `StoredArray` in place of its large tensors.

    Raises:
        FileNotFoundError: when it is gone.
    """
    try:
        description, places = _read_description(path)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path}: preprocessed scan must stay while it is used, got none; start the same command again"
        ) from None
    return _load(description, lambda place: StoredArray(path, *places[place], device), device)


def is_whole(path: Path) -> bool:
    """Tell whether a file is there and as it was written, by its sum."""
    total = 0
    try:
        with path.open("rb") as file:
            remaining = path.stat().st_size - _SUM.size
            while remaining > 0 and (part := file.read(min(remaining, _READ))):
                total = zlib.crc32(part, total)
                remaining -= len(part)
            return file.read() == _SUM.pack(total)
    except FileNotFoundError:
        return False


class _Pickler(pickle.Pickler):
    """Pickler of a scan, which puts its large tensors aside."""

    def __init__(self, file: io.BytesIO, packed: Packed) -> None:
        super().__init__(file, protocol=5)
        self.packed = packed

    def persistent_id(self, part: Any) -> Any:
        """Return, for a tensor, where it is or else itself, and the metadata of a `MetaTensor`."""
        tensor, step = part if isinstance(part, Strided) else (part, 1)
        if not isinstance(tensor, torch.Tensor):
            return None
        array = np.ascontiguousarray(tensor.detach().as_subclass(torch.Tensor).numpy())
        meta = self._dump((tensor.meta, tensor.applied_operations)) if isinstance(tensor, MetaTensor) else None
        if array.size <= _SMALL:
            return array.reshape(tensor.shape), meta
        self.packed.arrays.append(array)
        self.packed.steps.append(step)
        return len(self.packed.arrays) - 1, meta

    def _dump(self, part: Any) -> bytes:
        file = io.BytesIO()
        _Pickler(file, self.packed).dump(part)
        return file.getvalue()


class _Unpickler(pickle.Unpickler):
    """Unpickler of a scan, which takes its large tensors from elsewhere, and refuses whatever is no data."""

    def __init__(self, description: bytes, fetch: Callable[[int], Any], device: torch.device | str) -> None:
        super().__init__(io.BytesIO(description))
        self.fetch = fetch
        self.device = device

    def persistent_load(self, pid: Any) -> Any:
        place, meta = pid
        found = self.fetch(place) if isinstance(place, int) else torch.from_numpy(place.copy()).to(self.device)
        if meta is None:
            return found
        metadata, operations = _load(meta, self.fetch, "cpu")
        return MetaTensor(found[...], meta=metadata, applied_operations=operations)

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module.partition(".")[0] in _PACKAGES else None
        is_data = isinstance(found, type) and (issubclass(found, StrEnum) or getattr(found, "is_stored", False))
        if (module.replace("._core.", ".core."), name) in _PARTS or isinstance(found, torch.dtype) or is_data:
            return found
        raise InputError(
            f"{module}.{name}: preprocessed scan must hold nothing but data, got this; remove the folder of the cache"
        )


def _load(description: bytes, fetch: Callable[[int], Any], device: torch.device | str) -> Any:
    return _Unpickler(description, fetch, device).load()


def _write(path: Path, packed: Packed) -> None:
    total, offset, places = 0, 0, []
    with path.open("wb") as file:
        for array, step in zip(packed.arrays, packed.steps, strict=True):
            places.append((offset, array.shape, torch.from_numpy(array).dtype, step))
            frame = _compress(_split_steps(array, step) if step > 1 else array)
            total = zlib.crc32(frame, total)
            offset += file.write(frame)
        description = pickle.dumps((packed.description, places))
        end = description + _SIZE.pack(len(description))
        file.write(end + _SUM.pack(zlib.crc32(end, total)))
        file.flush()
        os.fsync(file.fileno())


@lru_cache(maxsize=64)
def _read_description(path: Path) -> tuple[bytes, list[tuple[int, tuple[int, ...], torch.dtype, int]]]:
    """Return the description of a scan in a file, and where its arrays are: offset, shape, type and step."""
    with path.open("rb") as file:
        if time.time() - os.fstat(file.fileno()).st_mtime > _RECENT:
            os.utime(path)  # so that nobody takes it for unused
        end = file.seek(-_SIZE.size - _SUM.size, os.SEEK_END)
        (size,) = _SIZE.unpack(file.read(_SIZE.size))
        file.seek(end - size)
        return _load(file.read(size), _no_tensor, "cpu")


def _no_tensor(place: int) -> Any:
    raise InputError(f"description of a preprocessed scan must hold no tensor, got number {place}; remove the cache")


@lru_cache(maxsize=64)
def _open(path: Path, offset: int) -> Any:
    import blosc2  # takes a fifth of a second to import

    return blosc2.open(str(path), mode="r", offset=offset, dparams=blosc2.DParams(nthreads=1))


def _compress(array: np.ndarray) -> bytes:
    import blosc2

    leading = [1] * (array.ndim - 3)
    chunks, blocks = ([*leading, *(min(edge, most) for edge in array.shape[-3:])] for most in (_CHUNK, _BLOCK))
    if array.ndim < 3:
        chunks, blocks = ([min(edge, most**3) for edge in array.shape] for most in (_CHUNK, _BLOCK))
    settings = blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.BITSHUFFLE], nthreads=1)
    return blosc2.asarray(array, chunks=tuple(chunks), blocks=tuple(blocks), cparams=settings).to_cframe()


def _split_steps(array: np.ndarray, step: int) -> np.ndarray:
    """Return an array of shape `(step, step, step, ..., h, w, d)`, of voxels that are `step` apart along each axis."""
    edges = [math.ceil(edge / step) for edge in array.shape[-3:]]
    pad = [(0, count * step - edge) for count, edge in zip(edges, array.shape[-3:], strict=True)]
    leading = array.ndim - 3
    padded = np.pad(array, [(0, 0)] * leading + pad)
    split = padded.reshape(*array.shape[:-3], *(number for count in edges for number in (count, step)))
    order = (*range(leading + 1, leading + 6, 2), *range(leading), *range(leading, leading + 6, 2))
    return np.ascontiguousarray(split.transpose(order))


def _join_steps(split: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the array of some shape that `_split_steps` has split."""
    leading = len(shape) - 3
    order = [*range(3, 3 + leading)]
    for axis in range(3):
        order += [3 + leading + axis, axis]
    joined = split.transpose(order)
    sizes = joined.shape[leading:]
    joined = joined.reshape(*shape[:-3], *(sizes[axis] * sizes[axis + 1] for axis in (0, 2, 4)))
    height, width, depth = shape[-3:]
    return joined[..., :height, :width, :depth]


def _spatial_slices(index: Any, shape: Sequence[int]) -> list[slice]:
    """Return the slices that an index `(..., slice, slice, slice)` takes, or whole axes for another index."""
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) != 4 or parts[0] is not Ellipsis or not all(isinstance(part, slice) for part in parts[1:]):
        return [slice(0, edge, 1) for edge in shape[-3:]]
    return [slice(*part.indices(edge)) for part, edge in zip(parts[1:], shape[-3:], strict=True)]
