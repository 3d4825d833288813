"""Random shifts, rotations, scalings, mirroring and contrasts of a slice; they are not a part of the paper.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.transforms import AffineAugmentation, read_points, regular_grid

__all__ = ["SliceAugmentation"]


class SliceAugmentation(AffineAugmentation):
    """Random affine grid in the plane of a slice, through which a crop and its label are read; and contrast.

    A crop is read from its whole slice, so that what lies around it comes into it. Intensities are interpolated
    linearly, labels take the nearest pixel. For the arguments, see `AffineAugmentation`: a pixel is a voxel, and slices
    turn in their plane.
    """

    def __call__(
        self,
        image: torch.Tensor,
        label: torch.Tensor | None,
        start: Sequence[int],
        size: Sequence[int],
        fill: torch.Tensor,
        can_mirror: bool,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a crop of the image, of shape `(C, *size)`, and of the label.

        Args:
            image: slice of shape `(C, H, W)`.
            label: of the slice, of shape `(1 or 2, H, W)`.
            start: first pixel of the crop.
            size: of the crop.
            fill: intensity beyond the border, of each channel.
            can_mirror: whether the first axis of the slice runs from side to side.
            rng: source of all chance.
        """
        start, size = (*start, 0), (*size, 1)
        movement = self.draw(rng, start, size, can_mirror)
        points = movement(regular_grid(start, size))
        edge = fill.view(-1, 1, 1, 1)
        read = read_points(image.unsqueeze(-1) - edge, points, "bilinear") + edge
        (crop,) = self.vary([read[..., 0]], rng)
        if label is None:
            return crop, None
        return crop, self.read_label(label.unsqueeze(-1), points, movement.is_mirrored)[..., 0]
