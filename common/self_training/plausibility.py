"""Scans whose pseudo-labels are implausible, told without labels: by volume, by place, by what teachers disagree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import median_abs_deviation

__all__ = ["Segmentation", "describe_segmentation", "find_implausible"]

_SMALLEST = {"volume": 0.15, "place": 5.0, "agreement": 0.05}  # spreads in log ml, mm and Dice, below which none counts


@dataclass(frozen=True)
class Segmentation:
    """Description of a segmentation.

    Attributes:
        volumes: of each class that it has, in ml, by its value.
        places: center of each class in mm, along the patient's axes, from the center of all of them.
        agreement: mean Dice of the classes between teachers; 1 where there is one teacher.
    """

    volumes: dict[int, float] = field(default_factory=dict)
    places: dict[int, list[float]] = field(default_factory=dict)
    agreement: float = 1.0


def describe_segmentation(label: np.ndarray, affine: np.ndarray, agreement: float = 1.0) -> Segmentation:
    """Describe a label map.

    Args:
        label: classes of shape `(H, W, D)`; 0 is the background.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        agreement: see `Segmentation`.
    """
    millilitres = abs(np.linalg.det(affine[:3, :3])) / 1000
    volumes, centers = {}, {}
    for value in np.unique(label):
        if value > 0:
            voxels = np.argwhere(label == value)
            volumes[int(value)] = float(len(voxels) * millilitres)
            centers[int(value)] = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
    middle = np.mean([*centers.values()], axis=0) if centers else np.zeros(3)
    places = {value: (center - middle).round(1).tolist() for value, center in centers.items()}
    return Segmentation(volumes, places if len(places) > 1 else {}, agreement)


def find_implausible(
    segmentations: Mapping[str, Segmentation],
    labeled: Sequence[Segmentation],
    labels: Mapping[int, str],
    limit: float = 3.5,
) -> dict[str, str]:
    """Return the scans whose segmentations are unlike those of the others, each with the reason.

    A number is implausible when it differs from the median by more than `limit` robust standard deviations: the
    logarithm of a volume, the place of a class among the others, and the agreement of teachers, of which only a small
    one is. A class that is missing is implausible where all labeled scans have it.

    Args:
        segmentations: of the scans, by name.
        labeled: those of the labeled scans.
        labels: names of the classes by their value.
        limit: in standard deviations.
    """
    reasons: dict[str, str] = {}
    everywhere = {value for value in labels if labeled and all(value in known.volumes for known in labeled)}
    for name, found in segmentations.items():
        missing = [labels[value] for value in sorted(everywhere - found.volumes.keys())]
        if missing:
            reasons[name] = f"has no {' and no '.join(missing)}"
    all_of = [*segmentations.values(), *labeled]
    for value in [value for value in labels if value > 0]:
        volumes = [np.log(known.volumes[value]) for known in all_of if value in known.volumes]
        places = [known.places[value] for known in all_of if value in known.places]
        for name, found in segmentations.items():
            if value in found.volumes and _is_far(np.log(found.volumes[value]), volumes, "volume", limit):
                usual = np.exp(np.median(volumes))
                reasons.setdefault(
                    name, f"{labels[value]} has {found.volumes[value]:.3g} ml, where {usual:.3g} are usual"
                )
            if value in found.places and _is_far(found.places[value], places, "place", limit):
                reasons.setdefault(name, f"{labels[value]} lies where it lies in no other scan")
    agreements = [found.agreement for found in segmentations.values()]
    for name, found in segmentations.items():
        if found.agreement < np.median(agreements) and _is_far(found.agreement, agreements, "agreement", limit):
            reasons.setdefault(
                name, f"teachers agree with a Dice of {found.agreement:.2f}, where {np.median(agreements):.2f} is usual"
            )
    return reasons


def _is_far(value: float | Sequence[float], values: Sequence[float | Sequence[float]], kind: str, limit: float) -> bool:
    """Tell whether a number, or any of a few, is farther from its median than `limit` robust standard deviations."""
    median = np.median(values, axis=0)
    spread = np.maximum(median_abs_deviation(values, axis=0, scale="normal"), _SMALLEST[kind])
    return bool((np.abs(value - median) > limit * spread).any())
