"""Volumes of the classes in labels, in ml, by which implausible segmentations are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .reader import note_fingerprint, noted_fingerprint, read_volume

__all__ = ["join_ranges", "known_of", "label_volumes", "note_known", "note_label", "volume_ranges"]

_volumes: dict[str, dict[int, float]] = {}


def note_label(path: str, label: np.ndarray, affine: np.ndarray) -> None:
    """Keep the volumes of the classes of a label that was read, so that nobody reads it again for them.

    Args:
        path: file of the label.
        label: whole numbers as they are in the file, of shape `(1, H, W, D)`.
        affine: `(4, 4)`, from voxel indices to millimeters.
    """
    values, counts = np.unique(label[label != 0], return_counts=True)
    milliliters = counts * abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])) / 1000
    _volumes[path] = dict(zip(np.rint(values).astype(int).tolist(), milliliters.tolist(), strict=True))


def label_volumes(path: str) -> dict[int, float]:
    """Return the volume in ml of each value but 0 in a label that was read before, or is now."""
    if path not in _volumes:
        label, header, _ = read_volume(path, allow_2d=True)
        note_label(path, label, header.affine)
    return _volumes[path]


def known_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found when the files of a case were read: the checksum of its image, the volumes in its label."""
    image, label = case.get("image"), str(case.get("label"))
    if not isinstance(image, str | list):
        return {}
    return {"image": image, "fingerprint": noted_fingerprint(image), "label": label, "volumes": _volumes.get(label)}


def note_known(known: Mapping[str, Any]) -> None:
    """Keep what `known_of` found in another process or run, so that nobody reads the files again for it."""
    if known.get("fingerprint"):
        note_fingerprint(known["image"], known["fingerprint"])
    if known.get("volumes") is not None:
        _volumes[known["label"]] = known["volumes"]


def volume_ranges(data: Sequence[Mapping[str, Any]], labels: Mapping[int, str]) -> dict[str, list[float]]:
    """Return the smallest and the largest volume in ml of each class, by its name, over the cases that show it.

    Pseudo-labels do not count, and neither does a label in which something is not labeled.

    Args:
        data: cases, of which those with a `label` count; see `LoadVolumesd` for `ignore` and `confidence`.
        labels: names of the classes by their value, background (0) included.
    """
    found: list[dict[str, list[float]]] = []
    for case in data:
        if "label" not in case or "confidence" in case:
            continue
        volumes = label_volumes(str(case["label"]))
        if case.get("ignore") not in volumes:
            shown = {name: volumes[value] for value, name in labels.items() if value and value in volumes}
            found.append({name: [round(volume, 6)] * 2 for name, volume in shown.items()})
    return join_ranges(found)


def join_ranges(ranges: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Return for each name the smallest and the largest number of several pairs of these."""
    joined: dict[str, list[float]] = {}
    for part in ranges:
        for name, pair in part.items():
            known = joined.get(name, pair)
            joined[name] = [min(pair[0], known[0]), max(pair[1], known[1])]
    return joined
