"""Random shifts, rotations, scalings, mirroring and contrasts of a patch, at all resolutions alike.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923), which has neither mirroring nor contrasts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.transforms import AffineAugmentation, read_points, regular_grid

from .network import FNetGeometry
from .pyramid import Pyramid

__all__ = ["PatchAugmentation"]


class PatchAugmentation(AffineAugmentation):
    """Random affine sampling grid, through which the patches of all levels and the label are read alike; and contrast.

    Each level is read from its own means, so a coarse patch shows what lies around the fine one. Image values are
    interpolated linearly, labels take the nearest voxel. For the arguments, see `AffineAugmentation`.
    """

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
        movement = self.draw(rng, start, patch_size)
        patches = []
        for level, (margin, size) in enumerate(zip(geometry.margins, geometry.input_sizes(patch_size), strict=True)):
            middle = (2**level - 1) / 2  # of a block, from its first voxel
            points = movement(regular_grid([first - margin + middle for first in start], size, 2**level))
            points = points - middle - pyramid.origins[level]
            fill = pyramid.fill
            patches.append(read_points(pyramid.levels[level][...] - fill, points, "bilinear") + fill)
        patches = self.vary(patches, rng)
        if label is None:
            return patches, None
        points = movement(regular_grid(start, patch_size))
        return patches, self.read_label(label[...], points, movement.is_mirrored)
