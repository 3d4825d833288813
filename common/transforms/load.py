"""Loading of volumes by the one reader, and checks of what they hold before a network sees it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged, MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple

from common.cli import InputError, check_choice
from common.data import (
    Header,
    LoadVolume,
    Record,
    case_id,
    check_grids,
    check_image,
    check_label,
    check_modality,
    check_voxel_size,
    fingerprint,
    leave_open,
    note_label,
    to_doubt,
)

__all__ = ["LoadVolumesd"]

logger = logging.getLogger(__name__)


class LoadVolumesd(LoadImaged):
    """Load an image, its label and its organ as volumes, and refuse what would end in a wrong result without an error.

    The image must have its channels and finite values; a label one channel, allowed values and the image's grid. What
    is only odd is logged as a warning and kept in the image's metadata: a constant image, an empty label, intensities
    or voxels unlike those of the record. It is a `LoadImaged` since MONAI Label looks for one.

    What a label leaves open is told by the data list: `ignore`, the value of voxels that are not labeled; `classes`,
    those that the case is labeled with; and `confidence`, a file with how far the label of each voxel can be trusted,
    from 0 to 1. The label in memory then has negative values or a second channel, see `common.data.partial_labels`.

    Args:
        keys: `image`, and perhaps `label` and `organ`: paths, see `check_header`, or lists of them, one for each
            channel. Each becomes a tensor of shape `(C, H, W, D)`; labels and organs become maps of whole numbers of a
            small integer type.
        record: what is known of the images: the modality of each channel, the classes (where a label must be one of
            them) and the voxels of the training. None: nothing is, and the image may have any channels.
        channels: of the image, if not one for each modality.
        nan: `refuse` voxels that are NaN or infinite, or `replace` them by the smallest finite value of their channel.
        allow_2d: take 2D images for volumes with one slice, see `check_header`.
        series: UID of the DICOM series that is read, where a folder holds several.
    """

    def __init__(
        self,
        keys: KeysCollection,
        record: Record | None = None,
        channels: int | None = None,
        nan: str = "refuse",
        allow_2d: bool = False,
        series: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        check_choice("nan", nan, ("refuse", "replace"))
        MapTransform.__init__(self, keys, allow_missing_keys)  # without MONAI's readers, see `LoadVolume`
        self._loader = LoadVolume(allow_2d, series)
        self.meta_keys = (None,) * len(self.keys)
        self.meta_key_postfix = ("meta_dict",) * len(self.keys)
        self.overwriting = False
        self.record = record
        self.channels = len(record.modality) if channels is None and record is not None else channels
        self.nan = nan

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        paths = {key: data[key] for key in self.key_iterator(dict(data))}
        out = dict(super().__call__(data, reader))
        for key, path in paths.items():
            files = [str(file) for file in ensure_tuple(path)]
            if key == "image":
                out[key] = self._check_image(out[key], files)
                out[key].meta["case_id"] = data.get("case_id") or case_id(path)
                continue
            if out[key].shape[0] != 1:
                raise InputError(f"{files[0]}: {key} must have 1 channel, got {out[key].shape[0]}; split the file")
            if isinstance(out.get("image"), MetaTensor):
                check_grids(_header(out["image"]), _header(out[key]), files[0], str(key))
            values = self._read_label(out[key], data, files[0]) if key == "label" else _read_mask(out[key], files[0])
            out[key] = convert_to_dst_type(values, out[key], dtype=values.dtype)[0]
        return out

    def _read_label(self, label: MetaTensor, data: Mapping[Hashable, Any], path: str) -> np.ndarray:
        """Return a label as it is in memory, see `common.data.partial_labels`."""
        ignore = data.get("ignore")
        num_classes = len(self.record.labels) if self.record and self.record.labels else None
        allowed = None if num_classes is None else [*range(num_classes), *([] if ignore is None else [ignore])]
        values = check_label(_to_array(label), path, allowed)
        note_label(path, values, label.affine.numpy())
        if num_classes is not None:
            values = leave_open(values, path, num_classes, ignore, data.get("classes"))
        if "confidence" not in data:
            return values
        confidence = self._loader(data["confidence"])
        check_grids(_header(label), _header(confidence), data["confidence"], "confidence")
        return np.concatenate((values.astype(np.int32), to_doubt(_to_array(confidence), data["confidence"])))

    def _check_image(self, image: MetaTensor, files: Sequence[str]) -> MetaTensor:
        path = files[0]
        if self.channels is not None and len(image) != self.channels:
            names = f" ({', '.join(self.record.modality)})" if self.record and any(self.record.modality) else ""
            raise InputError(
                f"{path}: number of channels must be {self.channels}{names}, got {len(image)}; give the channels "
                "that the network was trained with"
            )
        if image.meta["has_palette"]:  # fine for labels, whose values are the indices
            raise InputError(f"{path}: pixels must be gray or RGB, got indices into a palette; convert the file")
        paths = files if len(files) == len(image) else len(image) * [path]  # of each channel
        if self.nan == "replace":
            image = _replace_nan(image, paths)
        array = _to_array(image)
        warnings = [check_image(channel, file) for channel, file in zip(array, paths, strict=True)]
        found = [warning for warning in [*warnings, *self._compare(image, paths)] if warning]
        for warning in found:
            logger.warning(warning)
        said = [image.meta["warnings"], *(warning.removeprefix(f"{path}: ") for warning in found)]
        image.meta["warnings"] = "\n".join(text for text in said if text)
        image.meta["fingerprint"] = fingerprint(files)
        return image

    def _compare(self, image: MetaTensor, paths: Sequence[str]) -> list[str | None]:
        """Return warnings of an image that is unlike those of the record.

        Args:
            image: of shape `(C, H, W, D)`.
            paths: of each channel.
        """
        if self.record is None:
            return []
        channels = zip(_to_array(image), paths, self.record.modality, strict=False)
        stated = str(image.meta.get("stated_modality", ""))  # of the first file
        found = [check_modality(*one, "" if number else stated) for number, one in enumerate(channels)]
        return [*found, check_voxel_size(self.record, image.affine.numpy(), paths[0])]


def _replace_nan(image: MetaTensor, paths: Sequence[str]) -> MetaTensor:
    """Return a copy whose NaN and infinite voxels have the smallest finite value of their channel, with a warning."""
    if torch.isfinite(image.as_tensor()).all():
        return image
    out = image.clone()
    for channel, path in zip(out.as_tensor(), paths, strict=True):
        bad = ~torch.isfinite(channel)
        num_bad = int(bad.sum())
        if num_bad not in (0, bad.numel()):
            logger.warning("%s: %d voxels that are NaN or infinite are replaced by the minimum", path, num_bad)
            channel[bad] = channel[~bad].min()
    return out


def _read_mask(mask: MetaTensor, path: str) -> np.ndarray:
    return check_label(_to_array(mask), path)


def _to_array(volume: MetaTensor) -> np.ndarray:
    return volume.as_tensor().numpy()


def _header(volume: MetaTensor) -> Header:
    affine = np.asarray(volume.affine, dtype=float)
    return Header(tuple(volume.shape[1:]), affine, tuple(volume.pixdim.tolist()), len(volume))
