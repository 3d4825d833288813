"""Cache of descriptors on disk, so that evaluations with other votes need not describe every scan again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from common.data import write_atomically

__all__ = ["DescriptorCache"]

logger = logging.getLogger(__name__)

_NUM_PROBES = 8  # places that are described to tell the descriptor from others


class DescriptorCache:
    """Cache of descriptors of voxels in files, one for each volume and descriptor.

    A file is found by the shape and the intensities of the volume and the descriptors of a few places in it: another
    network, geometry, preprocessing or set of channels has files of its own.

    Args:
        cache_dir: folder for the files.
        describe: returns descriptors of shape `(N, F)` for a volume of shape `(C, H, W, D)` and centers of shape
            `(N, 3)`.
    """

    def __init__(self, cache_dir: str | Path, describe: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.cache_dir = Path(cache_dir)
        self.describe = describe

    def __call__(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Return descriptors of voxels, whose coordinates run from -1 to 1 along each axis of the volume."""
        path = self.cache_dir / f"{self._key(volume, centers)}.pt"
        voxels = _flat_index(volume, centers)
        known, descriptors = self._load(path) or (voxels[:0], None)
        is_missing = ~torch.isin(voxels, known)
        if is_missing.any() or descriptors is None:
            added = self.describe(volume, centers[is_missing.to(centers.device)]).cpu()
            descriptors = added if descriptors is None else torch.cat((descriptors, added))
            known, order = torch.cat((known, voxels[is_missing])).sort()
            descriptors = descriptors[order]
            write_atomically(path, lambda temporary: torch.save((known, descriptors), temporary), shared=True)
        return descriptors[torch.searchsorted(known, voxels)].to(volume.device)

    def _load(self, path: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the voxels of a file and their descriptors, or nothing of a missing or damaged one."""
        if not path.is_file():
            return None
        try:
            known, descriptors = torch.load(path, weights_only=True)
        except Exception as error:  # a damaged file can raise anything
            logger.warning("%s: cannot be read and is made anew, got %.80r", path, error)
            return None
        return known, descriptors

    def _key(self, volume: torch.Tensor, centers: torch.Tensor) -> str:
        places = torch.linspace(-0.5, 0.5, _NUM_PROBES).to(centers).unsqueeze(1).expand(-1, 3)
        content = hashlib.blake2b(str(tuple(volume.shape)).encode(), digest_size=12)
        for part in (volume, self.describe(volume, places)):
            content.update(part.cpu().contiguous().numpy().data)
        return content.hexdigest()


def _flat_index(volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return the number of each voxel, given its coordinates."""
    height, width, depth = volume.shape[1:]
    edges = torch.tensor([height - 1, width - 1, depth - 1], dtype=torch.float64)
    first, second, third = ((centers.cpu().double() + 1) / 2 * edges).round().long().unbind(1)
    return (first * width + second) * depth + third
