"""Mask of the organ in which tumors lie, given or found; with it, intensities are normalized and findings bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, get_largest_connected_component_mask
from scipy import ndimage

from common.cli import InputError
from common.transforms import InvertProbabilitiesd

from .morphology import close_slices, deepest, erode, erode_slices

__all__ = ["FindOrgand", "KeepOrgand", "NormalizeByOrgand", "ORGAN_FINDERS", "find_body", "find_brain"]

_AIR_HU = -500.0
# of the head
_HEAD_CLOSING_MM = 3.0
_SCALP_MM = 6.0  # skin and skull, at least
_SKULL_MM = 14.0  # depth to which the skull reaches, at most
_SKULL_SHARE = 0.07  # dark share between these two: from 0.13 with a skull, to 0.07 without (46 patients, FLAIR)
# of the brain
_OPENING_MM = 6.0  # narrower bridges do not belong to it
_CLOSING_MM = 4.0
_CORE_MM = 8.0  # what is thinner than twice as much is muscle of the face, orbits or neck
_RIM_MM = 3.0  # beyond the opened core that belongs to it


def find_body(image: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Return the mask of the body in a CT: the largest component above air, filled slice by slice.

    Args:
        image: HU, of shape `(H, W, D)`.
        spacing: not used.
    """
    return _fill(_largest(image > _AIR_HU))


