"""Active learning: which scans to label next, given what all of them look like.

Sources: `k_center` is the greedy core-set of O. Sener, S. Savarese, *Active learning for convolutional neural networks:
a core-set approach*, ICLR 2018 (https://arxiv.org/abs/1708.00489). `k_medoids` weighs all scans instead of the farthest
one.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from common.cli import InputError, check_choice

__all__ = ["CRITERIA", "next_scans"]

CRITERIA = ("k_medoids", "k_center")

_ROUNDING = 1e-12  # relative error of a sum of distances, which depends on the order of the scans


def next_scans(
    descriptors: torch.Tensor, labeled: Collection[int], count: int = 1, criterion: str = "k_medoids"
) -> list[tuple[int, float]]:
    """Choose scans to label, one after the other, each as if those before it were labeled.

    The distance of two scans is the Euclidean one of their descriptors. With no scan labeled, the medoid comes first:
    the scan with the smallest sum of distances to all.

    Args:
        descriptors: of all scans, of shape `(N, F)`.
        labeled: indices of those that are labeled.
        count: scans to choose; of fewer unlabeled ones, all are chosen.
        criterion: `k_center` takes the scan that is farthest from its nearest labeled one; `k_medoids` the scan that,
            once labeled, leaves the smallest sum of the distances of all scans to their nearest labeled one.

    Returns:
        Index of each scan that is chosen, and its distance to the nearest scan that is labeled or was chosen before;
        for a medoid that comes first, infinity.

    Raises:
        ValueError: when no scan is unlabeled, or a descriptor is not finite.
    """
    check_choice("criterion", criterion, CRITERIA)
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    if descriptors.ndim != 2 or not descriptors.isfinite().all():
        raise InputError(f"descriptors must be finite and of shape (N, F), got {tuple(descriptors.shape)}")
    if not set(labeled) <= set(range(len(descriptors))):
        raise InputError(f"labeled must be indices from 0 to {len(descriptors) - 1}, got {sorted(labeled)}")
    unlabeled = [index for index in range(len(descriptors)) if index not in labeled]
    if not unlabeled:
        raise InputError(
            f"scans must have an unlabeled one, got {len(descriptors)}, all labeled; add scans without a label"
        )
    rows = descriptors.double()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances[:, sorted(labeled)].amin(dim=1) if labeled else distances.new_full((len(distances),), math.inf)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(unlabeled))):
        left = torch.minimum(nearest, distances[unlabeled]).sum(dim=1)  # with each of them labeled
        is_first = bool(nearest.isinf().all())
        scores = nearest[unlabeled] if criterion == "k_center" and not is_first else -left
        is_best = scores >= scores.max() - _ROUNDING * left.abs().max()
        best = unlabeled.pop(int(nearest[unlabeled].where(is_best, -1).argmax()))  # of equals, the farthest
        chosen.append((best, float(nearest[best])))
        nearest = torch.minimum(nearest, distances[best])
    return chosen
