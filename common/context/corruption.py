"""Pretext tasks context prediction and context restoration: patches of an image are emptied, or swapped in pairs.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform

from common.cli import InputError, check_choice, check_each
from common.cli.options import POSITIVE_INT

__all__ = [
    "InpaintingTask",
    "RandContextCorruption",
    "RandContextPrediction",
    "RandContextRestoration",
    "draw_poisson_places",
    "draw_uniform_places",
]


def draw_poisson_places(
    R: np.random.RandomState, spatial_size: Sequence[int], patch_size: int, is_paired: bool
) -> np.ndarray:
    """Draw disjoint patches on a quarter of an image, no two closer than `patch_size * sqrt(2)`.

    There are `H * W / (4 * patch_size^2)` patches, rounded down to a whole number, and to an even one for pairs. They
    cover exactly a quarter of the image where that number needs no rounding, and else less.

    Args:
        R: source of all chance.
        spatial_size: height and width of the image in pixels.
        patch_size: edge of the square patches in pixels.
        is_paired: patches come in pairs.

    Returns:
        First row and first column of each patch, of shape `(num_patches, 2)`.

    Raises:
        ValueError: when a quarter of the image has no room for one patch, or for a pair.
    """
    num_patches = math.prod(spatial_size) // (4 * patch_size**2)
    if is_paired:
        num_patches -= num_patches % 2
    if num_patches == 0 or patch_size > min(spatial_size):
        needed = "two patches" if is_paired else "a patch"
        raise InputError(
            f"patch_size must let {needed} fit into a quarter of the image, got {patch_size} for "
            f"{tuple(spatial_size)}; lower patch_size"
        )
    places = _throw_darts(R, spatial_size, patch_size, num_patches)
    if places is None:  # not seen in 20,000 draws for images of many sizes, but not proven impossible
        places = _draw_from_checkerboard(R, spatial_size, patch_size, num_patches)
    return places


def draw_uniform_places(
    R: np.random.RandomState, spatial_size: Sequence[int], patch_size: int, is_paired: bool
) -> np.ndarray:
    """Draw patches that lie anywhere, until they cover at least a quarter of an image together.

    Patches may overlap, but the two of a pair do not.

    Args:
        R: source of all chance.
        spatial_size: height and width of the image in pixels.
        patch_size: edge of the square patches in pixels.
        is_paired: patches come in pairs, one after the other.

    Returns:
        First row and first column of each patch, of shape `(num_patches, 2)`.

    Raises:
        ValueError: when the image has no room for a patch, or for two that are disjoint.
    """
    if patch_size > min(spatial_size) or (is_paired and 2 * patch_size > max(spatial_size)):
        needed = "two disjoint patches" if is_paired else "a patch"
        raise InputError(
            f"patch_size must leave room for {needed}, got {patch_size} for {tuple(spatial_size)}; lower patch_size"
        )
    is_covered = np.zeros(tuple(spatial_size), dtype=bool)
    missing = math.prod(spatial_size) / 4
    places: list[tuple[int, int]] = []
    for group in _uniform_groups(R, spatial_size, patch_size, 2 if is_paired else 1):
        for row, column in group:
            patch = is_covered[row : row + patch_size, column : column + patch_size]
            missing -= patch_size**2 - np.count_nonzero(patch)
            patch[:] = True
            places.append((row, column))
        if missing <= 0:
            break
    return np.array(places)


_SAMPLERS: dict[str, Callable[..., np.ndarray]] = {"poisson": draw_poisson_places, "uniform": draw_uniform_places}


class RandContextCorruption(RandomizableTransform):
    """Corruption of patches at random places, the same ones in every channel.

    Args:
        patch_size: edge of the square patches in pixels.
        sampling: how their places are drawn: `poisson` or `uniform`, see `draw_poisson_places` and
            `draw_uniform_places`.
        prob: probability of corrupting an image.
    """

    is_paired = False

    def __init__(self, patch_size: int = 32, sampling: str = "poisson", prob: float = 1.0) -> None:
        super().__init__(prob)
        check_each(POSITIVE_INT, patch_size=patch_size)
        check_choice("sampling", sampling, _SAMPLERS)
        self.patch_size = patch_size
        self.sampling = sampling
        self.spatial_size: tuple[int, ...] = ()
        self.places = np.empty((0, 2), dtype=int)

    def randomize(self, spatial_size: Sequence[int]) -> None:  # type: ignore[override]
        """Draw the places of the patches, `places`, for an image of `(H, W)` pixels."""
        super().randomize(None)
        self.spatial_size = tuple(spatial_size)
        if len(self.spatial_size) != 2:
            raise InputError(f"image must have 2 spatial axes, got {self.spatial_size}")
        self.places = _SAMPLERS[self.sampling](self.R, self.spatial_size, self.patch_size, self.is_paired)

    def __call__(self, img: torch.Tensor, randomize: bool = True) -> torch.Tensor:
        """Return a corrupted copy of an image of shape `(C, H, W)`."""
        if randomize:
            self.randomize(img.shape[1:])
        if tuple(img.shape[1:]) != self.spatial_size:
            raise InputError(f"image must have the drawn size {self.spatial_size}, got {tuple(img.shape[1:])}")
        return self._corrupt(img.unsqueeze(0), torch.from_numpy(self._plan()).unsqueeze(0)).squeeze(0)

    def corrupt_batch(self, images: torch.Tensor, seeds: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Return corrupted copies of images: each one as if it had been alone and this transform had had its seed.

        The places are drawn on the CPU; all images are corrupted at once, on the device where they are.

        Args:
            images: tensor of shape `(B, C, H, W)`.
            seeds: a whole number for each image.
        """
        if len(seeds) != len(images):
            raise InputError(f"seeds must be one for each of {len(images)} images, got {len(seeds)}")
        plans = []
        for seed in seeds:
            self.set_random_state(int(seed))
            self.randomize(images.shape[2:])
            plans.append(self._plan())
        return self._corrupt(images, torch.from_numpy(np.stack(plans)).to(images.device))

    def _plan(self) -> np.ndarray:
        """Return what happens to each pixel, of shape `(H, W)`, as `_corrupt` takes it."""
        raise NotImplementedError

    def _corrupt(self, images: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        """Return corrupted copies of images of shape `(B, C, H, W)`, by plans of shape `(B, H, W)`."""
        raise NotImplementedError


class RandContextPrediction(RandContextCorruption):
    """Set random patches to 0, which is the mean of a normalized image: the network shall predict what was there.

    With `poisson`, exactly a quarter of the image is emptied, where whole patches make up a quarter, in disjoint
    patches at a distance; with `uniform`, at least a quarter. Arguments are those of `RandContextCorruption`.
    """

    def _plan(self) -> np.ndarray:
        is_empty = np.zeros(self.spatial_size, dtype=bool)
        for row, column in self.places.tolist() if self._do_transform else []:
            is_empty[row : row + self.patch_size, column : column + self.patch_size] = True
        return is_empty

    def _corrupt(self, images: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        return images.masked_fill(plans.unsqueeze(1), 0)


class RandContextRestoration(RandContextCorruption):
    """Swap random pairs of disjoint patches, one pair after the other: the network shall put them back.

    Every intensity survives, only its place changes. With `poisson`, exactly a quarter of the image is swapped, where
    an even number of patches makes up a quarter; all patches are disjoint, and doing the same swaps again restores the
    image. With `uniform`, at least a quarter is swapped; pairs may overlap, and the swaps in reverse order,
    `places[::-1]`, restore the image. Arguments are those of `RandContextCorruption`.
    """

    is_paired = True

    def _plan(self) -> np.ndarray:
        source = np.arange(math.prod(self.spatial_size), dtype=np.int32).reshape(self.spatial_size)
        edge = self.patch_size
        pairs = self.places.reshape(-1, 2, 2).tolist() if self._do_transform else []
        for (row, column), (other_row, other_column) in pairs:
            first = source[row : row + edge, column : column + edge]
            second = source[other_row : other_row + edge, other_column : other_column + edge]
            first[:], second[:] = second.copy(), first.copy()
        return source

    def _corrupt(self, images: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        source = plans.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1).long()
        return images.flatten(2).gather(2, source).view(images.shape)


class InpaintingTask:
    """Pretext task of context prediction and restoration: an image, shown with corrupted patches.

    A batch has `image`, of shape `(B, C, H, W)`, and `seed`, a whole number for each image. All chance of a corruption
    is in its seed: where seeds depend on the epoch and the iteration alone, a resumed training goes on with the same
    patches, and a validation with fixed seeds always has the same ones.
    """

    def __init__(self, corruption: RandContextCorruption) -> None:
        self.corruption = corruption

    def make_batch(
        self, batch: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the corrupted images and the images."""
        target = move(batch["image"])
        return self.corruption.corrupt_batch(target, batch["seed"]), target


def _throw_darts(
    R: np.random.RandomState, spatial_size: Sequence[int], patch_size: int, num_patches: int
) -> np.ndarray | None:
    """Draw places one after the other, each uniformly from those still open; nothing when they run out."""
    height, width = (edge - patch_size + 1 for edge in spatial_size)
    disc = _disc(patch_size)
    radius = len(disc) // 2
    closed = np.zeros((height + 2 * radius, width + 2 * radius), dtype=bool)  # with a rim, so that no disc is cut
    is_closed = closed[radius : radius + height, radius : radius + width]
    places: list[tuple[int, int]] = []
    darts = R.randint(height * width, size=4 * num_patches)  # about as many as it takes
    while len(darts):
        for row, column in zip(*(axis.tolist() for axis in np.divmod(darts, width)), strict=True):
            if is_closed[row, column]:
                continue
            places.append((row, column))
            if len(places) == num_patches:
                return np.array(places)
            closed[row : row + len(disc), column : column + len(disc)] |= disc
        still_open = np.flatnonzero(~is_closed)
        darts = R.choice(still_open, size=4 * num_patches) if len(still_open) else still_open
    return None


def _draw_from_checkerboard(
    R: np.random.RandomState, spatial_size: Sequence[int], patch_size: int, num_patches: int
) -> np.ndarray:
    """Draw places among the black fields of a checkerboard of patches, which touch at their corners.

    There are always enough. A board of `a x b` fields has `ceil(a * b / 2)` black ones, and the image has less than
    `(a + 1) * (b + 1)` fields, a quarter of which is asked for, rounded down. From 3 x 3 fields on, `(a + 1) * (b + 1)
    / 4` is at most `a * b / 2`. With a = 1, it is `(b + 1) / 2`, and the next whole number below is at most
    `ceil(b / 2)`; with a = 2 and b > 1, `3 * (b + 1) / 4` is at most b, or, for b = 2, rounded down to 2.
    """
    rows, columns = (edge // patch_size for edge in spatial_size)
    fields = np.argwhere(np.add.outer(np.arange(rows), np.arange(columns)) % 2 == 0)
    shift = [R.randint(edge % patch_size + 1) for edge in spatial_size]
    return fields[R.permutation(len(fields))[:num_patches]] * patch_size + shift


@lru_cache
def _disc(patch_size: int) -> np.ndarray:
    """Return which places are closer than `patch_size * sqrt(2)` to the one in the middle."""
    radius = math.isqrt(2 * patch_size**2 - 1)
    squares = np.arange(-radius, radius + 1) ** 2
    return np.add.outer(squares, squares) < 2 * patch_size**2


def _uniform_groups(
    R: np.random.RandomState, spatial_size: Sequence[int], patch_size: int, group_size: int
) -> Iterator[list[list[int]]]:
    """Yield places one by one, or in pairs of disjoint patches, without end."""
    room = [edge - patch_size + 1 for edge in spatial_size]
    num_groups = 64 + math.prod(spatial_size) // (4 * patch_size**2)  # few pairs are disjoint in a small image
    while True:
        groups = R.randint(room, size=(num_groups, group_size, 2))
        if group_size == 2:
            groups = groups[np.abs(groups[:, 0] - groups[:, 1]).max(axis=1) >= patch_size]
        yield from groups.tolist()
