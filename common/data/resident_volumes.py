"""Random pairs of patches, drawn on the device where the volumes stay.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision). Every volume is drawn;
the authors' code takes all minibatches from as many volumes as a minibatch has pairs:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, MapTransform

from common.utils import check_flags, check_whole_numbers

from .sampling import EpochBatchSampler

if TYPE_CHECKING:  # the transforms import this package
    from common.transforms import RandPatchPair

__all__ = ["PairLoader", "ResidentVolumes", "Residentd"]


class Residentd(MapTransform):
    """Move a preprocessed volume to the device where it shall stay.

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
        return {self.keys[0]: volume, "case": case}


class ResidentVolumes(CacheDataset):
    """Volumes that are read and preprocessed once and stay on a device. Their sizes may differ.

    An item has `image`, of shape `(1, H, W, D)`, and `case`, its file.

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


class PairLoader(EpochBatchSampler[Any]):
    """Minibatches of random pairs of patches, drawn on the device of the volumes.

    A minibatch has `image` and `label`, what `pairs` returns for its volumes, and `case`, their files. All chance of
    the i-th one of a training is in the seed, in i, and in the process: a resumed training goes on as if it had not
    stopped. The volumes come in one random order after another, each as often as any other.

    Args:
        volumes: from which the patches are sampled.
        pairs: pretext task.
        batch_size: pairs in a minibatch.
        num_batches: minibatches in an epoch.
        max_epochs: epochs of the training, during which the pairs become more diverse.
        seed: of the draws.
        fixed: every epoch draws what the first one drew, and pairs are as diverse as at the end of the training, so
            that the losses of epochs can be compared.

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
        check_whole_numbers(batch_size=batch_size, num_batches=num_batches, max_epochs=max_epochs, seed=seed)
        check_flags(fixed=fixed)
        if min(batch_size, num_batches, max_epochs) < 1 or seed < 0:
            raise ValueError(
                "batch_size, num_batches and max_epochs must be at least 1 and seed at least 0, "
                f"got {batch_size}, {num_batches}, {max_epochs} and {seed}"
            )
        super().__init__(seed, fixed)
        self.volumes = volumes
        self.pairs = pairs
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.max_epochs = max_epochs

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for number in range(epoch * self.num_batches, (epoch + 1) * self.num_batches):
            first = (number * world_size + rank) * self.batch_size
            items = [self.volumes[case] for case in self._cases(first, first + self.batch_size)]
            chance = np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(number, rank)))
            self.pairs.set_random_state(state=np.random.RandomState(chance))
            image, label = self.pairs([item["image"] for item in items], self._progress(number))
            yield {"image": image, "label": label, "case": [item["case"] for item in items]}

    def _progress(self, number: int) -> float:
        """Return the share of the training that is done before a minibatch."""
        last = self.max_epochs * self.num_batches - 1
        return 1.0 if self.fixed or number >= last else number / last

    def _cases(self, first: int, last: int) -> list[int]:
        """Return the cases of the draws from `first` up to `last`: all of them in one random order after another."""
        count = len(self.volumes)
        turns = range(first // count, (last - 1) // count + 1)
        orders = [np.random.default_rng((self.seed, 1, turn)).permutation(count) for turn in turns]
        offset = turns[0] * count
        return np.concatenate(orders)[first - offset : last - offset].tolist()
