"""Cases that several processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

__all__ = ["ShareSampler"]


class ShareSampler(Sampler[int]):
    """The items of a data set in their order, of which each process of a distributed run takes a part.

    The parts follow one another: put together in the order of the processes, they are the whole. Where there are fewer
    items than processes, each takes all of them, since the others would wait for one that has nothing to evaluate.

    Args:
        data_source: data set.
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[int]:
        return iter(self._share())

    def _share(self) -> list[int]:
        items = np.arange(len(self.data_source))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() <= len(items):
            items = np.array_split(items, dist.get_world_size())[dist.get_rank()]
        return items.tolist()
