"""Two-dimensional images as volumes with one slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform, Transform

from common.cli import InputError

__all__ = ["EnsureVolume", "EnsureVolumed"]


class EnsureVolume(Transform):
    """Give a 2D image a third axis of length 1; volumes stay as they are.

    A picture (PNG) has neither an orientation nor a pixel size. It is taken for an axial slice as it is shown on a
    screen, the patient's right on the left and the front up, with pixels of 1 mm.
    """

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return an image of shape `(C, H, W, D)`, right after `LoadImage(ensure_channel_first=True)`."""
        if img.ndim not in (3, 4):
            raise InputError(f"img must have shape (C, H, W) or (C, H, W, D), got {tuple(img.shape)}")
        if img.ndim == 4:
            return img
        out = img[..., None]
        if isinstance(out, MetaTensor):
            is_picture = out.meta.get("format") == "PNG"
            out.affine = torch.diag(torch.tensor([-1.0, -1, 1, 1])) if is_picture else to_affine_nd(3, out.affine)
        return out


class EnsureVolumed(MapTransform):
    """Dictionary version of `EnsureVolume`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = EnsureVolume()

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return {**data, **{key: self.transform(data[key]) for key in self.key_iterator(data)}}
