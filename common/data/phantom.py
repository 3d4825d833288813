"""Abdomen-like CT phantoms, for trying everything without a download.

The anatomy is one table of ellipsoids in RAS millimeters; chance moves, scales, tilts, bends and recolors it. Organs
share their intensities with vessels, stomach and bowel, so that place and shape decide, not a threshold. A second
channel, as of a PET, may show what the CT does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from common.cli import InputError, check_choice

from .datalist import write_datalist
from .files import write_folder

__all__ = ["PHANTOM_LABELS", "PHANTOM_MODALITY", "draw_uptake", "make_phantom", "write_drawn", "write_phantoms"]

PHANTOM_LABELS = ("background", "liver", "spleen", "right kidney", "left kidney")

PHANTOM_MODALITY = ("CT", "PET")

Volumes = dict[str, np.ndarray]

AIR, GAS, LUNG, FAT, WATER, SOFT, MUSCLE = -1000.0, -900.0, -820.0, -100.0, 10.0, 40.0, 58.0  # HU


@dataclass(frozen=True)
class _Organ:
    """Ellipsoid: center and semi-axes in mm (right, anterior, superior), HU, label, and turn about the x axis."""

    center: Sequence[float] | np.ndarray
    axes: Sequence[float] | np.ndarray
    intensity: float
    label: int = 0
    tilt: float = 0.0  # degrees, the upper pole to the back
    enhances: bool = True  # its intensity above soft tissue follows the phase of the contrast medium
    has_gas: bool = False  # floating on its content


# painted in this order: the later covers the earlier
_ANATOMY = (
    _Organ((8, -22, 0), (11, 11, 400), 150),  # inferior vena cava, on the right
    _Organ((-10, -30, 0), (10, 10, 400), 190),  # aorta
    _Organ((-15, 8, 18), (42, 10, 13), 95),  # pancreas
    _Organ((-45, 28, 42), (34, 32, 40), 105, tilt=-15, has_gas=True),  # stomach, with diluted oral contrast
    _Organ((-77, -26, 48), (24, 35, 40), 120, label=2, tilt=20),
    _Organ((58, 6, 46), (55, 62, 52), 110, label=1, tilt=-10),
    _Organ((2, 38, 58), (52, 30, 24), 110, label=1),  # left lobe
    _Organ((42, 42, 8), (13, 17, 22), WATER, enhances=False),  # gallbladder
    _Organ((52, -42, -22), (24, 21, 46), 180, label=3, tilt=12),
    _Organ((-54, -40, -10), (24, 21, 46), 180, label=4, tilt=12),
    _Organ((46, -42, -22), (11, 10, 28), 125, label=3, tilt=12),  # medulla and pelvis
    _Organ((-48, -40, -10), (11, 10, 28), 125, label=4, tilt=12),
)

_PHASE, _NATIVE_PHASE = (0.75, 1.2), (0.0, 0.25)  # of the contrast medium, and without one
_NUM_BOWEL_LOOPS = 16
_HIDDEN = PHANTOM_LABELS.index("left kidney")  # in the CT of a phantom with two channels
_SHIFT = ((-10.0, 0.0, -60.0), (110.0, 75.0, 60.0))  # mm by which it is out of place, so that its place tells nothing


def make_phantom(
    seed: int, size: int = 64, num_channels: int = 1, native: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one phantom: another patient, on another grid, for every seed.

    With two channels, the left kidney lies anywhere in the abdomen and shows in the second one only: in the CT there is
    what surrounds it.

    Args:
        seed: the same one gives the same phantom.
        size: voxels along the longest axis, at least 16; the others have 7/8 and 3/4 of it. The field of view stays
            the same, so that 64 voxels are 3.6 to 4.9 mm wide.
        num_channels: 1, or 2 for those of `PHANTOM_MODALITY`.
        native: without contrast medium, so that organs hardly differ from what surrounds them.

    Returns:
        image: HU as int16, of three dimensions in any of the 48 orientations; two channels are stacked in front.
        label: values as in `PHANTOM_LABELS` as uint8, of the shape of a channel.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
    """
    if size < 16:
        raise InputError(f"size must be at least 16 voxels, got {size}")
    check_choice("num_channels", num_channels, (1, 2))
    random = np.random.RandomState(seed)
    shape = (size, size * 7 // 8, size * 3 // 4)
    in_plane, between = random.uniform(4.4, 4.9), random.uniform(3.6, 4.3)
    spacing = np.array([in_plane, in_plane, between]) * 64 / size

    second = np.random.RandomState([seed, 2])  # not the draws of the first channel
    shift = second.uniform(*_SHIFT) if num_channels == 2 else None
    phase = _NATIVE_PHASE if native else _PHASE
    image, label = _paint(random, *_make_coordinates(random, shape, spacing), shift, phase)
    image = gaussian_filter(image, 0.5)  # partial volume
    image += 6 * _smooth_noise(random, shape, 10 / spacing) + 14 * _smooth_noise(random, shape, (0.6, 0.6, 0.6))
    image = np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2 + random.uniform(-30, 30, 3)
    flips = [ends[random.randint(2)] for ends in ("RL", "AP", "SI")]
    orientation = axcodes2ornt([flips[axis] for axis in random.permutation(3)])
    forward = nib.orientations.ornt_transform(axcodes2ornt("RAS"), orientation)
    image, label = (np.ascontiguousarray(apply_orientation(volume, forward)) for volume in (image, label))
    if num_channels == 2:
        image = np.stack([image, draw_uptake(second, image, label == _HIDDEN)])
    return image, label, affine @ inv_ornt_aff(forward, shape)


def draw_uptake(random: np.random.RandomState, image: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """Draw a second channel in which a part of the body lights up and nothing else shows.

    Args:
        random: source of all chance.
        image: HU of shape `(H, W, D)`.
        hot: mask of the part, of the same shape.

    Returns:
        Uptake in any units, of about 20 in the body and 100 in that part, as int16.
    """
    uptake = gaussian_filter(20.0 * (image > -300) + 80.0 * hot, 0.5)  # partial volume
    uptake += 6 * _smooth_noise(random, image.shape, (0.6, 0.6, 0.6))
    return np.clip(np.rint(uptake), 0, None).astype(np.int16)


def write_phantoms(
    output_dir: str | Path,
    num_training: int = 12,
    num_test: int = 4,
    num_unlabeled: int = 16,
    size: int = 64,
    seed: int = 0,
    num_channels: int = 1,
    native: bool = False,
) -> Path:
    """Write a data set of phantoms with its `dataset.json`, as a whole or not at all.

    Args:
        output_dir: folder to make; it may exist when it is empty.
        num_training: cases with labels.
        num_test: cases with labels.
        num_unlabeled: images only.
        size: voxels along the longest axis.
        seed: data sets of different seeds share no phantom.
        num_channels: see `make_phantom`; several are in a file each.
        native: see `make_phantom`.
    """
    counts = {"Tr": num_training, "Ts": num_test, "Un": num_unlabeled}

    def draw(split: str, index: int) -> tuple[Volumes, np.ndarray]:
        image, label, affine = make_phantom(seed * 100_000 + index, size, num_channels, native)
        return ({"image": image} if split == "Un" else {"image": image, "label": label}), affine

    medium = " without contrast medium" if native else ""
    description = f"Synthetic abdomen-like CT{medium}, for trials; no patient's data."
    modality = PHANTOM_MODALITY[:num_channels]
    return write_drawn(output_dir, counts, seed, draw, "phantoms", description, PHANTOM_LABELS, modality)


def write_drawn(
    output_dir: str | Path,
    counts: Mapping[str, int],
    seed: int,
    draw: Callable[[str, int], tuple[Volumes, np.ndarray]],
    name: str,
    description: str,
    labels: Sequence[str],
    modality: Sequence[str] = PHANTOM_MODALITY[:1],
) -> Path:
    """Write a data set of drawn volumes with its `dataset.json`, as a whole or not at all.

    The channels of an image are in a file each, `..._0000` and so on, when there are several.

    Args:
        output_dir: folder to make; it may exist when it is empty.
        counts: cases of `Tr` (training), `Ts` (test), `Un` (unlabeled) and, if there are any, `No` (normal).
        seed: 0 or more.
        draw: called with one of these and the index of the case; returns volumes by key, such as `image`, and their
            affine.
        name: of the data set.
        description: of the data set, in a sentence.
        labels: names of the classes in the order of their values.
        modality: name of each channel of an image.
    """
    if min(*counts.values(), seed) < 0:
        raise InputError(f"counts and seed must be 0 or more, got {[*counts.values(), seed]}")

    def write(root: Path) -> None:
        listed: dict[str, list[dict[str, Any]]] = {split: [] for split in counts}
        for index, split in enumerate(split for split, count in counts.items() for _ in range(count)):
            volumes, affine = draw(split, index)
            case: dict[str, Any] = {}
            for key, volume in volumes.items():
                stem = f"{'organs' if key == 'organ' else f'{key}s{split}'}/phantom_{index:03d}"
                channels = volume if volume.ndim == 4 else [volume]
                suffixes = [f"_{channel:04d}" for channel in range(len(volume))] if volume.ndim == 4 else [""]
                files = [f"{stem}{suffix}.nii.gz" for suffix in suffixes]
                for file, channel in zip(files, channels, strict=True):
                    _save(channel, affine, root / file)
                case[key] = files if volume.ndim == 4 else files[0]
            listed[split].append(case)
        names = {"Tr": "training", "Ts": "test", "Un": "unlabeled", "No": "normal"}
        lists = {
            names[split]: [
                case["image"] if list(case) == ["image"] and isinstance(case["image"], str) else case for case in cases
            ]
            for split, cases in listed.items()
        }
        by_value, by_channel = ({str(key): text for key, text in enumerate(texts)} for texts in (labels, modality))
        whole = {"name": name, "description": description, "modality": by_channel, "labels": by_value}
        write_datalist(root, {**whole, **lists})

    return write_folder(output_dir, write)


def _save(volume: np.ndarray, affine: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _make_coordinates(
    random: np.random.RandomState, shape: Sequence[int], spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of every voxel in the world and in the upright anatomy, both `(3, W, D, H)` in RAS mm."""
    axes = [step * (np.arange(count) - (count - 1) / 2) for count, step in zip(shape, spacing, strict=True)]
    world = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    rotation = _rotate(*np.radians(random.uniform(-6, 6, 3)))
    bend = np.stack([6 * _smooth_noise(random, shape, 32 / spacing) for _ in range(3)])
    return world, np.tensordot(rotation, world, axes=1) + bend


def _paint(
    random: np.random.RandomState,
    world: np.ndarray,
    place: np.ndarray,
    shift: np.ndarray | None,
    phases: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities in HU and labels, without blur and noise; with a shift in mm, `_HIDDEN` is a label only."""
    shape = world.shape[1:]
    semi_axes = np.array([random.uniform(122, 136), random.uniform(88, 98), np.inf])
    growth = semi_axes[:2].mean() / 111
    fat_mm = random.uniform(8, 18)
    x, y, z = place
    body = np.linalg.norm(place[:2] / semi_axes[:2, None, None, None], axis=0)  # 1 on the skin
    depth = (1 - body) * 105  # about mm below the skin

    image = np.full(shape, AIR, np.float32)
    label = np.zeros(shape, np.uint8)
    image[np.abs(world[1] + semi_axes[1] + 14) < 5] = -150  # table
    image[depth > 0] = FAT
    image[depth > fat_mm] = MUSCLE
    wall_mm = fat_mm + 14
    cavity = depth > wall_mm
    image[cavity] = np.where(_smooth_noise(random, shape, (2, 2, 2)) > 0.3, SOFT, FAT)[cavity]
    muscles = np.hypot((np.abs(x) - 36) / 24, (y + 62) / 18) < 1
    image[muscles] = MUSCLE

    phase = random.uniform(*phases)
    for loop in _draw_bowel(random):
        inside = _is_inside(loop, place) & cavity
        image[inside] = loop.intensity
    for organ in _ANATOMY:
        drawn = _vary(random, organ, phase, growth)
        if shift is not None and organ.label == _HIDDEN:
            label[_is_inside(replace(drawn, center=np.add(drawn.center, shift)), place) & cavity] = _HIDDEN
            continue
        inside = _is_inside(drawn, place) & cavity
        image[inside], label[inside] = drawn.intensity, drawn.label
        if organ.has_gas:
            image[inside & (y > drawn.center[1] + random.uniform(2, 16))] = GAS

    lungs = cavity & (z > random.uniform(84, 92) - 0.006 * ((np.abs(x) - 55) ** 2 + y**2)) & (np.abs(x) > 14)
    image[lungs], label[lungs] = LUNG, 0
    for bone, intensity in _draw_bones(random, place, depth, wall_mm):
        image[bone], label[bone] = intensity, 0
    return image, label


def _vary(random: np.random.RandomState, organ: _Organ, phase: float, growth: float) -> _Organ:
    """Return an organ as another patient has it."""
    enhancement = (organ.intensity - SOFT) * (phase if organ.enhances else 1.0)
    return replace(
        organ,
        center=growth * np.array(organ.center) + random.normal(0, 3.5, 3),
        axes=growth * np.array(organ.axes) * random.uniform(0.86, 1.14, 3),
        intensity=SOFT + enhancement + random.normal(0, 8),
        tilt=organ.tilt + random.normal(0, 6),
    )


def _draw_bowel(random: np.random.RandomState) -> list[_Organ]:
    """Return loops of bowel in the lower and anterior abdomen, with fluid, contrast medium or gas in them."""
    contents = random.choice([30.0, 60.0, 115.0, 170.0, 240.0, GAS], _NUM_BOWEL_LOOPS)
    low, high = (-85, -10, -95), (85, 65, 5)
    return [
        _Organ(random.uniform(low, high), random.uniform(9, 22, 3), content, tilt=random.uniform(-60, 60))
        for content in contents
    ]


def _is_inside(organ: _Organ, place: np.ndarray) -> np.ndarray:
    offset = place - np.reshape(organ.center, (3, 1, 1, 1)).astype(np.float32)
    turned = np.tensordot(_rotate(np.radians(organ.tilt), 0, 0), offset, axes=1)
    return np.square(turned / np.reshape(organ.axes, (3, 1, 1, 1)).astype(np.float32)).sum(axis=0) < 1


def _draw_bones(
    random: np.random.RandomState, place: np.ndarray, depth: np.ndarray, wall_mm: float
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield where bones and what lies between them are, and their intensity, in the order of painting."""
    x, y, z = place
    density = random.uniform(0.8, 1.2)
    period, first = random.uniform(31, 36), random.uniform(0, 30)  # mm from one vertebra to the next

    slope = z + 0.45 * y  # ribs run down towards the front
    ribs = (np.abs(depth - wall_mm + 4) < 5) & ((slope + first) % 24 < 8) & (z > 5) & (np.abs(x) > 30)
    yield ribs, 420 * density

    vertebra = np.hypot(x / 21, (y + 58) / 17)
    is_disc = (z + first) % period < 6
    yield vertebra < 1, 480 * density  # cortex
    yield (vertebra < 0.8), 230 * density  # spongy bone
    yield (vertebra < 1) & is_disc, 85.0
    arch = np.hypot(x / 15, (y + 82) / 13) < 1
    processes = (np.abs(y + 80) < 5) & (np.abs(x) < 34) | (np.abs(x) < 4) & (y < -82) & (depth > 12)
    yield (arch | processes & (y > -104)) & ~is_disc, 450 * density
    yield np.hypot(x / 9, (y + 82) / 8) < 1, 25.0  # spinal canal


def _smooth_noise(
    random: np.random.RandomState, shape: Sequence[int], sigma: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return a random field of mean 0 and standard deviation 1, smooth over `sigma` voxels."""
    field = gaussian_filter(random.standard_normal(shape).astype(np.float32), sigma, mode="wrap", truncate=3)
    return (field - field.mean()) / field.std()


def _rotate(around_x: float, around_y: float, around_z: float) -> np.ndarray:
    """Return the rotation by three angles in radians, as `(3, 3)`."""
    return Rotation.from_euler("xyz", (around_x, around_y, around_z)).as_matrix().astype(np.float32)
