"""Inference of F-Net on volumes of any size.

Source of the overlapped procedure: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from monai.utils import BlendMode, ensure_tuple_rep
from torch import nn

from common.cli import InputError, check_choice, check_each
from common.cli.options import SIZE

from .network import FNet
from .pyramid import Pyramid, spatial

__all__ = ["FNetInferer"]

_SIGMA_SCALE = 0.5  # standard deviation of the Gaussian that blends patches, relative to a patch
_PATCHES_PER_PASS = 4  # that overlap
_SMALLEST_TILE = 8  # voxels, below which the margins of a tile are all that takes memory


class FNetInferer(Inferer):
    """Inference of F-Net on a whole volume, tile by tile, with the probability of each class.

    F-Net's convolutions are valid, and its output is translation-covariant in steps of `geometry.stride` voxels. Tiles
    on that grid therefore join without a seam, each voxel being computed once (`dense`). The paper's procedure blends
    patches that overlap (`overlap`): for offsets on that grid the result is the same, at about 8 times the cost.

    The volume and the result stay on the device of the volume; only a tile is on the network's device.

    Args:
        tile_size: largest edge lengths in voxels of the output tiles of the dense mode, rounded up to a feasible size;
            an axis is cut into even tiles. Larger tiles waste less on their margins and need more memory.
        mode: `dense` or `overlap`.
        patch_size: output patch of the overlap mode in voxels.
        overlap: share of a patch that its neighbor covers, too, in the overlap mode. The step between patches is
            rounded down to the grid: patches of 72 voxels share 40, not 36.
        output_dtype: of the probabilities; `float16` halves the memory of the result.
    """

    def __init__(
        self,
        tile_size: int | Sequence[int] = 96,
        mode: str = "dense",
        patch_size: int | Sequence[int] = 72,
        overlap: float = 0.5,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ("dense", "overlap"))
        check_each(SIZE, tile_size=tile_size)
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be in [0, 1), got {overlap}")
        self.tile_size = tuple(ensure_tuple_rep(tile_size, 3))
        self.mode = mode
        self.patch_size = tuple(ensure_tuple_rep(patch_size, 3))
        self.overlap = overlap
        self.output_dtype = output_dtype

    def __call__(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return the probabilities of volumes, of shape `(B, out_channels, H, W, D)`.

        Args:
            inputs: volumes of shape `(B, C, H, W, D)`.
            network: `FNet`, or a parallel wrapper around it, in eval mode.
        """
        fnet: Any = getattr(network, "module", network)
        inputs = getattr(inputs, "as_tensor", lambda: inputs)()
        pyramid = fnet.geometry.pyramid(inputs)
        return self._dense(pyramid, fnet) if self.mode == "dense" else self._overlap(pyramid, fnet)

    def smaller(self) -> Self | None:
        """Return an inferer whose tiles have half the edge, with the same result; None where that saves nothing."""
        if self.mode != "dense" or max(self.tile_size) <= _SMALLEST_TILE:
            return None
        other = copy.copy(self)
        other.tile_size = tuple(max(edge // 2, _SMALLEST_TILE) for edge in self.tile_size)
        return other

    def _dense(self, pyramid: Pyramid, fnet: FNet) -> torch.Tensor:
        size = pyramid.spatial_size
        stride = fnet.geometry.stride
        tile = [fnet.geometry.next_feasible(max(stride, min(*pair))) for pair in zip(self.tile_size, size, strict=True)]
        step = [_even_step(length, edge - edge % stride, stride) for length, edge in zip(size, tile, strict=True)]
        tile = [fnet.geometry.next_feasible(hop) for hop in step]
        output = self._empty(pyramid, fnet, self.output_dtype)
        for start in itertools.product(*(range(0, length, hop) for length, hop in zip(size, step, strict=True))):
            # the last tile of an axis is only as large as it needs to be
            edges = [
                min(edge, fnet.geometry.next_feasible(length - first))
                for edge, length, first in zip(tile, size, start, strict=True)
            ]
            place = _place(start, edges, size)
            probabilities = _predict(fnet, [fnet.geometry.windows(pyramid, start, edges)])
            output[spatial(place)] = _crop(probabilities, place).to(output)
        return output

    def _overlap(self, pyramid: Pyramid, fnet: FNet) -> torch.Tensor:
        size = pyramid.spatial_size
        fnet.geometry.input_sizes(self.patch_size)
        if min(self.patch_size) < fnet.geometry.stride:
            raise InputError(
                f"patch_size must be at least the network's stride of {fnet.geometry.stride}, got {self.patch_size}"
            )
        weights = compute_importance_map(self.patch_size, BlendMode.GAUSSIAN, _SIGMA_SCALE)
        total = self._empty(pyramid, fnet, torch.float32).zero_()
        weight = total.new_zeros(size)
        weights = weights.to(total)
        starts = list(self._starts(size, fnet.geometry.stride))
        for first in range(0, len(starts), _PATCHES_PER_PASS):
            batch = starts[first : first + _PATCHES_PER_PASS]
            patches = [fnet.geometry.windows(pyramid, start, self.patch_size) for start in batch]
            probabilities = _predict(fnet, patches).to(total)
            for start, patch in zip(batch, probabilities.split(total.shape[0]), strict=True):
                place = _place(start, self.patch_size, size)
                patch_weights = _crop(weights, place)
                total[spatial(place)] += _crop(patch, place) * patch_weights
                weight[place] += patch_weights
        return (total / weight).to(self.output_dtype)

    def _starts(self, size: Sequence[int], stride: int) -> Iterable[tuple[int, ...]]:
        """Return the first voxels of overlapping patches that cover the volume; they lie on the network's grid."""
        axes = []
        for length, edge in zip(size, self.patch_size, strict=True):
            hop = max(stride, round(edge * (1 - self.overlap)) // stride * stride)
            count = max(1, math.ceil((length - edge) / hop) + 1)
            axes.append(range(0, count * hop, hop))
        return itertools.product(*axes)

    @staticmethod
    def _empty(pyramid: Pyramid, fnet: FNet, dtype: torch.dtype) -> torch.Tensor:
        volume = pyramid.levels[0]
        return volume.new_empty((volume.shape[0], fnet.out_channels, *pyramid.spatial_size), dtype=dtype)


def _predict(fnet: FNet, patches: list[list[torch.Tensor]]) -> torch.Tensor:
    """Return the probabilities of several patches, stacked along the batch."""
    device = next(fnet.parameters()).device
    image, *context = [torch.cat(level).to(device) for level in zip(*patches, strict=True)]
    return fnet(image, context).float().softmax(dim=1)


def _even_step(length: int, step: int, stride: int) -> int:
    """Return the smallest multiple of `stride` up to `step` that needs no more tiles: a thin last one is slow."""
    return math.ceil(length / math.ceil(length / step) / stride) * stride


def _place(start: Sequence[int], edges: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(i, min(i + e, n)) for i, e, n in zip(start, edges, size, strict=True))


def _crop(patch: torch.Tensor, place: tuple[slice, ...]) -> torch.Tensor:
    return patch[spatial(slice(0, axis.stop - axis.start) for axis in place)]
