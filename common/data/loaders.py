"""Loaders of volumes that stay on a device, and of several streams of minibatches side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from monai.data import DataLoader, Dataset, list_data_collate

from common.cli import InputError, check_each, check_flags, check_whole_numbers, concerns_run
from common.cli.options import FRACTION, INT

from .device_cache import DeviceCacheDataset
from .outcomes import LeftOutCase, leave_out, row_of
from .samplers import DistributedSampler, EpochBatchSampler, split_labeled

__all__ = ["CaseLoader", "CombinedLoader", "VolumeLoader"]


class VolumeLoader(EpochBatchSampler[Any]):
    """Loader of minibatches that are made of resident volumes on their device.

    All chance of the i-th one of a training is in the seed and in i: a resumed training goes on as if it had not
    stopped, and the processes of a distributed run draw the same and take a share each. The volumes come in one random
    order after another, each as often as any other.

    Args:
        volumes: from which the minibatches are made.
        batch_size: volumes in a minibatch.
        num_batches: minibatches in an epoch.
        seed: see `EpochBatchSampler`.
        fixed: likewise.
        labeled_fraction: smallest share of a minibatch (of all processes) that is of labeled volumes, where others have
            pseudo-labels; None: each volume is as likely as any other.
    """

    def __init__(
        self,
        volumes: DeviceCacheDataset,
        batch_size: int,
        num_batches: int,
        seed: int = 0,
        fixed: bool = False,
        labeled_fraction: float | None = None,
    ) -> None:
        check_whole_numbers(batch_size=batch_size, num_batches=num_batches, seed=seed)
        check_flags(fixed=fixed)
        check_each(FRACTION.or_null, labeled_fraction=labeled_fraction)
        if min(batch_size, num_batches) < 1 or seed < 0:
            raise InputError(
                "batch_size and num_batches must be at least 1 and seed at least 0, "
                f"got {batch_size}, {num_batches} and {seed}"
            )
        super().__init__(seed, fixed)
        self.volumes = volumes
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.labeled_fraction = labeled_fraction

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        streams = split_labeled(
            len(self.volumes), self.volumes.pseudo_labeled, self.batch_size * world_size, self.labeled_fraction
        )
        for number in range(epoch * self.num_batches, (epoch + 1) * self.num_batches):
            chance = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(number, 0)))
            cases: list[int] = []
            for stream, (own, share) in enumerate(streams):
                drawn = self._cases(len(own), number * share, (number + 1) * share, stream)
                cases += [own[index] for index in drawn]
            yield self._make(cases, slice(rank, None, world_size), np.random.RandomState(chance), number)

    def _make(self, cases: list[int], share: slice, R: np.random.RandomState, number: int) -> dict[str, Any]:
        """Make a share of a minibatch of some cases, the `number`-th one of the training, drawing all of its chance."""
        raise NotImplementedError


class CombinedLoader:
    """Loader of one minibatch of each of several loaders at a time, each with cases and a pace of its own.

    Args:
        loaders: by name; all with as many minibatches in an epoch; they, or their batch samplers, have `set_epoch`.
    """

    def __init__(self, **loaders: Any) -> None:
        lengths = {name: len(loader) for name, loader in loaders.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(f"loaders must have the same number of minibatches in an epoch, got {lengths}")
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
            sampler = getattr(loader, "batch_sampler", loader)
            sampler.set_epoch(epoch)


class CaseLoader(DataLoader):
    """Loader of one case at a time, in order, of which each process takes a part, see `DistributedSampler`.

    A case that cannot be loaded does not end the pass: in place of its minibatch comes a `LeftOutCase`, and so it does
    for a case whose entry in the data list has an `outcome` already, of which nothing is read.

    Args:
        dataset: whose `data` are the entries of the cases.
        num_workers: processes that load the next cases meanwhile.
    """

    def __init__(self, dataset: Dataset, num_workers: int = 0) -> None:
        check_each(INT, num_workers=num_workers)
        sampler = DistributedSampler(dataset)
        super().__init__(
            _GuardedCases(dataset), batch_size=1, num_workers=num_workers, sampler=sampler, collate_fn=_collate_case
        )


class _GuardedCases(Dataset):
    """Data set that gives a `LeftOutCase` for a case which is left out, or which cannot be loaded."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.data)
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        case = self.data[index]
        if "outcome" in case:
            return LeftOutCase(row_of(case, case["outcome"], case["reason"]))
        try:
            return self.dataset[index]
        except Exception as error:
            if concerns_run(error):
                raise
            return leave_out(case, error)


def _collate_case(cases: list[Any]) -> Any:
    (case,) = cases
    return case if isinstance(case, LeftOutCase) else list_data_collate(cases)
