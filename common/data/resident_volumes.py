"""Volumes that stay on a device, and random pairs of patches drawn from them there.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision). Every volume is drawn;
the authors' code takes all minibatches from as many volumes as a minibatch has pairs:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, MapTransform

from common.utils import check_flags, check_whole_numbers

from .sampling import EpochBatchSampler

if TYPE_CHECKING:  # the transforms import this package
    from common.transforms import RandPatchPair

__all__ = ["PairLoader", "ResidentVolumes", "Residentd", "VolumeLoader"]

_MASKS = ("organ", "label")


class Residentd(MapTransform):
    """Move a preprocessed volume to the device where it shall stay.

    Its `organ` and `label`, where it has them, are kept as whole numbers, and the edges of its voxels in mm as
    `spacing`.

    Args:
        keys: the image, of shape `(1, H, W, D)`.
        device: where it shall stay.
        half: keep it in half precision.

    Raises:
        ValueError: when the volume has several channels, fewer than 2 voxels along an axis, or a value that is not
            finite in the precision in which it is kept.
    """

    def __init__(self, keys: str, device: torch.device | str = "cpu", half: bool = False) -> None:
        super().__init__(keys)
        self.device = device
        self.dtype = torch.float16 if half else torch.float32

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data[self.keys[0]]
        case = str(getattr(image, "meta", {}).get("filename_or_obj", ""))
        volume = torch.as_tensor(np.asarray(image), dtype=torch.float32)
        if volume.ndim != 4 or volume.shape[0] != 1 or min(volume.shape[1:]) < 2:
            raise ValueError(
                f"{case}: image must have one channel and 2 voxels or more along each of 3 axes, got "
                f"{tuple(volume.shape)}"
            )
        volume = volume.to(self.device, self.dtype)
        if not volume.isfinite().all():
            raise ValueError(f"{case}: image must be finite in {self.dtype}, got {(~volume.isfinite()).sum()} voxels")
        masks = {key: torch.as_tensor(np.asarray(data[key])) for key in _MASKS if _is_read(data.get(key))}
        for key, mask in masks.items():
            if mask.shape != volume.shape:
                raise ValueError(
                    f"{case}: {key} must be on the grid of the image {tuple(volume.shape)}, got {mask.shape}"
                )
        spacing = image.pixdim.float().tolist() if isinstance(image, MetaTensor) else [1.0, 1.0, 1.0]
        out = {key: mask.to(self.device, torch.uint8) for key, mask in masks.items()}
        return {self.keys[0]: volume, **out, "spacing": spacing, "case": case}


def _is_read(mask: Any) -> bool:
    """Tell whether a mask is there and more than a path, as which it stays where only images are read."""
    return mask is not None and not isinstance(mask, str | Path)


class ResidentVolumes(CacheDataset):
    """Volumes that are read and preprocessed once and stay on a device. Their sizes may differ.

    An item has `image`, of shape `(1, H, W, D)`; `organ` and `label` of the same shape, where the case has them;
    `spacing`, the edges of a voxel in mm; and `case`, its file.

    Args:
        data: cases, each with `image`.
        transform: preprocessing up to a normalized volume, without randomness.
        device: where the volumes stay.
        half: keep them in half precision. It saves half of the memory, and costs a conversion of the whole volume for
            every draw: a little on a GPU, most of the time on a CPU.
        num_workers: threads that read.
        progress: show a bar meanwhile.

    Raises:
        TypeError: when `half` is text.
        ValueError: when there are no cases, or `Residentd` refuses one.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable,
        device: torch.device | str = "cpu",
        half: bool = False,
        num_workers: int = 1,
        progress: bool = False,
    ) -> None:
        check_flags(half=half)
        if not data:
            raise ValueError("data must hold at least one case, got none")
        resident = Compose([transform, Residentd("image", device, half)]).flatten()
        super().__init__(data, resident, num_workers=num_workers, progress=progress)