def find_brain(image: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Return a rough mask of the brain, tumors included, in an MR scan of the head with axial slices.

    The head is what is brighter than the air around it. The median deep inside of it is taken for that of the brain,
    and the brain is what has at least about half of that intensity, a distance from the skin, and a connection to the
    middle that is nowhere thin, as those of face and neck are. (A threshold such as Otsu's splits the brain of some
    scans.) Where hardly anything below the skin is dark, as a skull is, the scan is that of a brain alone, up to its
    rim.

    Args:
        image: intensities from 0, of shape `(H, W, D)`, slices along the last axis.
        spacing: edges of a voxel in mm.
    """
    edge = float(np.mean(spacing[:2]))
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (1 / edge, 1 / edge, 0))
    head = _largest(smooth > 0.15 * np.percentile(smooth, 98))
    head = _fill(_close(head, _HEAD_CLOSING_MM / edge))
    depth = _Depth(head, edge)
    if not depth.max > 0:
        return head
    deep = depth.above(0.5 * depth.max)
    median = float(np.median(image[deep]))
    bright = smooth > 0.55 * median
    below_scalp = depth.above(_SCALP_MM)
    rim = below_scalp & ~depth.above(_SKULL_MM)
    has_skull = (rim & ~bright).sum() >= _SKULL_SHARE * rim.sum()
    candidates = bright & (smooth < 2.5 * median) & (below_scalp if has_skull else head)
    opened = ~_close(~candidates, _OPENING_MM / edge)
    parts, _ = ndimage.label(opened)
    sizes = np.bincount(parts[deep], minlength=2)
    sizes[0] = 0
    brain = parts == sizes.argmax() if sizes.any() else deep
    brain = _fill(_close(brain, _CLOSING_MM / edge))
    if brain.all():  # nothing is outside
        return brain
    core = erode(brain, _CORE_MM, spacing)
    if not core.any():
        return brain
    return brain & ~erode(~_largest(core), _CORE_MM + _RIM_MM, spacing)


ORGAN_FINDERS: dict[str, Callable[..., np.ndarray]] = {"body": find_body, "brain": find_brain}


class FindOrgand(MapTransform):
    """Mask of the organ for every scan: the one that it came with, or else one found by a method.

    It is `organ` of an item, of shape `(1, H, W, D)`; where an item has it already, all values above 0 belong to it.

    Args:
        keys: the image, of shape `(C, H, W, D)` in RAS orientation, in whose first channel the organ is found.
        method: `body` (CT), `brain` (MR of the head) or `given`, which refuses scans without a mask.

    Raises:
        ValueError: when the method is unknown, a mask is empty, or there is none although it must be given.
    """

    def __init__(self, keys: KeysCollection, method: str = "given") -> None:
        super().__init__(keys)
        if method != "given" and method not in ORGAN_FINDERS:
            raise InputError(f"method must be one of {[*ORGAN_FINDERS, 'given']}, got {method!r}")
        self.method = method

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data[self.keys[0]]
        name = _name(image)
        if "organ" in data:
            mask = torch.as_tensor(np.asarray(data["organ"]) > 0)
        elif self.method == "given":
            raise InputError(
                f"{name}: must have a mask of the organ, got none; list it as organ "
                "in dataset.json, or name the folder of the masks as organ_dir"
            )
        else:
            mask = torch.from_numpy(ORGAN_FINDERS[self.method](np.asarray(image[0]), image.pixdim.tolist()))[None]
        if not mask.any():
            raise InputError(
                f"{name}: organ must have voxels, got an empty mask; mend its mask, or choose another organ"
            )
        return {**data, "organ": MetaTensor(mask.to(torch.uint8), meta=image.meta)}


class NormalizeByOrgand(MapTransform):
    """Normalization of intensities: 0 is nothing, and 1 the median of the organ, whose mask is `organ`.

    Each channel is normalized by its own median.

    Args:
        keys: images of shape `(C, H, W, D)`.
        clip: lower and upper intensity, of all channels, or a list of such pairs, one for each; the lower one becomes
            0. `None`: intensities are not clipped and 0 stays 0 (MR). The median is that of what lies above the lower
            one, since fat may be most of a body.

    Raises:
        ValueError: when the clip values do not increase or are not those of the channels, the median of the organ is
            not above 0, or all of the organ lies below the clip values.
    """

    def __init__(self, keys: KeysCollection, clip: Sequence[Any] | None = None) -> None:
        super().__init__(keys)
        self.pairs: list[Any] = [clip]
        if clip is not None:
            self.pairs = [*clip] if clip and isinstance(clip[0], Sequence) else [clip]
            for pair in self.pairs:
                if len(pair) != 2 or not pair[0] < pair[1]:
                    raise InputError(f"clip must be two increasing intensities, got {list(pair)}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key].float()
            pairs = self.pairs if len(self.pairs) > 1 else self.pairs * len(image)
            if len(pairs) != len(image):
                raise InputError(f"clip must be one pair for each of {len(image)} channels, got {len(pairs)}")
            channels = []
            for index, (channel, pair) in enumerate(zip(image.split(1), pairs, strict=True)):
                inside = out["organ"] > 0
                if pair is not None:
                    channel = channel.clamp(*pair) - pair[0]
                    inside = inside & (channel > 0)
                median = float(channel[inside].median()) if inside.any() else 0.0
                if not median > 0:
                    where = f" in channel {index}" if len(pairs) > 1 else ""
                    raise InputError(
                        f"{_name(image)}: organ must have a median above 0{where}, got {median:g}; look at clip"
                    )
                channels.append(channel / median)
            out[key] = torch.cat(channels)
        return out


class KeepOrgand(MapTransform):
    """Bounds of findings: all is background that lies outside of the organ, on the scan's own grid.

    The organ is `given_organ`, the mask that came with the scan; where an item has none, `organ` is brought back from
    the network's grid to that of the scan.

    Args:
        keys: label maps of shape `(1, H, W, D)`, on the grid of the original image.
        transform: the preprocessing that was applied to the image: that very object, since MONAI checks its identity.
        margin: mm around the organ that belong to it, too; `None`: nothing is changed.

    Raises:
        ValueError: when the margin is negative.
    """

    def __init__(self, keys: KeysCollection, transform: Compose, margin: float | None = 0.0) -> None:
        super().__init__(keys)
        if margin is not None and margin < 0:
            raise InputError(f"margin must be 0 or more, or None, got {margin}")
        self.restore = InvertProbabilitiesd("organ", transform)
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        if self.margin is None:
            return out
        organ = out["given_organ"] if "given_organ" in out else self.restore(out)["organ"]
        mask = np.asarray(organ[0].cpu()) >= 0.5
        if self.margin and mask.any():  # there is no distance to an empty mask
            mask = ndimage.distance_transform_edt(~mask, organ.pixdim.tolist()) <= self.margin
        for key in self.key_iterator(out):
            out[key] = out[key] * torch.from_numpy(mask).to(out[key])
        return out


def _name(image: torch.Tensor) -> str:
    """Return the file of an image, for an error."""
    return getattr(image, "meta", {}).get("filename_or_obj", "image")


class _Depth:
    """How far the voxels of a mask are from those of their slice outside; where all are mask, half the smallest edge.

    Args:
        mask: of shape `(H, W, D)`, slices along the last axis.
        edge: of a voxel in mm.

    Attributes:
        max: largest of all depths, in mm.
    """

    def __init__(self, mask: np.ndarray, edge: float) -> None:
        self.mask = mask
        self.edge = edge
        self.is_full = mask.all(axis=(0, 1))
        self.full_depth = edge * min(mask.shape[:2]) / 2
        self.max = edge * math.sqrt(deepest(mask[..., ~self.is_full]))
        if self.is_full.any():
            self.max = max(self.max, self.full_depth)

    def above(self, depth: float) -> np.ndarray:
        """Return the voxels that are deeper, in mm."""
        deeper = erode_slices(self.mask, depth / self.edge)
        deeper[..., self.is_full] = self.full_depth > depth
        return deeper


def _close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Fill what is narrower than a disk in each slice, as if the slice went on beyond its border as it is there.

    The closing of scikit-image has no such border: with its `nearest`, 3 of 46 brains (FLAIR) were others.
    """
    return close_slices(mask, max(round(radius), 1))


def _fill(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of each slice."""
    in_slice = np.pad(ndimage.generate_binary_structure(2, 1)[..., None], ((0, 0), (0, 0), (1, 1)))
    parts, count = ndimage.label(~mask, in_slice)
    is_hole = np.ones(count + 1, bool)
    is_hole[0] = False
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        is_hole[side] = False
    return mask | is_hole[parts]


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest component, whose voxels are joined through their faces."""
    return get_largest_connected_component_mask(mask, connectivity=1)
