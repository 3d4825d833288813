"""Several streams of minibatches side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from .resident_volumes import VolumeLoader

__all__ = ["ParallelLoader"]


class ParallelLoader:
    """One minibatch of each of several loaders at a time, each loader cycling through its cases at its own pace.

    Args:
        loaders: by name; all with as many minibatches in an epoch.

    Raises:
        ValueError: when there are no loaders or the numbers of their minibatches differ.
    """

    def __init__(self, **loaders: DataLoader | VolumeLoader) -> None:
        lengths = {name: len(loader) for name, loader in loaders.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"loaders must have the same number of minibatches in an epoch, got {lengths}")
        self.loaders = loaders

    def __len__(self) -> int:
        return len(next(iter(self.loaders.values())))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield mappings from the names of the loaders to their minibatches."""
        for batches in zip(*self.loaders.values(), strict=True):
            yield dict(zip(self.loaders, batches, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass through every loader that of `epoch`, counted from 0."""
        for loader in self.loaders.values():
            sampler: Any = getattr(loader, "batch_sampler", loader)
            sampler.set_epoch(epoch)
