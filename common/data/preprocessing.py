"""Preprocessing whose voxel size and intensity range are fitted to the training cases.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923), "method 2", for CT. Intensities of other scans
have no unit that they share, so each is clipped to its own percentiles.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Orientationd
from monai.utils import ensure_tuple

from common.cli import InputError, has_weights

from .checks import is_ct
from .reader import LoadVolume
from .record import (
    Record,
    body_channel,
    check_channels,
    check_same,
    join_learned,
    load_learned,
    load_record,
    make_record,
)

__all__ = ["fit_preprocessing", "intensity_range"]

logger = logging.getLogger(__name__)

_PERCENTILES = (0.5, 99.5)
_VOXELS_PER_SCAN = 1_000_000  # for its own percentiles
_VOXELS_PER_CASE = 200_000  # enough for percentiles
_VOXELS = 50_000_000  # of all cases, so that the memory of a large training set is bounded


def fit_preprocessing(
    data: Sequence[Mapping[str, str]],
    from_weights: str | Path | None = None,
    air: float | None = None,
    percentiles: tuple[float, float] = _PERCENTILES,
    spacing: float | None = None,
    clip: Sequence[Any] | None = None,
    normalization: str = "zscore",
    modality: Sequence[str] = ("",),
    labels: Mapping[int, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
) -> Record:
    """Find the voxel size and the intensity range of the training cases, for the record of the weights.

    The voxels become isotropic, with the largest of the three median spacings. Intensities of a CT are clipped to
    percentiles of those inside the labels or, for cases without labels, inside the body, each channel to its own; other
    channels have None, and each scan is clipped to its own percentiles. A channel without a name is a CT where `air` is
    given.

    Args:
        data: training cases, each with `image` and perhaps `label`.
        from_weights: file of pretrained weights, beside which the numbers of the pretraining are stored: they are taken
            over as they are, since the weights expect them. `None`, `null` or `random`: fit.
        air: intensity at or below which a voxel lies outside the body, in the units of the image (about -500 HU in
            CT); of several channels, that of `body_channel` decides. `None`: every voxel counts as body.
        spacing: edge of a voxel in mm, instead of the fitted one.
        clip: lower and upper intensity, instead of the fitted ones; a pair for all channels, or one for each.
        normalization: see `Record`, also for `modality`, `labels` and `settings`.
        init_from: see `make_record`.

    Raises:
        FileNotFoundError: when there are no numbers beside the pretrained weights.
        ValueError: when the pretrained weights have other channels or numbers, or there is nothing to fit them to.
    """
    if has_weights(from_weights):
        stored = load_record(str(from_weights))
        check_channels(stored, modality, str(from_weights))
        given = {"spacing": spacing, "clip": _clip(clip, modality), "normalization": normalization}
        given = {name: value for name, value in given.items() if value is not None}
        check_same(stored, given, str(from_weights))
        numbers = {name: getattr(stored, name) for name in ("spacing", "clip", "air", "normalization", "fitted_on")}
    else:
        numbers = _fit(data, air, percentiles, spacing, clip, modality)
        numbers |= {"air": air, "normalization": normalization, "fitted_on": len(data)}
    learned_from = load_learned(from_weights, init_from)
    record = make_record(None, labels, modality, settings, data)
    learned_from = join_learned(learned_from, record.learned_from)
    record = dataclasses.replace(record, learned_from=learned_from, **numbers)
    logger.info("preprocessing: %s", numbers)
    return record


def _fit(
    data: Sequence[Mapping[str, str]],
    air: float | None,
    percentiles: tuple[float, float],
    spacing: float | None,
    clip: Sequence[Any] | None,
    modality: Sequence[str],
) -> dict[str, Any]:
    """Return spacing and clip values, those that are given as they are."""
    if not data:
        raise InputError(
            "data must hold at least one case, got none; look at training, unlabeled and folds in dataset.json"
        )
    spacings, percentile_values = _survey(data, air, percentiles, modality)
    if clip is None:
        clip = [pair if _is_ct(name, air) else None for pair, name in zip(percentile_values, modality, strict=True)]
    pairs = _clip(clip, modality)
    edge = np.median(spacings, axis=0).max() if spacing is None else spacing
    return {"spacing": _round(edge), "clip": pairs}


def intensity_range(channel: np.ndarray) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of a channel of a scan; where they are equal, its extremes.

    Args:
        channel: of any shape; what is not finite does not count, and of a large one evenly spread voxels do.
    """
    flat = channel.reshape(-1)
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 1.0
    low, high = np.percentile(flat[:: max(flat.size // _VOXELS_PER_SCAN, 1)], _PERCENTILES).tolist()
    return (low, high) if low < high else (float(flat.min()), float(flat.max()))


def _is_ct(name: str, air: float | None) -> bool:
    """Tell whether intensities of a channel mean the same in every scan; one without a name is a CT if it has `air`."""
    return is_ct(name) or (not name and air is not None)


def _clip(clip: Sequence[Any] | None, modality: Sequence[str]) -> list[Any] | None:
    """Return the lower and upper intensity of the only channel, or such a pair for each of several.

    Args:
        clip: a pair for all channels, or a list of one for each; None in place of a pair: each scan has its own.
        modality: name of each channel.
    """
    if clip is None or all(pair is None for pair in clip):
        return None
    pairs = [*clip] if clip and isinstance(clip[0], Sequence | None) else [clip] * len(modality)
    if len(pairs) != len(modality):
        raise InputError(
            f"clip must be one pair of intensities, or one for each of {len(modality)} channels, got {clip}"
        )
    for pair, name in zip(pairs, modality, strict=True):
        if pair is not None and (len(pair) != 2 or not pair[0] < pair[1]):
            channel = f" of {name}" if len(pairs) > 1 and name else ""
            raise InputError(
                f"clip{channel} must be two increasing intensities, got {[*pair]}; are the images constant?"
            )
    rounded = [None if pair is None else [_round(value) for value in pair] for pair in pairs]
    return rounded if len(rounded) > 1 else rounded[0]


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _survey(
    data: Sequence[Mapping[str, str]], air: float | None, percentiles: tuple[float, float], modality: Sequence[str]
) -> tuple[np.ndarray, list[list[float]]]:
    """Return the spacing of every case along the patient's axes in mm and each channel's percentiles over all cases."""
    rng = np.random.default_rng(0)
    spacings, samples = [], []
    most = min(_VOXELS_PER_CASE, _VOXELS // len(data))
    for case in data:
        keys = [key for key in ("image", "label") if key in case]
        loaded = {key: LoadVolume()(case[key]) for key in keys}
        loaded = Orientationd(keys, axcodes="RAS", labels=None)(loaded)
        spacings.append(loaded["image"].pixdim.numpy())
        image = loaded["image"].numpy()
        if len(image) != len(modality):
            names = f" ({', '.join(modality)})" if any(modality) else ""
            path = ensure_tuple(case["image"])[0]
            raise InputError(
                f"{path}: number of channels must be {len(modality)}{names}, got {len(image)}; name each channel in "
                "modality in dataset.json"
            )
        if "label" in case:
            label = loaded["label"].numpy()[0]
            inside = image[:, (label > 0) & (label != case.get("ignore"))]
        elif air is None:
            inside = image.reshape(len(image), -1)
        else:
            inside = image[:, image[body_channel(modality)] > air]
        inside = inside[:, np.isfinite(inside).all(axis=0)]  # others are refused or replaced when the case is loaded
        num_voxels = inside.shape[1]
        if num_voxels > most:
            inside = inside[:, rng.integers(num_voxels, size=most)]
        samples.append(inside)
    values = np.concatenate(samples, axis=1)
    if not values.size:
        raise InputError(f"data must hold voxels inside a label or above air ({air}), got none; are the labels empty?")
    return np.stack(spacings), [np.percentile(channel, percentiles).tolist() for channel in values]
