"""Preprocessing whose numbers are fitted to the training cases.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923), "method 2".
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose, LoadImaged, Orientationd

from common.cli import RANDOM, is_scratch

from .record import PREPROCESSING_FILE, load_record, save_record

__all__ = ["FittedPreprocessing", "fit_preprocessing", "load_preprocessing"]

logger = logging.getLogger(__name__)

_VOXELS_PER_CASE = 200_000  # enough for percentiles; keeps the memory of a large training set bounded


@dataclass(frozen=True)
class FittedPreprocessing:
    """What a network's input looks like.

    Attributes:
        spacing: edge of a voxel in mm.
        clip: lower and upper intensity, in the units of the scan.
        air: intensity at or below which a voxel lies outside the body; None if every voxel counts as body.
        normalization: see `ClipAndNormalize`.
        modality: of the scans, such as CT.
        labels: names of the classes by their value; empty after pretraining.
        fitted_on: number of cases.
    """

    spacing: float
    clip: tuple[float, float]
    air: float | None
    normalization: str
    modality: str
    labels: dict[int, str]
    fitted_on: int


def fit_preprocessing(
    data: Sequence[Mapping[str, str]],
    save_dir: str | Path,
    like: str | Path | None = None,
    air: float | None = None,
    percentiles: tuple[float, float] = (0.5, 99.5),
    spacing: float | None = None,
    clip: Sequence[float] | None = None,
    normalization: str = "zscore",
    modality: str = "",
    labels: Mapping[int, str] | None = None,
) -> FittedPreprocessing:
    """Find the voxel size and the intensity range of the training cases, and store them beside the weights.

    The voxels become isotropic, with the largest of the three median spacings. Intensities are clipped to percentiles
    of those inside the labels or, for cases without labels, inside the body.

    Args:
        data: training cases, each with `image` and perhaps `label`.
        save_dir: folder for `preprocessing.json`.
        like: file of pretrained weights, beside which the numbers of the pretraining are stored: they are taken over
            as they are, since the weights expect them. `None`, `null` or `random`: fit.
        air: intensity at or below which a voxel lies outside the body, in the units of the image (about -500 HU in
            CT). `None`: every voxel counts as body.
        percentiles: lower and upper percentile of the intensities.
        spacing: edge of a voxel in mm, instead of the fitted one.
        clip: lower and upper intensity, instead of the fitted ones.
        normalization: see `ClipAndNormalize`.
        modality: of the scans, such as CT.
        labels: names of the classes by their value, which inference needs, too.

    Raises:
        FileNotFoundError: when there are no numbers beside the pretrained weights.
        ValueError: when there are no cases, or the clip values do not increase.
    """
    if like != RANDOM and not is_scratch(like):
        fitted = load_preprocessing(Path(str(like)).parent)
        for name, wanted, stored in (("spacing", spacing, fitted.spacing), ("clip", clip, fitted.clip)):
            if wanted is not None and not (np.size(wanted) == np.size(stored) and np.allclose(wanted, stored)):
                raise ValueError(f"{name} must be that of the pretraining of {like}, {stored}, got {wanted}")
        if normalization != fitted.normalization:
            raise ValueError(
                f"normalization must be that of the pretraining of {like}, {fitted.normalization}, got {normalization}"
            )
    else:
        if not data:
            raise ValueError(
                "data must hold at least one case, got none; look at training, unlabeled and folds in dataset.json"
            )
        spacings, percentile_values = _survey(data, air, percentiles)
        if clip is not None and len(clip) != 2:
            raise ValueError(f"clip must be two increasing intensities, got {list(clip)}")
        low, high = percentile_values if clip is None else clip
        if not low < high:
            raise ValueError(f"clip must be two increasing intensities, got {[low, high]}; are the images constant?")
        fitted = FittedPreprocessing(
            spacing=_round(np.median(spacings, axis=0).max() if spacing is None else spacing),
            clip=(_round(low), _round(high)),
            air=air,
            normalization=normalization,
            modality=modality,
            labels={},
            fitted_on=len(data),
        )
    fitted = dataclasses.replace(fitted, labels={int(value): name for value, name in (labels or {}).items()})
    logger.info("preprocessing: %s", fitted)
    save_record(fitted, Path(save_dir) / PREPROCESSING_FILE)
    return fitted


def load_preprocessing(save_dir: str | Path) -> FittedPreprocessing:
    """Read what `fit_preprocessing` stored.

    Raises:
        FileNotFoundError: when the folder has none.
        ValueError: when the file is damaged.
    """
    return load_record(Path(save_dir) / PREPROCESSING_FILE, "fitted preprocessing", _build)


def _build(stored: dict[str, Any]) -> FittedPreprocessing:
    low, high = stored["clip"]
    if not (low < high and 0 < stored["spacing"] < math.inf):
        raise ValueError(f"clip {low} to {high} and spacing {stored['spacing']}")
    labels = {int(value): str(name) for value, name in stored["labels"].items()}
    return FittedPreprocessing(**{**stored, "clip": (float(low), float(high)), "labels": labels})


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _survey(
    data: Sequence[Mapping[str, str]], air: float | None, percentiles: tuple[float, float]
) -> tuple[np.ndarray, list[float]]:
    """Return the spacing of every case along the patient's axes in mm and the percentiles over all cases."""
    rng = np.random.default_rng(0)
    spacings, samples = [], []
    for case in data:
        keys = [key for key in ("image", "label") if key in case]
        load = Compose(
            [
                LoadImaged(keys, image_only=True, ensure_channel_first=True),
                Orientationd(keys, axcodes="RAS", labels=None),
            ]
        )
        loaded = load({key: case[key] for key in keys})
        spacings.append(loaded["image"].pixdim.numpy())
        image = loaded["image"].numpy()
        broken = int((~np.isfinite(image)).sum())
        if broken:
            raise ValueError(f"{case['image']}: image must have finite intensities, got {broken} NaN or Inf voxels")
        if "label" in case:
            inside = image[:, loaded["label"].numpy()[0] > 0].ravel()
        else:
            inside = image.ravel() if air is None else image[image > air]
        if len(inside) > _VOXELS_PER_CASE:
            inside = inside[rng.integers(len(inside), size=_VOXELS_PER_CASE)]
        samples.append(inside)
    values = np.concatenate(samples)
    if not values.size:
        raise ValueError(f"data must hold voxels inside a label or above air ({air}), got none; are the labels empty?")
    return np.stack(spacings), np.percentile(values, percentiles).tolist()