class VolumeLoader(EpochBatchSampler[Any]):
    """Minibatches made of resident volumes on their device.

    All chance of the i-th one of a training is in the seed and in i: a resumed training goes on as if it had not
    stopped, and the processes of a distributed run draw the same and take a share each. The volumes come in one random
    order after another, each as often as any other.

    Args:
        volumes: from which the minibatches are made.
        batch_size: volumes in a minibatch.
        num_batches: minibatches in an epoch.
        seed: of the draws.
        fixed: every epoch draws what the first one drew, so that the losses of epochs can be compared.

    Raises:
        TypeError: when a number is no whole number, or `fixed` is text.
        ValueError: when a number is out of range.
    """

    def __init__(
        self, volumes: ResidentVolumes, batch_size: int, num_batches: int, seed: int = 0, fixed: bool = False
    ) -> None:
        check_whole_numbers(batch_size=batch_size, num_batches=num_batches, seed=seed)
        check_flags(fixed=fixed)
        if min(batch_size, num_batches) < 1 or seed < 0:
            raise ValueError(
                "batch_size and num_batches must be at least 1 and seed at least 0, "
                f"got {batch_size}, {num_batches} and {seed}"
            )
        super().__init__(seed, fixed)
        self.volumes = volumes
        self.batch_size = batch_size
        self.num_batches = num_batches

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        size = self.batch_size * world_size
        for number in range(epoch * self.num_batches, (epoch + 1) * self.num_batches):
            chance = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(number, 0)))
            cases = self._cases(number * size, (number + 1) * size)
            yield self._make(cases, slice(rank, None, world_size), np.random.RandomState(chance), number)

    def _make(self, cases: list[int], share: slice, R: np.random.RandomState, number: int) -> dict[str, Any]:
        """Make a share of a minibatch of some cases, the `number`-th one of the training, drawing all of its chance."""
        raise NotImplementedError

    def _cases(self, first: int, last: int) -> list[int]:
        """Return the cases of the draws from `first` up to `last`: all of them in one random order after another."""
        count = len(self.volumes)
        turns = range(first // count, (last - 1) // count + 1)
        orders = [np.random.default_rng((self.seed, 1, turn)).permutation(count) for turn in turns]
        offset = turns[0] * count
        return np.concatenate(orders)[first - offset : last - offset].tolist()


class PairLoader(VolumeLoader):
    """Minibatches of random pairs of patches.

    A minibatch has `image` and `label`, what `pairs` returns for its volumes, and `case`, their files. See
    `VolumeLoader` for seeds, epochs and processes.

    Args:
        volumes: from which the patches are sampled.
        pairs: pretext task.
        batch_size: pairs in a minibatch.
        num_batches: minibatches in an epoch.
        max_epochs: epochs of the training, during which the pairs become more diverse.
        seed: of the draws.
        fixed: every epoch draws what the first one drew, and pairs are as diverse as at the end of the training.

    Raises:
        TypeError: when a number is no whole number, or `fixed` is text.
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        volumes: ResidentVolumes,
        pairs: RandPatchPair,
        batch_size: int,
        num_batches: int,
        max_epochs: int = 1,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        check_whole_numbers(max_epochs=max_epochs)
        if max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, got {max_epochs}")
        super().__init__(volumes, batch_size, num_batches, seed, fixed)
        self.pairs = pairs
        self.max_epochs = max_epochs

    def _make(self, cases: list[int], share: slice, R: np.random.RandomState, number: int) -> dict[str, Any]:
        items = [self.volumes[case] for case in cases[share]]
        self.pairs.set_random_state(state=R)
        self.pairs.randomize(len(cases), self._progress(number))
        self.pairs.keep(share)
        image, label = self.pairs([item["image"] for item in items], randomize=False)
        return {"image": image, "label": label, "case": [item["case"] for item in items]}

    def _progress(self, number: int) -> float:
        """Return the share of the training that is done before a minibatch."""
        last = self.max_epochs * self.num_batches - 1
        return 1.0 if self.fixed or number >= last else number / last
