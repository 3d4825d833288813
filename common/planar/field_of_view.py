"""Field of view that the scans of a data set have in common: found without labels, stored, and cropped to.

Position is a strong cue for anatomy, as long as it is measured from the patient and not from where the scanner began.
Of scans with several channels, which show one place, the first channel tells where the field of view lies.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision).
The paper's scans have a common crop around the organs; here such a box is found by aligning the scans.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Crop, InvertibleTransform, MapTransform, Orientation, Pad
from monai.utils import ensure_tuple_rep
from scipy.ndimage import center_of_mass, uniform_filter
from scipy.signal import correlate

from common.cli import InputError, MissingFileError, has_weights
from common.data import LoadVolume, intensity_range, write_atomically

__all__ = ["CropFieldOfViewd", "FieldOfView", "Place", "fit_field_of_view", "load_field_of_view"]

logger = logging.getLogger(__name__)

_FILE_NAME = "field_of_view.nii.gz"

_NUM_FIRST = 5  # scans that are tried as the first template

_MAX_ROUNDS = 10

_MAX_SCANS = 50  # enough for an average, and half a minute of one core

_LEAST_EDGE = 1e-4  # difference of neighbors, clipped intensities being 0 to 1, below which it is rounding

_FAINT = 1e-6  # share of the largest variance of edges in a box, below which a box is empty

_LEAST_SIMILARITY = 0.5  # share of the training scans' median correlation below which a scan shows something else


class Place(NamedTuple):
    """Place of the common field of view in a scan.

    Attributes:
        center: of the box in mm, from the outer corner of the scan's first voxel along its axes.
        similarity: correlation of the edges there with the template, from -1 to 1.
    """

    center: tuple[float, float, float]
    similarity: float


@dataclass(frozen=True)
class FieldOfView:
    """Common field of view: a box, and the edges that scans show in it, averaged after they were aligned.

    Attributes:
        size: of the box in mm along each axis; `None`: scans are taken whole, and there is nothing else.
        clip: intensities to which the first channel of scans is clipped before its edges are found; None: percentiles
            of each scan.
        step: size of a voxel of the template in mm.
        similarity: median correlation of scans with the template.
        template: edges on a coarse grid that fills the box, of shape `(H, W, D)`.
    """

    size: tuple[float, ...] | None
    clip: tuple[float, float] | None = (0.0, 1.0)
    step: float = 1.0
    similarity: float = 1.0
    template: np.ndarray | None = None

    def save_beside(self, weights: str | Path) -> None:
        """Write `field_of_view.nii.gz`, a volume that any viewer shows, into the folder of a file of weights."""
        write_atomically(Path(weights).with_name(_FILE_NAME), lambda path: nib.save(_to_nifti(self), path))

    def locate(self, image: torch.Tensor, spacing: Sequence[float]) -> Place:
        """Find the box in a scan: where the edges of both correlate most.

        It may reach beyond the scan, whose edges are then taken for absent, but its center lies inside.

        Args:
            image: scan in RAS orientation, in its own intensities, of shape `(C, H, W, D)`, of which the first channel
                counts.
            spacing: size of its voxels in mm.
        """
        if self.template is None:
            raise InputError("field of view must have a template to be located, got one of whole scans")
        edges, steps = _edges(image, spacing, self.step, self.clip)
        center, similarity = _Scan(edges, self.template.shape).match(self.template)
        x, y, z = (float(place * step) for place, step in zip(center, steps, strict=True))
        return Place((x, y, z), similarity)


def fit_field_of_view(
    data: Sequence[Mapping[str, Any]],
    size: float | Sequence[float] | None,
    clip: Sequence[float] | Sequence[Sequence[float] | None] | None,
    step: float = 8.0,
    from_weights: str | Path | None = None,
) -> FieldOfView:
    """Find the common field of view of scans without labels.

    The scans are first aligned with one of them: of a few, the one that the others resemble most. On average over the
    scans, the box then lies at the center of mass of the edges. In turn, the edges inside of the boxes are averaged,
    and each box moves to where its scan resembles the average most, until none moves any more. An average over scans
    that were not aligned may show two bodies at once, and the scans gather around either.

    Args:
        data: cases, each with `image`, one file or one for each channel.
        size: of the box in mm, one number or one for each axis; `None`: scans are taken whole, as suits those that were
            cropped alike.
        clip: lower and upper intensity, in the units of the scans, or such a pair for each channel; None: percentiles
            of each scan.
        step: size of a voxel of the template in mm.
        from_weights: file of pretrained weights, beside which a field of view is stored: it is taken over. `None`,
            `null` or `random`: fit.

    Raises:
        FileNotFoundError: when there is none beside the pretrained weights.
        ValueError: when there are no cases, they show nothing, or a number is out of range.
    """
    if has_weights(from_weights):
        field = load_field_of_view(str(from_weights))
        wanted = None if size is None else _check_size(size, step)
        if wanted != field.size:
            raise InputError(
                f"field_of_view must be that of the pretraining of {from_weights}, {field.size} mm, "
                f"got {size}; leave it out, or pretrain again with it"
            )
        return field
    if not data:
        raise InputError("data must hold at least one case, got none; look at dataset.json")
    if size is None:
        return FieldOfView(None)
    first: Any = clip[0] if clip and isinstance(clip[0], Sequence | None) else clip
    images = [_first_file(case["image"]) for case in data]
    return _align(images, _check_size(size, step), step, None if first is None else tuple(first))


def load_field_of_view(weights: str | Path) -> FieldOfView:
    """Read the field of view that `FieldOfView.save_beside` stored beside a file of weights.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when the file is damaged.
    """
    path = Path(weights).with_name(_FILE_NAME)
    if not path.is_file():
        raise MissingFileError(f"{path}: the field of view must lie beside the weights; train first")
    try:
        image: Any = nib.load(path)
        template = np.asarray(image.dataobj, dtype=np.float32)
        if template.size == 1:
            return FieldOfView(None)
        *size, low, high, similarity = map(float, bytes(image.header["descrip"].item()).decode().split())
        step = float(image.header.get_zooms()[0])
        is_clipped = not (math.isnan(low) and math.isnan(high))
        is_range = low < high or not is_clipped
        if template.ndim != 3 or len(size) != 3 or not (np.isfinite(template).all() and is_range and step > 0):
            raise InputError(f"shape {template.shape}, size {size}, clip {low} to {high}, step {step}")
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path}: must hold the field of view, got {error!r:.80}; train again") from None
    return FieldOfView(tuple(size), (low, high) if is_clipped else None, step, similarity, template)


def _to_nifti(field: FieldOfView) -> nib.Nifti1Image:
    """Return the template as an image around the origin, with the numbers in its description; one voxel for none."""
    template = np.zeros((1, 1, 1), np.float32) if field.template is None else field.template
    affine = np.diag([field.step] * 3 + [1.0])
    affine[:3, 3] = -field.step * (np.array(template.shape) - 1) / 2
    image = nib.Nifti1Image(template, affine)
    image.header.set_xyzt_units("mm")
    numbers = (*(field.size or ()), *(field.clip or (math.nan, math.nan)), field.similarity)
    image.header["descrip"] = " ".join(f"{number:.7g}" for number in numbers)
    return image


def _check_size(size: float | Sequence[float], step: float) -> tuple[float, ...]:
    if not isinstance(size, int | float) and len(size) != 3:
        raise InputError(f"field_of_view must be one length in mm or three, got {list(size)}")
    edges = tuple(float(edge) for edge in ensure_tuple_rep(size, 3))
    if min(edges) < 4 * step:
        raise InputError(f"field_of_view must be at least {4 * step:g} mm along each axis, got {size}")
    return edges


def _first_file(image: str | Sequence[str]) -> str:
    """Return the file of the first channel."""
    return image if isinstance(image, str) else image[0]


def _align(
    images: Sequence[str], size: tuple[float, ...], step: float, clip: tuple[float, float] | None
) -> FieldOfView:
    num_voxels = [round(edge / step) for edge in size]
    load = Compose([LoadVolume(), Orientation(axcodes="RAS", labels=None)])
    scans, steps = [], []
    for path in sorted(images)[:: math.ceil(len(images) / _MAX_SCANS)]:
        image = load(path)
        edges, coarse = _edges(image, image.pixdim.tolist(), step, clip)
        if edges.max() < _LEAST_EDGE:
            between = f" between {clip[0]:g} and {clip[1]:g}" if clip else ""
            raise InputError(f"{path}: image must have edges{between}, got none; is it in other units? look at clip")
        scans.append(_Scan(edges, num_voxels))
        steps.append(coarse)
    middles = np.array([center_of_mass(scan.edges) for scan in scans]) + 0.5
    centers = _align_with_one(scans, middles)
    centers += (middles - centers).mean(axis=0)
    for _ in range(_MAX_ROUNDS):
        crops = [_crop(scan.edges, center, num_voxels) for scan, center in zip(scans, centers, strict=True)]
        template = np.mean(crops, axis=0)
        places = [scan.match(template) for scan in scans]
        moved = np.array([center for center, _ in places])
        has_settled, centers = np.allclose(moved, centers, atol=0.5), moved
        if has_settled:
            break
    else:
        logger.warning(
            "field of view: boxes still move after %d round(s); look at %s, and choose another field_of_view where it "
            "shows no anatomy",
            _MAX_ROUNDS,
            _FILE_NAME,
        )
    similarities = [similarity for _, similarity in places]
    shift = (centers - middles) * np.array(steps)
    logger.info(
        "field of view: %s mm, in %d scans, found up to %s mm from the center of mass (standard deviation); "
        "correlation with the template %.2f to %.2f",
        " x ".join(f"{edge:g}" for edge in size),
        len(scans),
        " x ".join(f"{spread:.0f}" for spread in shift.std(axis=0)),
        min(similarities),
        max(similarities),
    )
    return FieldOfView(size, clip, step, float(np.median(similarities)), template.astype(np.float32))


def _align_with_one(scans: Sequence[_Scan], middles: np.ndarray) -> np.ndarray:
    """Return the boxes in all scans that resemble most that around the middle of one, the best of a few."""
    best, highest = middles, -np.inf
    for index in range(0, len(scans), math.ceil(len(scans) / _NUM_FIRST)):
        template = _crop(scans[index].edges, middles[index], scans[index].size.tolist())
        places = [scan.match(template) for scan in scans]
        similarity = float(np.mean([similarity for _, similarity in places]))
        if similarity > highest:
            best, highest = np.array([center for center, _ in places]), similarity
    return best


def _edges(
    image: torch.Tensor, spacing: Sequence[float], step: float, clip: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of the gradient of the first channel, 0 to 1 when clipped, on a coarse grid, and its steps."""
    volume = torch.as_tensor(np.asarray(image[:1]), dtype=torch.float32)
    low, high = intensity_range(volume.numpy()) if clip is None else clip
    volume = volume.nan_to_num(low)  # refused or replaced when the case is loaded
    volume = (volume.clamp(low, high) - low) / max(high - low, 1e-30)
    fine = np.array(volume.shape[1:])
    coarse = np.maximum(np.round(fine * np.array(spacing) / step), 1).astype(int)
    pooled = F.adaptive_avg_pool3d(volume[None], coarse.tolist())[0, 0].numpy()
    slopes = [np.gradient(pooled, axis=axis) for axis in range(3) if coarse[axis] > 1]
    edges = np.sqrt(np.sum(np.square(slopes), axis=0)) if slopes else np.zeros_like(pooled)
    return edges, fine * np.array(spacing) / coarse


