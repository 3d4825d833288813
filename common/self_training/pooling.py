"""Pseudo-labels of several teachers: their probabilities as one, and how sure a voxel must be to be learned from.

Teachers of different kinds make different mistakes, so a class that both find probable is most probably right: a
product keeps what they agree on, where a mean keeps the mistakes of both (G. E. Hinton, *Training products of experts
by minimizing contrastive divergence*, Neural Computation 2002, section 1).

Source of the thresholds: Y. Zou, Z. Yu, B. V. K. Vijaya Kumar, J. Wang, *Unsupervised domain adaptation for semantic
segmentation via class-balanced self-training*, ECCV 2018 (https://arxiv.org/abs/1810.07911), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import median_abs_deviation

from common.cli import InputError

__all__ = ["class_thresholds", "pool_probabilities", "steadiness_weights"]

_FLOOR = 1e-3  # below which a probability says no more than that: no teacher alone can rule out a class
_LEAST_SPREAD = 0.05  # of the logarithm of a volume; patients differ by more
_NOTHING = 0.05  # of the usual volume, as which a class counts that was not found


def steadiness_weights(
    volumes: Sequence[Sequence[Mapping[int, float]]], num_classes: int, power: float = 2.0
) -> np.ndarray:
    """Return how far each teacher can be trusted with each class, told without any label.

    An organ has much the same volume in all patients. Where the volumes that a teacher finds vary more than those of
    another one, its mistakes do, too: each counts by the inverse of the variance of the logarithm of its volumes, as
    measurements of the same quantity are averaged best (W. G. Cochran, Journal of the Royal Statistical Society 1937).
    A class that a teacher finds in less than half of the scans hardly counts.

    Args:
        volumes: of each teacher, for each scan, those of the classes that it has found, by their value.
        num_classes: background included.
        power: of the standard deviation, by whose inverse a teacher counts; 2 is that of the variance.

    Returns:
        Array of shape `(teachers, num_classes)`, whose sum over the teachers is 1; of the background, which has no size
        of its own, the mean of the others.
    """
    classes = range(1, num_classes)
    found = np.array([[[scan.get(value, 0.0) for value in classes] for scan in teacher] for teacher in volumes])
    usual = [np.median(part[part > 0]) if (part > 0).any() else 1.0 for part in np.moveaxis(found, -1, 0)]
    logarithms = np.log(found + _NOTHING * np.array(usual))
    spreads = np.maximum(median_abs_deviation(logarithms, axis=1, scale="normal"), _LEAST_SPREAD)
    spreads[np.median(found, axis=1) == 0] = -math.log(_NOTHING)  # to find nothing in most scans is not steady
    weights = spreads**-power / (spreads**-power).sum(axis=0)
    return np.concatenate([weights.mean(axis=1, keepdims=True), weights], axis=1)


def pool_probabilities(
    probabilities: Sequence[np.ndarray], weights: Sequence[float | np.ndarray] | None = None, floor: float = _FLOOR
) -> np.ndarray:
    """Return the product of what teachers think of each voxel, which sums to 1 again.

    Args:
        probabilities: of each teacher, of shape `(num_classes, *spatial_size)`.
        weights: exponent of each teacher, or of each of its classes, of shape `(num_classes,)`; 1 if not given. One
            teacher alone stays what it is, but for the floor.
        floor: added to every probability.

    Returns:
        Array of the same shape, of 32-bit floats.
    """
    weights = [1.0] * len(probabilities) if weights is None else list(weights)
    shapes = {teacher.shape for teacher in probabilities}
    if len(shapes) != 1 or len(weights) != len(probabilities):
        raise InputError(
            f"teachers must have one weight each and probabilities of one shape, got {len(weights)} weights and shapes "
            f"{sorted(shapes)}; let them segment the same scans"
        )
    logits = np.zeros(shapes.pop(), np.float32)
    for weight, teacher in zip(weights, probabilities, strict=True):
        exponents = np.broadcast_to(np.asarray(weight, np.float32), len(teacher))
        logits += exponents.reshape(-1, *[1] * (teacher.ndim - 1)) * np.log(teacher.astype(np.float32) + floor)
    logits -= logits.max(axis=0)
    pooled = np.exp(logits)
    return pooled / pooled.sum(axis=0)


def class_thresholds(
    confidences: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int, keep: float
) -> np.ndarray:
    """Return, for each class, the confidence that a share of its voxels reaches, over all scans together.

    One threshold for all classes would keep those that are easy to find, and the others would drown.

    Args:
        confidences: of each scan, any sample of its voxels.
        labels: classes of the same voxels.
        keep: share of the voxels of each class that are learned from.

    Returns:
        Array of shape `(num_classes,)`; 0 for a class that no scan has, and where all voxels are learned from.
    """
    if not 0 <= keep <= 1:
        raise InputError(f"keep must be from 0 to 1, got {keep}")
    sure, found = np.concatenate([c.ravel() for c in confidences]), np.concatenate([x.ravel() for x in labels])
    thresholds = np.zeros(num_classes)
    for label in range(num_classes):
        values = sure[found == label]
        if values.size and keep < 1:  # of a sample, the smallest is not that of all
            thresholds[label] = np.quantile(values, 1 - keep)
    return thresholds
