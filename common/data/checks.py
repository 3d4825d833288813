"""Checks of what the voxels and labels of a volume must be before any work starts on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import InputError

from .grid import corner_distance
from .header import Header

__all__ = ["check_grids", "check_image", "check_label", "check_modality", "is_ct"]

logger = logging.getLogger(__name__)

_GRID_TOLERANCE = 0.1  # voxels, at a corner
_ROUNDING = 1e-2  # how far a label may lie from a whole number
_SAMPLE = 50_000  # voxels, by which a scan is judged
_PADDING_HU, _LUNG_HU, _FAT_HU = -1500, -500, -70
_MR_NAMES = ("MR", "FLAIR", "T1", "T2", "PD", "DWI", "ADC")


def check_grids(image: Header, label: Header, path: str | Path, name: str = "label", channels: int | None = 1) -> None:
    """Refuse the label at `path`, or what else it is called, unless it lies on the grid of its image.

    The shapes must be the same, and the corner voxels lie in the same places, but for a tenth of a voxel.

    Args:
        image: header of the image.
        label: header of what must lie on its grid.
        path: of the latter, for the errors.
        name: what it is, for the errors.
        channels: that it must have; None for any number.
    """
    if channels is not None and label.channels != channels:
        raise InputError(f"{path}: {name} must have {channels} channel(s), got {label.channels}; split the file")
    if label.shape != image.shape:
        raise InputError(
            f"{path}: {name} must have the shape of its image {image.shape}, got {label.shape}; resample it"
        )
    distance = corner_distance(image.affine, label.affine, image.shape)
    if distance > _GRID_TOLERANCE:
        raise InputError(
            f"{path}: {name} must have the affine of its image, got corners {distance:.3g} voxels apart; resample "
            "it to the image, or mend its header"
        )


def check_image(array: np.ndarray, path: str | Path) -> str | None:
    """Refuse no voxels, NaN, Inf and what 32-bit floats cannot hold; return a warning of a constant image."""
    if array.size == 0:
        raise InputError(f"{path}: image must hold voxels, got shape {array.shape}; copy or convert the file again")
    if array.dtype.kind == "f":
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            nans = np.count_nonzero(np.isnan(array))
            raise InputError(
                f"{path}: every voxel must be finite, got {nans} NaN and {bad - nans} infinite; repair the file, or "
                "pass --nan replace"
            )
    low, high = array.min(), array.max()
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        raise InputError(f"{path}: intensities must fit a 32-bit float, got {low:.4g} to {high:.4g}; scale them")
    return f"{path}: image is constant, every voxel is {low:.6g}" if low == high else None


def check_label(array: np.ndarray, path: str | Path, labels: int | Sequence[int] | None = None) -> np.ndarray:
    """Return a label map as whole numbers, of the smallest type that holds every label; warn when it is empty.

    Args:
        array: label map; values within 0.01 of a whole number are rounded, with a warning.
        path: name for the errors.
        labels: number of classes, background included, or the allowed values; None allows all.

    Raises:
        ValueError: when a value is NaN, not whole, or not allowed.
    """
    if array.size == 0:
        raise InputError(f"{path}: label must hold voxels, got shape {array.shape}; copy or convert the file again")
    whole = _round(array, path) if array.dtype.kind == "f" else array
    allowed = list(range(labels)) if isinstance(labels, int) else [int(label) for label in labels or ()]
    low, high = min(whole.min(), *allowed, 0), max(whole.max(), *allowed, 0)
    types = [name for name in ("uint8", "int16", "int32") if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if not types:
        raise InputError(f"{path}: labels must be whole numbers of 32 bits, got {_list(whole)}; renumber them")
    small = whole.astype(types[0])
    if labels is not None and not (is_allowed := np.isin(small, allowed, kind="table")).all():
        raise InputError(
            f"{path}: labels must be among {allowed}, got {_list(small[~is_allowed])}; name them in dataset.json, or "
            "renumber them by python -m tools.datalist --renumber"
        )
    if not small.any():
        logger.warning("%s: label is empty, every voxel is background", path)
    elif small.all():
        logger.warning("%s: label has no background, every voxel belongs to a class", path)
    return small


def is_ct(modality: str) -> bool:
    """Tell whether a channel has Hounsfield units, by its name: CT, CTA, ct portal venous."""
    return modality.upper().startswith("CT")


def check_modality(array: np.ndarray, path: str | Path, modality: str, stated: str = "") -> str | None:
    """Return a warning when intensities cannot be those of their modality: a CT in Hounsfield units, or an MR image.

    Hounsfield units are known by the body, not by the smallest number: between fat (-100) and muscle (50) lies most of
    what is no air, and air near -1000 is seen in every scan that is not cut to the inside of a patient.

    Args:
        array: intensities of one channel.
        path: name for the warning.
        modality: of the channel, such as CT or FLAIR; others than CT and MR are not judged.
        stated: that of the file itself, if it says one, as DICOM does.
    """
    is_mr = modality.upper().startswith(_MR_NAMES)
    if not (is_ct(modality) or is_mr):
        return None
    if stated in ("CT", "MR") and is_ct(stated) != is_ct(modality):
        return f"{path}: modality is {modality}, but DICOM says {stated}; give another series, or other weights"
    values = array.ravel()[:: max(array.size // _SAMPLE, 1)]
    values = values[values > _PADDING_HU]
    low, high = (float(np.percentile(values, share)) for share in (0.5, 99.5)) if values.size else (0.0, 0.0)
    body = values[values > _LUNG_HU]
    soft, dense = ((body > -250) & (body < 350)).mean() if body.size else 0.0, (body > 800).mean() if body.size else 0.0
    has_air = bool((values < -700).mean() > 1e-3) if values.size else False
    is_hounsfield = (has_air or low < _FAT_HU) and soft > 0.4 and dense < 0.3
    if is_ct(modality) and not is_hounsfield:
        return (
            f"{path}: a CT must be in Hounsfield units, with air near -1000, fat near -100 and muscle near 50, got "
            f"{low:.4g} to {high:.4g}; convert it back, or look at the modality in dataset.json"
        )
    if is_mr and is_hounsfield and has_air:
        return f"{path}: modality is {modality}, but intensities from {low:.4g} to {high:.4g} are those of a CT"
    return None


def _round(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Return whole numbers, still as floats."""
    rounded = np.rint(array)
    if not np.array_equal(rounded, array):
        is_near = np.abs(array - rounded) <= _ROUNDING  # never for NaN
        if not is_near.all():
            raise InputError(
                f"{path}: labels must be whole numbers, got {_list(array[~is_near])}; were they resampled linearly?"
            )
        logger.warning("%s: labels up to %.2g off a whole number are rounded", path, np.abs(array - rounded).max())
    return rounded


def _list(values: np.ndarray, limit: int = 8) -> str:
    """Write down the first few different values."""
    different = np.unique(values)
    return ", ".join(f"{value:.6g}" for value in different[:limit]) + (", ..." if len(different) > limit else "")