def _crop(scan: np.ndarray, center: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the box around a center, which is in voxels from the outer corner; outside of the scan it is 0."""
    padded = np.pad(scan, [(edge, edge) for edge in size])
    starts = [round(place + edge / 2) for place, edge in zip(center, size, strict=True)]  # - edge / 2 + padding
    return padded[tuple(slice(start, start + edge) for start, edge in zip(starts, size, strict=True))]


class _Scan:
    """Edges of a scan, and what their correlation with any template of one size needs.

    Args:
        edges: of shape `(H, W, D)`.
        size: of the template in voxels.
    """

    def __init__(self, edges: np.ndarray, size: Sequence[int]) -> None:
        self.edges = edges
        self.size = np.array(size)
        self.padded = np.pad(edges, [(edge // 2, edge // 2) for edge in size])
        valid = tuple(slice(edge // 2, -((edge - 1) // 2) or None) for edge in size)
        mean, square = (uniform_filter(part, size, mode="constant")[valid] for part in (self.padded, self.padded**2))
        variances = square - mean**2
        is_empty = variances <= _FAINT * variances.max()
        self.norms = np.sqrt(np.where(is_empty, np.inf, variances) * np.prod(size))

    def match(self, template: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the center of the box that correlates most with a template, and its correlation."""
        pattern = template - template.mean()
        products = correlate(self.padded, pattern, mode="valid", method="fft")
        correlations = products / (np.linalg.norm(pattern) * self.norms)
        best = np.array(np.unravel_index(correlations.argmax(), correlations.shape))
        return best - self.size // 2 + self.size / 2, float(correlations.max())


class CropFieldOfViewd(MapTransform, InvertibleTransform):
    """Crop to where a scan shows the common field of view, and pad with the outermost voxels where it ends before.

    Args:
        keys: items to crop, of shape `(C, H, W, D)` in RAS orientation, with cubic voxels.
        field_of_view: its box is sought in `image`, in its own intensities; without a box, nothing is cropped.
    """

    def __init__(self, keys: KeysCollection, field_of_view: FieldOfView) -> None:
        super().__init__(keys)
        self.field_of_view = field_of_view
        self.padder = Pad()
        self.cropper = Crop()

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        out = dict(data)
        if self.field_of_view.size is None:
            return out
        image = out["image"]
        spacing = image.pixdim.tolist()
        place = self.field_of_view.locate(image, spacing)
        if place.similarity < _LEAST_SIMILARITY * self.field_of_view.similarity:
            logger.warning(
                "%s: looks unlike the scans of the training (correlation %.2f, there %.2f); the field of view may be "
                "in the wrong place",
                image.meta.get("filename_or_obj", "image"),
                place.similarity,
                self.field_of_view.similarity,
            )
        axes = [*zip(place.center, self.field_of_view.size, spacing, strict=True)]
        start = [round(center / step - edge / (2 * step)) for center, edge, step in axes]
        end = [low + max(round(edge / step), 1) for low, (_, edge, step) in zip(start, axes, strict=True)]
        before = [max(-low, 0) for low in start]
        after = [max(high - total, 0) for high, total in zip(end, image.shape[1:], strict=True)]
        inside = tuple(slice(low + extra, high + extra) for low, high, extra in zip(start, end, before, strict=True))
        for key in self.key_iterator(out):
            mode = "edge" if key == "image" else "constant"
            padded = self.padder(out[key], to_pad=[(0, 0), *zip(before, after, strict=True)], mode=mode)
            out[key] = self.cropper(padded, slices=inside)
        return out

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        """Put the box back in its place: what was cropped away is 0."""
        out = dict(data)
        if self.field_of_view.size is not None:
            for key in self.key_iterator(out):
                out[key] = self.padder.inverse(self.cropper.inverse(out[key]))
        return out
