"""Check of loaded volumes: refused when they would end in a wrong result without an error."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from common.cli import InputError, check_choice
from common.data import Header, check_grids, check_gzip, check_hounsfield, check_image, check_label

__all__ = ["CheckVolumed"]

logger = logging.getLogger(__name__)


class CheckVolumed(MapTransform):
    """Check the voxels of an image and of its label right after `LoadImaged(ensure_channel_first=True)`.

    A bundle that takes 2D images has `EnsureVolumed` in between; for the others they are refused here.

    The image must have its channels and finite values, the label one channel, allowed values and the image's grid;
    compressed files must be intact (each is read through once). What is only odd is logged as a warning: a constant
    image, an empty label, a CT that is not in Hounsfield units.

    Args:
        label_key: item of shape `(1, H, W, D)`, beside `image` of shape `(C, H, W, D)`; it becomes a map of whole
            numbers of a small integer type.
        organ_key: mask of the organ, which is checked as a label is, of any values; an item may lack it.
        labels: number of classes, background included, or the allowed values; None allows all.
        modality: of each channel of the image; one that begins with CT has its range of Hounsfield units checked.
        in_channels: number of channels of the image.
        nan: `refuse` voxels that are NaN or infinite, or `replace` them by the smallest finite value of the image.
    """

    def __init__(
        self,
        label_key: str | None = None,
        organ_key: str | None = None,
        labels: int | Sequence[int] | None = None,
        modality: Sequence[str] = ("",),
        in_channels: int = 1,
        nan: str = "refuse",
        allow_missing_keys: bool = False,
    ) -> None:
        check_choice("nan", nan, ("refuse", "replace"))
        super().__init__(["image"] if label_key is None else ["image", label_key], allow_missing_keys)
        self.label_key = label_key
        self.organ_key = organ_key
        self.labels = labels
        self.modality = modality
        self.in_channels = in_channels
        self.nan = nan
        self._intact: set[Path] = set()

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        out = dict(data)
        organ = [self.organ_key] if self.organ_key in out else []
        for key in [*self.key_iterator(out), *organ]:
            is_image = key == "image"
            path = self._check_file(out[key], str(key))
            self._check_channels(out[key], path, self.in_channels if is_image else 1)
            labels = self.labels if key == self.label_key else None
            out[key] = self._check_image(out[key], path) if is_image else self._check_label(out[key], path, labels)
        for key, name in ((self.label_key, "label"), (self.organ_key, "organ")):
            if key in out and "image" in out:
                path = str(getattr(out[key], "meta", {}).get("filename_or_obj", name))
                check_grids(_header(out["image"]), _header(out[key]), path, name)
        return out

    def _check_file(self, volume: torch.Tensor, name: str) -> str:
        """Return the name of a volume's file, found intact, or the key where there is no file."""
        filename = getattr(volume, "meta", {}).get("filename_or_obj", name)
        path = Path(str(filename))
        if path not in self._intact and path.is_file():
            check_gzip(path)
            self._intact.add(path)
        return str(filename)

    def _check_channels(self, volume: torch.Tensor, path: str, num_channels: int) -> None:
        if volume.ndim != 4:
            raise InputError(f"{path}: must hold one volume of 3 dimensions, got shape {tuple(volume.shape[1:])}")
        if volume.shape[0] != num_channels:
            raise InputError(f"{path}: number of channels must be {num_channels}, got {volume.shape[0]}")

    def _check_image(self, image: torch.Tensor, path: str) -> torch.Tensor:
        if getattr(image, "meta", {}).get("mode") == "P":  # fine for labels, whose values are the indices
            raise InputError(f"{path}: pixels must be gray or RGB, got indices into a palette; convert the file")
        if self.nan == "replace":
            image = _replace_nan(image, path)
        array = _to_array(image)
        warning = check_image(array, path)
        if warning:
            logger.warning(warning)
        for name, channel in zip(self.modality, array, strict=False):
            if name.upper().startswith("CT"):
                check_hounsfield(channel, path)
        return image

    def _check_label(self, label: torch.Tensor, path: str, labels: int | Sequence[int] | None) -> torch.Tensor:
        rounded = check_label(_to_array(label), path, labels)
        return convert_to_dst_type(rounded, label, dtype=rounded.dtype)[0]


def _replace_nan(image: torch.Tensor, path: str) -> torch.Tensor:
    """Return a copy whose NaN and infinite voxels have the smallest of the finite values, with a warning."""
    bad = ~torch.isfinite(_plain(image))
    num_bad = int(bad.sum())
    if num_bad in (0, bad.numel()):
        return image
    logger.warning("%s: %d voxels that are NaN or infinite are replaced by the minimum", path, num_bad)
    out = image.clone()
    out[bad] = _plain(image)[~bad].min()
    return out


def _plain(volume: Any) -> torch.Tensor:
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume


def _to_array(volume: torch.Tensor) -> np.ndarray:
    return _plain(volume).detach().cpu().numpy()


def _header(volume: torch.Tensor) -> Header:
    affine = np.asarray(getattr(volume, "affine", np.eye(4)), dtype=float)
    spacing = np.linalg.norm(affine[:-1, :-1], axis=0)
    return Header(tuple(volume.shape[1:]), affine, tuple(spacing.tolist()))
