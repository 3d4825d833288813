"""Random patches at several resolutions from volumes that are read and averaged once, and the tasks on them.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Transform
from monai.utils import ensure_tuple_rep

from common.cli import InputError, check_choice, check_each
from common.cli.options import FRACTION, POSITIVE_INT
from common.data import (
    IGNORED,
    EpochBatchSampler,
    ScanCache,
    ScanDataset,
    check_classes,
    find_pseudo_labeled,
    known_classes,
    smallest_type,
    split_labeled,
    with_doubt,
)
from common.transforms import padded_crop

from .augmentation import PatchAugmentation
from .network import FNetGeometry

__all__ = [
    "PatchBatchSampler",
    "PatchDataset",
    "PatchLoader",
    "PatchReconstruction",
    "PatchRequest",
    "PatchSourced",
    "PatchSegmentation",
]


class PatchRequest(NamedTuple):
    """Request of a patch, all of whose chance is in its seed: any number of workers gives the same patches."""

    case: int
    seed: int
    is_foreground: bool


class PatchSourced(Transform):
    """Turn a preprocessed case into what patches are cut from: the pyramid of its image and its labeled voxels.

    Args:
        geometry: of the network that takes the patches.
    """

    def __init__(self, geometry: FNetGeometry) -> None:
        self.geometry = geometry

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        out: dict[str, Any] = {"case": str(getattr(image, "meta", {}).get("filename_or_obj", ""))}
        volume = torch.as_tensor(np.asarray(image), dtype=torch.float32)
        out["pyramid"] = self.geometry.pyramid(volume, anywhere=True)
        if "label" in data:
            out["label"] = smallest_type(torch.as_tensor(np.asarray(data["label"])))
            classes = known_classes(out["label"]).numpy()
            found = {int(c): torch.from_numpy(np.flatnonzero(classes == c)) for c in np.unique(classes) if c > 0}
            fits = classes.size <= torch.iinfo(torch.int32).max
            out["foreground"] = {c: voxels.int() if fits else voxels for c, voxels in found.items()}
        return out


class PatchDataset(ScanDataset):
    """Data set of patches of cached volumes, one for each `PatchRequest`.

    Of cases without a label, where others have one, nothing is known: their patches have labels that are ignored.

    An item has `image`, the input patch of level 0, of shape `(C, *size)`; `context`, the list of those of the coarser
    levels; `label`, of shape `(1, *patch_size)`, where the case has one, or `(2, *patch_size)` where any case has a
    pseudo-label, see `common.data.partial_labels`; and `case`, its file.

    Args:
        data: cases, each with `image` and perhaps `label`, which has a `confidence` where it is a pseudo-label.
        transform: preprocessing up to a normalized image, without randomness.
        geometry: of the network that takes the patches.
        patch_size: output patch in voxels.
        centers: where patches without a demand lie: `uniform` over the volume, or `gaussian` around its center with a
            standard deviation of a quarter of its size.
        augmentation: changes the sampling grid of a patch; see `PatchAugmentation`.
        labels: names of the classes; one that no label has is warned of, see `check_classes`.
        cache: of the volumes; None: they stay in memory.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable,
        geometry: FNetGeometry,
        patch_size: int | Sequence[int],
        centers: str = "uniform",
        augmentation: PatchAugmentation | None = None,
        labels: Mapping[int, str] | None = None,
        cache: ScanCache | None = None,
    ) -> None:
        check_choice("centers", centers, ("uniform", "gaussian"))
        if not data:
            raise InputError(
                "data must hold at least one case, got none; look at training, unlabeled and folds in dataset.json"
            )
        self.has_labels = any("label" in case for case in data)
        self.pseudo_labeled = find_pseudo_labeled(data)
        self.geometry = geometry
        self.patch_size = ensure_tuple_rep(patch_size, 3)
        geometry.input_sizes(self.patch_size)  # refuses a size that does not fit
        self.centers = centers
        self.augmentation = augmentation
        self.preprocessing = transform
        super().__init__(data, Compose([transform, PatchSourced(geometry)]).flatten(), cache or ScanCache())
        if labels is not None:
            places = [_places(self._transform(index)) for index in range(len(self))]
            check_classes(set().union(*places), labels, len(self))
            if augmentation is not None:
                augmentation.look_at(places, labels)

    @staticmethod
    def bytes_per_voxel(num_channels: int, has_label: bool, geometry: FNetGeometry) -> float:
        """Return the memory that a voxel of a preprocessed volume takes: a number of each level, and a label."""
        return 4 * geometry.num_levels * num_channels + 2 * has_label

    def __getitem__(self, request: PatchRequest) -> dict[str, Any]:
        rng = np.random.default_rng(request.seed)
        source = self._source(request)
        start = self._start(source, request.is_foreground, rng)
        pyramid, label = source["pyramid"], source.get("label")
        if self.augmentation is not None:
            patches, label = self.augmentation(pyramid, label, start, self.patch_size, self.geometry, rng)
        else:
            patches = [window.contiguous() for window in self.geometry.windows(pyramid, start, self.patch_size)]
            label = None if label is None else padded_crop(label, start, self.patch_size)
        if label is None and self.has_labels:
            label = torch.full((1, *self.patch_size), IGNORED)
        if label is not None:  # of one type and shape in all items
            label = (with_doubt(label) if self.pseudo_labeled else label).int()
        item = {"image": patches[0], "context": patches[1:], "case": source["case"]}
        return item if label is None else {**item, "label": label}

    def _source(self, request: PatchRequest) -> dict[str, Any]:
        """Return the requested case, or the next one that has foreground when foreground is asked for."""
        for shift in range(len(self)):
            source = self._transform((request.case + shift) % len(self))
            if not request.is_foreground or source.get("foreground") or (self.has_labels and "label" not in source):
                return source
        raise InputError(
            f"labels must hold foreground in at least one of the {len(self)} training cases, got "
            "none; look at their labels"
        )

    def _start(self, source: Mapping[str, Any], is_foreground: bool, rng: np.random.Generator) -> list[int]:
        """Draw the first voxel of the output patch."""
        size, patch = np.array(source["pyramid"].spatial_size), np.array(self.patch_size)
        if is_foreground and source.get("foreground"):  # a voxel of any class, each as likely, lies anywhere in it
            classes = sorted(source["foreground"])
            voxels = source["foreground"][classes[rng.integers(len(classes))]]
            voxel = np.array(np.unravel_index(int(voxels[rng.integers(len(voxels))]), size))
            return (voxel - rng.integers(patch)).tolist()
        if self.centers == "gaussian":
            center = np.clip(rng.normal(size / 2, size / 4), 0, size - 1)
        else:
            center = rng.uniform(0, size)
        return (center.astype(int) - patch // 2).tolist()


def _places(source: Mapping[str, Any]) -> dict[int, float]:
    """Return where the centers of the classes of a case lie along its first axis, in voxels."""
    row = math.prod(source["pyramid"].spatial_size[1:])
    return {value: float((voxels // row).float().mean()) for value, voxels in source.get("foreground", {}).items()}


class PatchBatchSampler(EpochBatchSampler[PatchRequest]):
    """Sampler of minibatches of patch requests, in which at least a given share demands foreground.

    Cases come in random order, each as often as any other. See `EpochBatchSampler` for seeds, epochs and processes.

    Args:
        dataset: whose cases are drawn.
        batch_size: patches in a minibatch.
        num_batches: minibatches in an epoch.
        foreground_fraction: smallest share of the patches of each minibatch (of all processes) that hold foreground.
        labeled_fraction: smallest share of them that are of labeled cases, where others have pseudo-labels; None: each
            case is as likely as any other.
        seed: of the draws.
        fixed: every epoch draws what the first one drew.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        batch_size: int,
        num_batches: int,
        foreground_fraction: float = 0.0,
        labeled_fraction: float | None = None,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        check_each(POSITIVE_INT, batch_size=batch_size, num_batches=num_batches)
        check_each(FRACTION, foreground_fraction=foreground_fraction)
        check_each(FRACTION.or_null, labeled_fraction=labeled_fraction)
        super().__init__(seed, fixed)
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.foreground_fraction = foreground_fraction
        self.labeled_fraction = labeled_fraction

    def __len__(self) -> int:
        return self.num_batches

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[list[PatchRequest]]:
        size = self.batch_size * world_size
        seeds = np.random.default_rng((self.seed, epoch)).integers(2**63, size=(self.num_batches, size))
        streams = split_labeled(len(self.dataset), self.dataset.pseudo_labeled, size, self.labeled_fraction)
        for batch in range(self.num_batches):
            requests: list[PatchRequest] = []
            for stream, (cases, share) in enumerate(streams):
                first = (epoch * self.num_batches + batch) * share
                drawn = [cases[index] for index in self._cases(len(cases), first, first + share, stream)]
                num_foreground = math.ceil(self.foreground_fraction * share - 1e-9)
                chances = seeds[batch, len(requests) :]
                requests += [
                    PatchRequest(case, int(chances[place]), place < num_foreground) for place, case in enumerate(drawn)
                ]
            yield requests[rank:size:world_size]


class PatchLoader(DataLoader):
    """Loader of minibatches of patches.

    Args:
        dataset: whose cases are drawn.
        batch_size: patches in a minibatch.
        num_workers: processes that cut patches.
        options: further ones of `PatchBatchSampler`.
    """

    batch_sampler: PatchBatchSampler

    def __init__(self, dataset: PatchDataset, batch_size: int, num_workers: int = 0, **options: Any) -> None:
        self.patches = dataset
        sampler = PatchBatchSampler(dataset, batch_size, **options)
        super().__init__(dataset, num_workers=num_workers, batch_sampler=sampler)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`, counted from 0."""
        self.batch_sampler.set_epoch(epoch)

    def held_out(self, data: Sequence[Mapping[str, str]], num_batches: int) -> PatchLoader:
        """Return a loader of the same patches of other cases every epoch, for the validation loss."""
        own, sampler = self.patches, self.batch_sampler
        return PatchLoader(
            PatchDataset(data, own.preprocessing, own.geometry, own.patch_size, own.centers, cache=own.cache),
            sampler.batch_size,
            num_batches=num_batches,
            foreground_fraction=sampler.foreground_fraction,
            seed=sampler.seed,
            fixed=True,
        )


class PatchSegmentation:
    """Segmentation task of F-Net: the label of a patch that is seen at several resolutions."""

    def make_batch(self, batch: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
        """Return the finest patches, their labels, and the list of the coarser patches."""
        return move(batch["image"]), move(batch["label"]), ([*map(move, batch["context"])],)


class PatchReconstruction:
    """Pretext task of autoencoders: the patches of all resolutions themselves."""

    def make_batch(self, batch: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
        """Return the finest patches, the list of all of them, and the coarser patches."""
        image, *context = patches = [move(batch["image"]), *map(move, batch["context"])]
        return image, patches, tuple(context)
