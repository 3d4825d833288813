"""Slices of volumes, each volume being read once and not once for every slice, and the task of segmenting them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Transform

from common.cli import InputError, KindError, check_choice, check_each
from common.cli.options import FRACTION, NUMBER, POSITIVE_INT
from common.data import (
    IGNORED,
    MAX_DOUBT,
    EpochBatchSampler,
    ScanCache,
    ScanDataset,
    check_classes,
    find_classes,
    find_pseudo_labeled,
    known_classes,
    smallest_type,
    split_labeled,
    with_doubt,
)
from common.transforms import padded_crop

__all__ = [
    "SliceBatchSampler",
    "SliceDataset",
    "SliceLoader",
    "SliceRequest",
    "SliceSegmentation",
    "SliceSourced",
    "slice_axis",
]

logger = logging.getLogger(__name__)

_MIN_BODY = 0.01  # share of the pixels of a slice that belong to the body, below which it shows air


class SliceRequest(NamedTuple):
    """Request of a slice, all of whose chance is in its seed: any number of workers gives the same items.

    Attributes:
        case: index of the case in the data.
        slice: index of the slice along the axis.
        seed: below 2^32.
    """

    case: int
    slice: int
    seed: int


def slice_axis(spatial_size: Sequence[int], axis: int) -> int:
    """Return the axis along which a volume is cut: `axis`, or that of length 1 when there is just one.

    A 2D image is a volume with one slice, and the plane it shows, once it is oriented, may be any of the three.
    """
    short = [index for index, length in enumerate(spatial_size) if length == 1]
    return short[0] if len(short) == 1 else axis


class SliceSourced(Transform):
    """Turn a preprocessed case into what slices are taken from: its image and label, with the slices in front.

    Args:
        axis: of the volume, to which the slices are perpendicular.
        body_contrast: see `SliceDataset`.
    """

    def __init__(self, axis: int, body_contrast: float | None = None) -> None:
        self.axis = axis
        self.body_contrast = body_contrast

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        out: dict[str, Any] = {"case": str(getattr(image, "meta", {}).get("filename_or_obj", ""))}
        volume = torch.as_tensor(np.asarray(image), dtype=torch.float32)
        axis = slice_axis(volume.shape[1:], self.axis) + 1
        out["image"] = volume.movedim(axis, 0).contiguous()  # (slices, C, H, W): a slice is one piece of memory
        if min(out["image"].shape[2:]) < 2:
            size = tuple(volume.shape[1:])
            raise InputError(
                f"{out['case']}: slices along axis {self.axis} must be two-dimensional, got {size} "
                "voxels; choose another axis"
            )
        out["fill"] = volume.flatten(1).amin(1)
        if "label" in data:
            label = smallest_type(torch.as_tensor(np.asarray(data["label"])))
            out["label"] = label.movedim(axis, 0).contiguous()
            out["classes"] = find_classes(out["label"].transpose(0, 1))
        out["wanted"] = self._is_wanted(out).nonzero().flatten()
        return out

    def _is_wanted(self, source: Mapping[str, Any]) -> torch.Tensor:
        """Tell which slices may be requested."""
        image, label = source["image"], source.get("label")
        wanted = torch.ones(len(image), dtype=torch.bool)
        if self.body_contrast is not None:
            deviation = image.transpose(0, 1).flatten(1).std(dim=1, correction=0)
            edge = (source["fill"] + self.body_contrast * deviation).view(-1, 1, 1)
            wanted = torch.tensor([bool((part > edge).any(0).float().mean() >= _MIN_BODY) for part in image])
        if label is None:
            return wanted
        has_foreground = known_classes(label.transpose(0, 1))[0].flatten(1).any(1)
        is_labeled = (label[:, :1].int() != IGNORED) & (label[:, 1:] < MAX_DOUBT).all(1, keepdim=True)
        return (wanted | has_foreground) & is_labeled.flatten(1).any(1)


class SliceDataset(ScanDataset):
    """Data set of slices of volumes, one for each `SliceRequest`.

    An item has `image`, of shape `(C, H, W)`; `label`, of shape `(1, H, W)`, where the case has one, or `(2, H, W)`
    where any case has a pseudo-label, see `common.data.partial_labels`; `seed`, that of the request, for whatever is
    random afterwards; `case`, the file of the volume; and `slice`, the index of the slice in it. Slices of an RAS
    volume perpendicular to axis 2 are axial, to axis 1 coronal, to axis 0 sagittal. Of a case with a label, slices that
    are not labeled at all are never requested.

    Args:
        data: cases, each with `image` and perhaps `label`, which has a `confidence` where it is a pseudo-label.
        transform: preprocessing up to a normalized volume of shape `(C, H, W, D)`, without randomness.
        axis: of the volumes, to which the slices are perpendicular. A 2D image, whose third axis has length 1, is its
            own slice.
        slice_size: height and width of the items in pixels: slices are cropped, and padded with the smallest intensity
            of their volume (of each channel), labels with background. `None`: whole slices, which must be of one size.
        placement: of the crop, or of the slice within its padding: `random` or `center`.
        body_contrast: leave out slices of air, of which less than 1 % belongs to the body. A pixel does when it is
            brighter than the smallest intensity of the volume by more than this many standard deviations of the volume,
            in any channel; 0.5 suits CT windows and MR. `None`: no slice is left out. Slices with foreground in the
            label always stay.
        labels: names of the classes; one that no label has is warned of, see `check_classes`.
        cache: of the volumes; None: they stay in memory.

    Raises:
        ValueError: when there are no slices, slices of several sizes without a `slice_size`, or labels without any
            foreground.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable,
        axis: int = 2,
        slice_size: Sequence[int] | None = None,
        placement: str = "random",
        body_contrast: float | None = None,
        labels: Mapping[int, str] | None = None,
        cache: ScanCache | None = None,
    ) -> None:
        check_choice("axis", axis, (0, 1, 2))
        check_choice("placement", placement, ("random", "center"))
        if slice_size is not None and not (POSITIVE_INT.list.fits(slice_size) and len(slice_size) == 2):
            raise KindError(f"slice_size must be height and width in pixels, such as [256, 256], got {slice_size!r}")
        check_each(NUMBER.or_null, body_contrast=body_contrast)
        if not data:
            raise InputError(
                "data must hold at least one case, got none; look at training, unlabeled and folds in dataset.json"
            )
        self.has_labels = any("label" in case for case in data)
        self.pseudo_labeled = find_pseudo_labeled(data)
        self.axis = axis
        self.slice_size = None if slice_size is None else (int(slice_size[0]), int(slice_size[1]))
        self.placement = placement
        self.body_contrast = body_contrast
        self.preprocessing = transform
        sourced = Compose([transform, SliceSourced(axis, body_contrast)]).flatten()
        super().__init__(data, sourced, cache or ScanCache())
        self.slices = self._survey(labels or {})

    @staticmethod
    def bytes_per_voxel(num_channels: int, has_label: bool) -> float:
        """Return the memory that a voxel of a preprocessed volume takes."""
        return 4 * num_channels + 2 * has_label

    def __getitem__(self, request: SliceRequest) -> dict[str, Any]:
        source = self._transform(request.case)
        image = source["image"][request.slice]
        size = image.shape[1:] if self.slice_size is None else self.slice_size
        start = self._start(image.shape[1:], size, request.seed)
        cropped = padded_crop(image, start, size, source["fill"])
        item = {"image": cropped, "seed": request.seed, "case": source["case"], "slice": request.slice}
        if self.has_labels:
            known = source.get("label")
            label = torch.full((1, *size), IGNORED) if known is None else padded_crop(known[request.slice], start, size)
            item["label"] = (with_doubt(label) if self.pseudo_labeled else label).int()  # of one type and shape in all
        return item

    def _survey(self, labels: Mapping[int, str]) -> list[np.ndarray]:
        """Return the slices of every case that may be requested, and check them and their labels."""
        slices, sizes = [], {}
        found: set[int] | None = None
        for case in range(len(self)):
            source = self._transform(case)
            sizes[tuple(source["image"].shape[2:])] = source["case"]
            if "classes" in source:
                found = (found or set()) | source["classes"]
            slices.append(source["wanted"].numpy())
            if not len(slices[-1]):
                logger.warning("%s: no slice shows a body and is labeled, none is used", source["case"])
        if self.slice_size is None and len(sizes) > 1:
            few = ", ".join(f"{size} in {case}" for size, case in list(sizes.items())[:3])
            raise InputError(f"slices must be of one size unless slice_size is given, got {few}; set slice_size")
        if found is not None:
            check_classes(found, labels, len(self))
        if not any(map(len, slices)):
            raise InputError(
                f"data must hold slices that show a body, got none in {len(self)} cases; lower "
                "body_contrast, or set it to null"
            )
        return slices

    def _start(self, size: Sequence[int], slice_size: Sequence[int], seed: int) -> list[int]:
        """Return the first pixel of a crop, negative where the slice is padded."""
        room = [available - length for available, length in zip(size, slice_size, strict=True)]
        if self.placement == "center":
            return [free // 2 for free in room]
        rng = np.random.default_rng(seed)
        return [int(rng.integers(min(free, 0), max(free, 0), endpoint=True)) for free in room]


class SliceBatchSampler(EpochBatchSampler[SliceRequest]):
    """Sampler of minibatches of slice requests, each slice as often as any other. See `EpochBatchSampler`.

    Slices of labeled and of pseudo-labeled cases, where both have a share of each minibatch, have an order each.

    Args:
        dataset: whose slices are drawn.
        batch_size: slices in a minibatch; the last one of a whole pass may be smaller.
        num_batches: minibatches in an epoch. `None`: a whole pass, every slice once. In a distributed run a few slices
            come twice, when their number is no multiple of that of the processes. With shares, as many as a whole pass.
        labeled_fraction: smallest share of a minibatch (of all processes) that is of labeled cases, where others have
            pseudo-labels; None: each slice is as likely as any other.
        seed: of the draws.
        fixed: every epoch draws what the first one drew.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        batch_size: int,
        num_batches: int | None = None,
        labeled_fraction: float | None = None,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        check_each(POSITIVE_INT, batch_size=batch_size)
        check_each(POSITIVE_INT.or_null, num_batches=num_batches)
        check_each(FRACTION.or_null, labeled_fraction=labeled_fraction)
        super().__init__(seed, fixed)
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.labeled_fraction = labeled_fraction
        self.num_slices = self._count(range(len(dataset)))

    def __len__(self) -> int:
        return math.ceil(self._num_requests(self._place()[1]) / self.batch_size)

    def _num_requests(self, world_size: int) -> int:
        """Return the number of slices that one process gets in an epoch."""
        if self.num_batches is None:
            return math.ceil(self.num_slices / world_size)
        return self.num_batches * self.batch_size

    def _draw(self, epoch: int, rank: int, world_size: int) -> Iterator[list[SliceRequest]]:
        count = self._num_requests(world_size)
        size = self.batch_size * world_size  # of what the streams have shares of
        streams = self._streams(size)
        if len(streams) > 1:
            count = math.ceil(count / self.batch_size) * self.batch_size
        drawn = []
        for stream, (cases, share) in enumerate(streams):
            total = count * world_size * share // size
            is_pass = self.num_batches is None and self._count(cases) == self.num_slices
            first = epoch * (self._count(cases) if is_pass else total)
            order = partial(self._order, cases=cases)
            places = list(self._repeat(order, self._count(cases), first, first + total, stream))
            drawn.append([places[low : low + share] for low in range(0, len(places), share)])
        mixed = [place for shares in zip(*drawn, strict=True) for places in shares for place in places]
        seeds = np.random.default_rng((self.seed, epoch)).integers(2**32, size=count * world_size)
        requests = [SliceRequest(case, index, seed) for (case, index), seed in zip(mixed, seeds.tolist(), strict=True)]
        requests = requests[rank::world_size]
        for low in range(0, count, self.batch_size):
            yield requests[low : low + self.batch_size]

    def _streams(self, size: int) -> list[tuple[list[int], int]]:
        """Return the cases that a minibatch is drawn from, and how many slices of it, see `split_labeled`."""
        dataset = self.dataset
        streams = split_labeled(len(dataset), dataset.pseudo_labeled, size, self.labeled_fraction)
        return streams if all(self._count(cases) for cases, _ in streams) else [([*range(len(dataset))], size)]

    def _count(self, cases: Iterable[int]) -> int:
        """Return the number of slices of some cases."""
        return sum(len(self.dataset.slices[case]) for case in cases)

    def _order(self, rng: np.random.Generator, cases: Sequence[int]) -> list[tuple[int, int]]:
        """Return every slice of some cases once."""
        shuffled = [cases[place] for place in rng.permutation(len(cases))]
        slices = [(case, int(index)) for case in shuffled for index in self.dataset.slices[case]]
        return [slices[place] for place in rng.permutation(len(slices))]


class SliceLoader(DataLoader):
    """Loader of minibatches of slices.

    Args:
        dataset: whose slices are drawn.
        batch_size: slices in a minibatch.
        num_workers: processes that read.
        options: further ones of `SliceBatchSampler`.
    """

    batch_sampler: SliceBatchSampler

    def __init__(self, dataset: SliceDataset, batch_size: int, num_workers: int = 0, **options: Any) -> None:
        self.slices = dataset
        sampler = SliceBatchSampler(dataset, batch_size, **options)
        super().__init__(dataset, num_workers=num_workers, batch_sampler=sampler)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`, counted from 0."""
        self.batch_sampler.set_epoch(epoch)

    def held_out(self, data: Sequence[Mapping[str, str]], num_batches: int | None) -> SliceLoader:
        """Return a loader of the same slices of other cases every epoch, cropped in the middle, for a validation loss.

        Args:
            data: cases.
            num_batches: minibatches in an epoch; `None`: every slice once.
        """
        own, sampler = self.slices, self.batch_sampler
        dataset = SliceDataset(
            data, own.preprocessing, own.axis, own.slice_size, "center", own.body_contrast, cache=own.cache
        )
        return SliceLoader(dataset, sampler.batch_size, num_batches=num_batches, seed=sampler.seed, fixed=True)


class SliceSegmentation:
    """Segmentation task of slices: their labels."""

    def make_batch(
        self, batch: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images of shape `(B, C, H, W)` and labels of shape `(B, 1 or 2, H, W)`."""
        return move(batch["image"]), move(batch["label"])
