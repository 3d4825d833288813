"""Measures of what was segmented: volume, intensity, diameter and place of every label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from scipy.ndimage import find_objects
from scipy.ndimage import label as find_components
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from common.cli import InputError

__all__ = ["LabelMeasures", "measure_labels"]

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_ALL_NEIGHBORS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class LabelMeasures:
    """Measures of one label in one case; what an empty label lacks is None.

    Attributes:
        volume_ml: of all of its voxels.
        mean_intensity: of the original image, in its own units (HU in CT); voxels that are not finite do not count.
        std_intensity: standard deviation of these.
        longest_diameter_mm: largest distance between two points of the largest component, in 3D, from outer edge to
            outer edge of the voxels; in the plane of an image that has a single slice.
        centroid_ras_mm: center of gravity in millimeters to the patient's right, front and head, as NIfTI has it;
            DICOM's coordinates (LPS) have the opposite sign in the first two.
        cut_off_at: sides of the scan (R, L, A, P, S, I) whose outermost slice it touches, so that a part of it may be
            missing; where the scan does not tell its orientation, the index of the slice, such as `k=0`.
        num_components: parts that touch one another not even at a corner.
    """

    volume_ml: float = 0.0
    mean_intensity: float | None = None
    std_intensity: float | None = None
    longest_diameter_mm: float | None = None
    centroid_ras_mm: list[float] | None = None
    cut_off_at: list[str] = field(default_factory=list)
    num_components: int = 0


def measure_labels(
    label_map: np.ndarray,
    affine: np.ndarray,
    values: Iterable[int],
    image: np.ndarray | None = None,
    is_oriented: bool = True,
) -> dict[int, LabelMeasures]:
    """Measure every label of a segmentation.

    Args:
        label_map: whole numbers from 0, of shape `(H, W, D)`.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        values: of the labels.
        image: intensities on the same grid; none are measured if not given.
        is_oriented: the affine tells where the patient's right is; otherwise a label has no place.

    Returns:
        Measures by value.
    """
    affine = np.asarray(affine, dtype=float)
    if image is not None and image.shape != label_map.shape:
        raise InputError(f"image must have the shape of the label map {label_map.shape}, got {image.shape}")
    values = [*values]
    label_map = label_map.astype(np.int32) if label_map.dtype.kind == "f" else label_map
    boxes = find_objects(label_map, max_label=max(values, default=0))
    found = {}
    for value in values:
        box = boxes[value - 1]
        if box is None:
            found[value] = LabelMeasures()
            continue
        mask = label_map[box] == value
        components, num_components = find_components(mask, _ALL_NEIGHBORS)
        largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
        part = find_objects(components)[largest - 1]
        inside = image[box][mask] if image is not None else np.empty(0)
        inside = inside[np.isfinite(inside)]
        center = affine[:3, :3] @ _mean_index(mask, box) + affine[:3, 3]
        found[value] = LabelMeasures(
            volume_ml=float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000),
            mean_intensity=float(inside.mean(dtype=float)) if inside.size else None,
            std_intensity=float(inside.std(dtype=float)) if inside.size else None,
            longest_diameter_mm=_longest_diameter(components[part] == largest, affine, label_map.shape),
            centroid_ras_mm=center.tolist() if is_oriented else None,
            cut_off_at=_touched_sides(box, label_map.shape, affine, is_oriented),
            num_components=num_components,
        )
    return found


def _mean_index(mask: np.ndarray, box: Sequence[slice]) -> np.ndarray:
    """Return the mean index of the voxels of a mask that lies in a box of a volume."""
    profiles = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    indices = [np.arange(part.start, part.stop) for part in box]
    return np.array([np.average(index, weights=profile) for index, profile in zip(indices, profiles, strict=True)])


def _longest_diameter(mask: np.ndarray, affine: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance in mm between two corners of voxels of a mask.

    Args:
        mask: part of a volume, of shape `(h, w, d)`.
        affine: `(4, 4)`.
        shape: of the whole volume; along an axis with a single voxel a mask has no extent.
    """
    axes = [axis for axis in range(3) if shape[axis] > 1] or [0, 1, 2]
    corners = np.pad(mask, [(0, 1) if axis in axes else (0, 0) for axis in range(3)])
    for axis in axes:
        corners = corners | np.roll(corners, 1, axis)
    ends = corners
    for axis in axes:  # the farthest ones are the outermost of their lines along every axis
        ends = ends & _outermost(corners, axis)
    points = np.argwhere(ends)[:, axes]
    points = points[ConvexHull(points).vertices] if len(axes) > 1 else points
    return float(pdist(points @ affine[:3, axes].T).max())


def _outermost(mask: np.ndarray, axis: int) -> np.ndarray:
    """Return the first and the last voxel of every line of a mask along an axis; of an empty line, any."""
    out = np.zeros_like(mask)
    first, last = mask.argmax(axis), mask.shape[axis] - 1 - np.flip(mask, axis).argmax(axis)
    for index in (first, last):
        np.put_along_axis(out, np.expand_dims(index, axis), True, axis)
    return out


def _touched_sides(box: Sequence[slice], shape: Sequence[int], affine: np.ndarray, is_oriented: bool) -> list[str]:
    """Return the sides of a volume that the bounding box of a label touches, see `LabelMeasures`."""
    sides = []
    for axis, (part, size, toward) in enumerate(zip(box, shape, nib.aff2axcodes(affine), strict=True)):
        if size == 1:
            continue
        is_known = is_oriented and toward is not None
        if part.start == 0:
            sides.append(_OPPOSITE[toward] if is_known else f"{'ijk'[axis]}=0")
        if part.stop == size:
            sides.append(toward if is_known else f"{'ijk'[axis]}={size - 1}")
    return sides
