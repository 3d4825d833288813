"""Phantoms with lesions in the liver, for trying the segmentation of tumors without a download.

A lesion is a thresholded sum of Gaussian blobs with a rim, at times a necrotic core, and a border that fades. Nothing
here is shared with the simulator of tumors that the networks learn from, so that finding these lesions is no proof of
having learned the simulator by heart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from common.cli import check_choice

from .phantom import PHANTOM_LABELS, PHANTOM_MODALITY, WATER, Volumes, draw_uptake, make_phantom, write_drawn

__all__ = ["LESION_LABELS", "make_lesion_phantom", "write_lesion_phantoms"]

LESION_LABELS = ("background", "tumor")

_LIVER = PHANTOM_LABELS.index("liver")
_RADIUS_MM = (9.0, 20.0)
_CONTRAST = (35.0, 70.0)  # HU that a lesion is darker or brighter than the liver
_LEVEL = 0.5  # of the sum of blobs, at the border
_CORE = 1.15  # of the sum of blobs, at the border of a necrotic core


def make_lesion_phantom(
    seed: int, size: int = 64, num_channels: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw one phantom with one to three lesions in its liver; but for them it is the one of `make_phantom`.

    With two channels, the lesions show in the second one only.

    Args:
        seed: the same one gives the same phantom.
        size: voxels along the longest axis, see `make_phantom`.
        num_channels: 1, or 2 for those of `PHANTOM_MODALITY`.

    Returns:
        image: HU as int16, of three dimensions in any of the 48 orientations; two channels are stacked in front.
        label: values as in `LESION_LABELS` as uint8, of the shape of a channel.
        organ: 1 inside the liver, lesions included, as uint8, of the same shape.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
    """
    check_choice("num_channels", num_channels, (1, 2))
    image, anatomy, affine = make_phantom(seed, size)
    organ = anatomy == _LIVER
    random = np.random.RandomState([seed, 1])  # not the draws of the phantom
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    liver_intensity = float(np.median(image[organ]))

    painted, label = image.astype(np.float32), np.zeros(image.shape, bool)
    for _ in range(random.randint(1, 4)):
        field = _draw_blobs(random, organ & ~label, spacing)
        opacity = gaussian_filter(np.clip(2.5 * (field - _LEVEL) + 0.5, 0, 1), 0.4) * organ
        painted += opacity * _draw_contrast(random, field, liver_intensity)
        label |= (field > _LEVEL) & organ
    painted = np.clip(np.rint(painted), -1024, 3071).astype(np.int16)
    if num_channels == 2:
        painted = np.stack([image, draw_uptake(np.random.RandomState([seed, 2]), image, label)])
    return painted, label.astype(np.uint8), organ.astype(np.uint8), affine


def write_lesion_phantoms(
    output_dir: str | Path,
    num_training: int = 12,
    num_test: int = 4,
    num_unlabeled: int = 16,
    num_normal: int = 16,
    size: int = 64,
    seed: int = 0,
    num_channels: int = 1,
) -> Path:
    """Write a data set of phantoms with lesions, and of `num_normal` without, see `write_phantoms`.

    Every case has the liver as its organ; those for training and test have labels.
    """
    counts = {"Tr": num_training, "Ts": num_test, "Un": num_unlabeled, "No": num_normal}

    def draw(split: str, index: int) -> tuple[Volumes, np.ndarray]:
        if split == "No":
            image, anatomy, affine = make_phantom(seed * 100_000 + index, size)
            if num_channels == 2:
                random = np.random.RandomState([seed * 100_000 + index, 2])
                image = np.stack([image, draw_uptake(random, image, np.zeros(image.shape, bool))])
            return {"image": image, "organ": (anatomy == _LIVER).astype(np.uint8)}, affine
        image, label, organ, affine = make_lesion_phantom(seed * 100_000 + index, size, num_channels)
        return {"image": image, **({"label": label} if split in ("Tr", "Ts") else {}), "organ": organ}, affine

    description = "Synthetic abdomen-like CT with lesions of the liver, for trials; no patient's data."
    modality = PHANTOM_MODALITY[:num_channels]
    return write_drawn(output_dir, counts, seed, draw, "lesion_phantoms", description, LESION_LABELS, modality)


def _draw_blobs(random: np.random.RandomState, room: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return a sum of Gaussian blobs around a voxel of `room`, above 1 there and near 0 far away."""
    radius = max(random.uniform(*_RADIUS_MM), 1.1 * spacing.max())  # mm
    depth = distance_transform_edt(room, sampling=spacing)
    centers = np.argwhere(depth >= min(0.8 * radius, depth.max()))
    center = centers[random.randint(len(centers))] * spacing
    offsets = [np.zeros(3), *(random.normal(0, 0.55 * radius, 3) for _ in range(random.randint(2, 6)))]
    axes = [step * np.arange(count) for count, step in zip(room.shape, spacing, strict=True)]
    field = np.zeros(room.shape, np.float32)
    for number, offset in enumerate(offsets):
        width = radius * (0.7 if number == 0 else random.uniform(0.3, 0.55))
        bells = [
            np.exp(-0.5 * ((axis - place) / width) ** 2) for axis, place in zip(axes, center + offset, strict=True)
        ]
        field += np.einsum("i,j,k->ijk", *bells).astype(np.float32)
    return field


def _draw_contrast(random: np.random.RandomState, field: np.ndarray, liver_intensity: float) -> np.ndarray:
    """Return how many HU each voxel of a lesion differs from the liver."""
    is_dark, is_necrotic = random.uniform(size=2) < (0.7, 0.5)
    contrast = random.uniform(*_CONTRAST) * (-1 if is_dark else 1)
    rim = random.uniform(0.5, 1.0)  # of the contrast
    inward = np.clip((field - _LEVEL) / (_CORE - _LEVEL), 0, 1)  # 0 at the border, 1 from the core on
    values = contrast * (rim + (1 - rim) * inward)
    if is_necrotic:
        values += (random.uniform(0.3, 0.8) * (WATER - liver_intensity) - contrast) * (field > _CORE)
    return values
