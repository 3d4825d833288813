"""Random shifts, rotations, scalings, mirroring and contrasts of a patch, at all resolutions alike.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923), which has neither mirroring nor contrasts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import create_rotate

from common.data import exchange_classes, lopsided_classes, mirrored_classes

from .network import FNetGeometry
from .pyramid import Pyramid

__all__ = ["PatchAugmentation"]

logger = logging.getLogger(__name__)


class PatchAugmentation:
    """Random affine sampling grid, through which the patches of all levels and the label are read alike; and contrast.

    Each level is read from its own means, so a coarse patch shows what lies around the fine one. Image values are
    interpolated linearly, labels take the nearest voxel.

    Args:
        shift_range: largest shift along each axis in voxels.
        rotate_range: largest angle about each axis in degrees.
        log_scale_range: largest logarithm of the scale.
        mirror: names of the classes by their value: where they tell sides, half of the patches show left and right in
            each other's place, and the classes follow (see `common.data.mirrored_classes`), unless another class lies
            on one side, as a liver does. The first axis of a volume runs from side to side. None: no patch is mirrored.
        log_contrast_range: largest logarithm of the factor of the intensities, of each channel its own.
        brightness_range: largest number that is added to them, those of a normalized scan, likewise.
    """

    def __init__(
        self,
        shift_range: float = 10.0,
        rotate_range: float = 15.0,
        log_scale_range: float = 0.2,
        mirror: Mapping[int, str] | None = None,
        log_contrast_range: float = 0.2,
        brightness_range: float = 0.2,
    ) -> None:
        self.shift_range = shift_range
        self.rotate_range = rotate_range
        self.log_scale_range = log_scale_range
        self.mirrored = mirrored_classes(mirror) if mirror is not None else {}
        self.log_contrast_range = log_contrast_range
        self.brightness_range = brightness_range

    def look_at(self, places: Sequence[Mapping[int, float]], labels: Mapping[int, str]) -> None:
        """Mirror nothing where a class whose name tells no side lies on one all the same.

        Args:
            places: of each labeled scan, the centers of its classes along the first axis.
            labels: names of the classes by their value.
        """
        lopsided = lopsided_classes(places, self.mirrored)
        if lopsided:
            names = " and ".join(labels[value] for value in lopsided)
            logger.info("%s on one side of the middle: patches are not mirrored", names)
            self.mirrored = {}

    def __call__(
        self,
        pyramid: Pyramid,
        label: torch.Tensor | None,
        start: Sequence[int],
        patch_size: Sequence[int],
        geometry: FNetGeometry,
        rng: np.random.Generator,
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Return the input patch of each level and the label patch.

        Args:
            pyramid: means at every voxel of a volume of shape `(C, H, W, D)`.
            label: map of shape `(1 or 2, H, W, D)`.
            start: first voxel of the output patch.
            patch_size: output patch in voxels.
            geometry: of the network.
            rng: source of all chance.
        """
        matrix = self._draw_matrix(rng)
        is_mirrored = bool(self.mirrored) and rng.random() < 0.5
        if is_mirrored:
            matrix = matrix * torch.tensor((-1.0, 1.0, 1.0))
        center = torch.tensor([first + (edge - 1) / 2 for first, edge in zip(start, patch_size, strict=True)])
        moved = center + torch.as_tensor(rng.uniform(-self.shift_range, self.shift_range, 3), dtype=torch.float32)
        patches = []
        for level, (margin, size) in enumerate(zip(geometry.margins, geometry.input_sizes(patch_size), strict=True)):
            step = 2**level
            middle = (step - 1) / 2  # of a block, from its first voxel
            points = _grid([first - margin + middle for first in start], size, step)
            points = (points - center) @ matrix.T + moved - middle - pyramid.origins[level]
            fill = pyramid.fill
            patches.append(_read(pyramid.levels[level][...] - fill, points, "bilinear") + fill)
        patches = self._vary(patches, rng)
        if label is None:
            return patches, None
        points = (_grid(start, patch_size, 1) - center) @ matrix.T + moved
        read = _read(label[...].float(), points, "nearest").to(label.dtype)
        return patches, exchange_classes(read, self.mirrored) if is_mirrored else read

    def _draw_matrix(self, rng: np.random.Generator) -> torch.Tensor:
        limit = math.radians(self.rotate_range)
        scale = math.exp(rng.uniform(-self.log_scale_range, self.log_scale_range))
        x, y, z = rng.uniform(-limit, limit, 3)
        return torch.as_tensor(scale * create_rotate(3, (x, -y, z))[:3, :3], dtype=torch.float32)

    def _vary(self, patches: Sequence[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
        """Return patches of shape `(C, H, W, D)` of one place with another contrast and brightness, all alike."""
        ranges = np.array([(self.log_contrast_range,), (self.brightness_range,)])
        drawn = torch.as_tensor(rng.uniform(-ranges, ranges, (2, len(patches[0])))).float()
        log_contrast, brightness = drawn.view(2, -1, 1, 1, 1)
        return [log_contrast.exp() * patch + brightness for patch in patches]


def _grid(start: Sequence[float], size: Sequence[int], step: int) -> torch.Tensor:
    """Return the voxel coordinates of a regular grid, of shape `(*size, 3)`."""
    axes = [first + step * torch.arange(length) for first, length in zip(start, size, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()


def _read(volume: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Return the values of a volume of shape `(C, H, W, D)` at voxel coordinates; beyond the border it is zero."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32)
    normalized = (2 * points + 1) / size - 1  # as grid_sample counts without align_corners
    patch = F.grid_sample(volume[None], normalized[None].flip(-1), mode=mode, padding_mode="zeros", align_corners=False)
    return patch[0]
