"""Cropping to the field of view that the scans of a data set have in common."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform, Pad

from common.data.field_of_view import FieldOfView

__all__ = ["CropFieldOfViewd"]

logger = logging.getLogger(__name__)

_LEAST_SIMILARITY = 0.5  # share of the training scans' median correlation below which a scan shows something else


class CropFieldOfViewd(MapTransform, InvertibleTransform):
    """Crop to where a scan shows the common field of view, and pad with the outermost voxels where it ends before.

    Args:
        keys: items to crop, of shape `(C, H, W, D)` in RAS orientation, with cubic voxels.
        field_of_view: its box is sought in the image; without a box, nothing is cropped.
        image_key: the image, in its own intensities.
        allow_missing_keys: skip the keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        field_of_view: FieldOfView,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.field_of_view = field_of_view
        self.image_key = image_key
        self.padder = Pad()
        self.cropper = Crop()

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        out = dict(data)
        if self.field_of_view.size is None:
            return out
        image = out[self.image_key]
        spacing = image.pixdim.tolist()
        place = self.field_of_view.locate(image, spacing)
        name = image.meta.get("filename_or_obj", self.image_key)
        if place.similarity < _LEAST_SIMILARITY * self.field_of_view.similarity:
            logger.warning(
                "%s: looks unlike the scans of the training (correlation %.2f, there %.2f); the field of view may be "
                "in the wrong place",
                name,
                place.similarity,
                self.field_of_view.similarity,
            )
        start = [
            round(center / step - edge / (2 * step))
            for center, edge, step in zip(place.center, self.field_of_view.size, spacing, strict=True)
        ]
        end = [
            low + max(round(edge / step), 1)
            for low, edge, step in zip(start, self.field_of_view.size, spacing, strict=True)
        ]
        before = [max(-low, 0) for low in start]
        after = [max(high - total, 0) for high, total in zip(end, image.shape[1:], strict=True)]
        inside = tuple(slice(low + extra, high + extra) for low, high, extra in zip(start, end, before, strict=True))
        for key in self.key_iterator(out):
            padded = self.padder(
                out[key],
                to_pad=[(0, 0), *zip(before, after, strict=True)],
                mode="edge" if key == self.image_key else "constant",
            )
            out[key] = self.cropper(padded, slices=inside)
        return out

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Put the box back in its place: what was cropped away is 0."""
        out = dict(data)
        if self.field_of_view.size is not None:
            for key in self.key_iterator(out):
                out[key] = self.padder.inverse(self.cropper.inverse(out[key]))
        return out
