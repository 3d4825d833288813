"""Device cache: volumes that are read and preprocessed once and stay on a device.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision). Every volume is drawn;
the authors' code takes all minibatches from as many volumes as a minibatch has pairs:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from common.cli import InputError, check_flags

from .classes import check_classes, find_classes
from .partial_labels import find_pseudo_labeled, known_classes, smallest_type
from .scan_cache import ScanCache, ScanDataset

__all__ = ["DeviceCacheDataset", "VolumeSourced"]

_MASKS = ("organ", "label")


class VolumeSourced(MapTransform):
    """Turn a preprocessed case into what is kept of it: a volume of shape `(C, H, W, D)` and what belongs to it.

    Its `organ` and `label`, where it has them, are kept as whole numbers, the flat indices of their voxels as `voxels`,
    those of each known class by its value, the classes of the label as `classes`, and the edges of a voxel in mm as
    `spacing`. The intensities must be finite in the precision in which they are kept.
    """

    def __init__(self, keys: str, half: bool = False) -> None:
        super().__init__(keys)
        self.dtype = torch.float16 if half else torch.float32

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data[self.keys[0]]
        case = str(getattr(image, "meta", {}).get("filename_or_obj", ""))
        volume = torch.as_tensor(np.asarray(image), dtype=torch.float32)
        if volume.ndim != 4 or min(volume.shape[1:]) < 2:
            raise InputError(
                f"{case}: image must be (C, H, W, D) with 2 voxels or more along each axis, got {tuple(volume.shape)}"
            )
        volume = volume.to(self.dtype)
        if not volume.isfinite().all():
            raise InputError(
                f"{case}: image must be finite in {self.dtype}, got {(~volume.isfinite()).sum()} "
                "voxels; pass --half False, or look at the scan"
            )
        read = [key for key in _MASKS if not isinstance(data.get(key), str | Path | None)]  # others stay paths
        masks = {key: torch.as_tensor(np.asarray(data[key])) for key in read}
        for key, mask in masks.items():
            expected = (1, *volume.shape[1:])
            if mask[:1].shape != expected or len(mask) > (2 if key == "label" else 1):
                raise InputError(
                    f"{case}: {key} must be on the grid of the image {expected}, got {tuple(mask.shape)}; draw it on "
                    "the scan itself"
                )
        spacing = image.pixdim.float().tolist() if isinstance(image, MetaTensor) else [1.0, 1.0, 1.0]
        out: dict[str, Any] = {key: smallest_type(mask) for key, mask in masks.items()}
        if "label" in out:
            out["classes"] = find_classes(out["label"])
        voxels = {key: _find_voxels(out[key]) for key in masks}
        return {self.keys[0]: volume, **out, "voxels": voxels, "spacing": spacing, "case": case}


class DeviceCacheDataset(ScanDataset):
    """Data set of volumes that are preprocessed once and stay on a device while it has room; their sizes may differ.

    An item has `image`, of shape `(C, H, W, D)`; `organ` and `label` of shape `(1, H, W, D)`, where the case has them,
    the label with a second channel where it is a pseudo-label, see `common.data.partial_labels`; `voxels`, for each of
    them the flat indices of the voxels of each known class, by its value; `spacing`, the edges of a voxel in mm; and
    `case`, its file. Beyond the room of the cache, arrays come as `StoredArray`.

    Args:
        data: cases, each with `image`, and with `confidence` where the label is a pseudo-label.
        transform: preprocessing up to a normalized volume, without randomness.
        half: keep the volumes in half precision. It saves half of the memory, and costs a conversion of the whole
            volume for every draw: a little on a GPU, most of the time on a CPU.
        labels: names of the classes; one that no label has is warned of, see `check_classes`.
        cache: of the volumes; None: all stay on the device.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: Callable,
        device: torch.device | str = "cpu",
        half: bool = False,
        labels: Mapping[int, str] | None = None,
        cache: ScanCache | None = None,
    ) -> None:
        check_flags(half=half)
        if not data:
            raise InputError("data must hold at least one case, got none; look at dataset.json")
        self.has_labels = any("label" in case for case in data)
        self.pseudo_labeled = find_pseudo_labeled(data)
        sourced = Compose([transform, VolumeSourced("image", half)]).flatten()
        super().__init__(data, sourced, cache or ScanCache(), device)
        if labels is not None:
            found = (self[index].get("classes", ()) for index in range(len(self)))
            check_classes(set().union(*found), labels, len(self))

    @staticmethod
    def bytes_per_voxel(num_channels: int, has_label: bool, half: bool = False) -> float:
        """Return the memory that a voxel of a preprocessed volume takes."""
        return (2 if half else 4) * num_channels + has_label


def _find_voxels(mask: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the flat indices of the voxels of each known class of a mask or label, by its value."""
    classes = known_classes(mask).flatten()
    return {value: (classes == value).nonzero().flatten().int() for value in sorted(find_classes(mask))}
