"""Morphology of masks with Euclidean distances: what thresholds of SciPy's distances give, in a tenth of the time.

A disk is a stack of runs, so that an erosion by it takes as many steps as the disk has rows; and 64 voxels of a mask
are one word, on which a step is one operation (R. van den Boomgaard, R. van Balen, *Methods for fast morphological
image transforms using bitmapped binary images*, CVGIP 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

__all__ = ["close_slices", "deepest", "erode", "erode_slices"]

_WORD = 64
_TOLERANCE = 1e-5  # of a length or its square, in voxels, that is rounded down


def erode_slices(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the voxels of a mask whose distance to all voxels of their slice outside of it is larger than a radius.

    Beyond the array nothing is outside.

    Args:
        mask: booleans of shape `(H, W, D)`, slices along the last axis.
        radius: in voxels.
    """
    return _unpack(_erode_words(_pack(mask), _square(radius)), mask.shape[2])


def close_slices(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return the closing of each slice by a disk, as if the slice went on beyond its border as it is there.

    Args:
        mask: booleans of shape `(H, W, D)`, slices along the last axis.
        radius: in voxels.
    """
    margin = 2 * radius
    words = np.pad(_pack(mask), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    dilated = ~_erode_words(~words, radius**2)
    # beyond what was padded nothing belongs to it
    eroded = _erode_words(np.pad(dilated, ((radius, radius), (radius, radius), (0, 0))), radius**2)
    inner = slice(radius + margin, -radius - margin)
    return _unpack(np.ascontiguousarray(eroded[inner, inner]), mask.shape[2])


def deepest(mask: np.ndarray) -> int:
    """Return the largest square of the distance, in voxels, of a voxel to those of its slice outside of a mask.

    It is 0 for an empty mask. Slices that are all mask have no outside, and must not be among them.
    """
    words = _pack(mask)
    low, high = 0, 1
    while _erode_words(words, high).any():
        low, high = high + 1, 4 * high
    while low < high:
        middle = (low + high) // 2
        if _erode_words(words, middle).any():
            low = middle + 1
        else:
            high = middle
    return low


def erode(mask: np.ndarray, radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Return the voxels of a mask whose distance to all voxels outside of it is larger than a radius.

    Beyond the array nothing is outside.

    Args:
        mask: booleans of shape `(H, W, D)`.
        radius: in the unit of the spacing.
        spacing: edges of a voxel; where the first two differ, SciPy does it.
    """
    if not math.isclose(spacing[0], spacing[1], rel_tol=1e-4):
        return mask if mask.all() else ndimage.distance_transform_edt(mask, spacing) > radius
    words, depth = _pack(mask), mask.shape[2]
    eroded = mask.copy()
    for step in range(min(math.floor(radius / spacing[2] + _TOLERANCE), depth - 1) + 1):
        within = math.sqrt(max(radius**2 - (step * spacing[2]) ** 2, 0.0)) / spacing[0]
        slices = _unpack(_erode_words(words, _square(within)), depth)
        eroded[..., : depth - step] &= slices[..., step:]
        eroded[..., step:] &= slices[..., : depth - step]
    return eroded


def _square(radius: float) -> int:
    """Return the largest square of a distance between voxels that a radius in voxels reaches."""
    return math.floor(radius**2 + _TOLERANCE)


def _erode_words(words: np.ndarray, squared: int) -> np.ndarray:
    """Return words of which each bit is set that is set in all places within a radius of its own."""
    reach = math.isqrt(squared)
    out, run, half = words.copy(), words.copy(), 0  # the run reaches from -half to half along the second axis
    for step in range(min(reach, len(words) - 1), -1, -1):
        while half < math.isqrt(squared - step**2):
            half += 1
            if half < words.shape[1]:
                run[:, :-half] &= words[:, half:]
                run[:, half:] &= words[:, :-half]
        out[: len(out) - step] &= run[step:]
        out[step:] &= run[: len(run) - step]
    return out


def _pack(mask: np.ndarray) -> np.ndarray:
    """Return the voxels along the last axis as the bits of words; bits that are left over are not set."""
    padded = np.pad(mask, ((0, 0), (0, 0), (0, -mask.shape[2] % _WORD)))
    return np.packbits(padded, axis=2).view(np.uint64)


def _unpack(words: np.ndarray, depth: int) -> np.ndarray:
    """Return the voxels that are bits of words."""
    return np.unpackbits(words.view(np.uint8), axis=2, count=depth).view(bool)
