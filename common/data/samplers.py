"""Samplers whose draws depend on a seed and the epoch alone, and which several processes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Generic, TypeVar

import numpy as np
from torch.utils.data import Sampler

from .files import process_rank

__all__ = ["DistributedSampler", "EpochBatchSampler", "split_labeled"]

Request = TypeVar("Request")
Item = TypeVar("Item")


class EpochBatchSampler(Sampler[list[Request]], Generic[Request]):
    """Sampler of minibatches of requests that depend on a seed and on the epoch alone.

    Every epoch draws anew, and a resumed run goes on as if it had not stopped. The processes of a distributed run share
    what is drawn: their minibatches together are one of a single process, whose minibatches are that much larger.

    Args:
        seed: of the draws.
        fixed: every epoch draws what the first one drew, so that the losses of epochs can be compared.
    """

    def __init__(self, seed: int = 0, fixed: bool = False) -> None:
        self.seed = seed
        self.fixed = fixed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass through the sampler that of `epoch`, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Request]]:
        epoch = self.epoch
        self.epoch += not self.fixed
        yield from self._draw(epoch, *self._place())

    _place = staticmethod(process_rank)  # number of this process, and of all processes

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[list[Request]]:
        """Yield the minibatches of one process in one epoch."""
        raise NotImplementedError

    def _repeat(
        self,
        order: Callable[[np.random.Generator], Sequence[Item]],
        count: int,
        first: int,
        last: int,
        stream: int = 0,
    ) -> Iterator[Item]:
        """Yield draws `first` to `last - 1` of a training: all `count` items in one random `order` after another.

        Streams with another number have orders of their own.
        """
        for turn in range(first // count, math.ceil(last / count)):
            items = order(np.random.default_rng((self.seed, 1 + stream, turn)))
            yield from items[max(first - turn * count, 0) : last - turn * count]

    def _cases(self, count: int, first: int, last: int, stream: int = 0) -> list[int]:
        """Return the cases of some draws, each of `count` as often as any other, see `_repeat`."""
        return list(self._repeat(lambda rng: rng.permutation(count).tolist(), count, first, last, stream))


def split_labeled(
    count: int, pseudo_labeled: Sequence[int], size: int, labeled_fraction: float | None
) -> list[tuple[list[int], int]]:
    """Return the streams that a minibatch is drawn from: their cases, and how many of the minibatch each one has.

    Args:
        count: number of cases.
        pseudo_labeled: those of them that have pseudo-labels.
        size: of a minibatch.
        labeled_fraction: smallest share of it that is of the other cases. None, or where all cases are of one kind:
            there is one stream.
    """
    labeled = sorted({*range(count)} - {*pseudo_labeled})
    if labeled_fraction is None or not labeled or not pseudo_labeled:
        return [([*range(count)], size)]
    share = math.ceil(labeled_fraction * size - 1e-9)
    streams = [(labeled, share), ([*pseudo_labeled], size - share)]
    return [(cases, number) for cases, number in streams if number]


class DistributedSampler(Sampler[int]):
    """Sampler of the items of a data set in their order, of which each process of a distributed run takes a part.

    The parts follow one another: put together in the order of the processes, they are the whole. Where there are fewer
    items than processes, each takes all of them, since the others would wait for one that has nothing to evaluate.
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[int]:
        return iter(self._share())

    @property
    def first(self) -> int:
        """The number of items before those of this process."""
        return min(self._share(), default=0)

    @property
    def total(self) -> int:
        """The number of items of all processes."""
        return len(self.data_source)

    def _share(self) -> list[int]:
        rank, num_processes = process_rank()
        items = np.arange(len(self.data_source))
        return (np.array_split(items, num_processes)[rank] if num_processes <= len(items) else items).tolist()
