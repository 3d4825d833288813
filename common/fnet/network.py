"""F-Net: one valid-convolution pathway per resolution, fused from coarse to fine; and the geometry of its patches.

Sources: T. Brosch and A. Saalbach, *Foveal fully convolutional nets for multi-organ segmentation*, SPIE Medical
Imaging 2018; C. Sital, T. Brosch, D. Tio, A. Raaijmakers and J. Weese, *3D medical image segmentation with labeled and
unlabeled data using autoencoders at the example of liver segmentation in CT images*, arXiv 2020
(https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.utils import ensure_tuple_rep
from torch import nn

from common.cli import InputError, check_choice

from .folding import FusingConvolution, FusingHead, JoiningConv3d
from .pyramid import Pyramid, average_whole, filter_weights

__all__ = ["FNet", "FNetGeometry", "extraction_pathway", "initialize_convolutions"]

_NUM_CONVS = 3  # of an extraction pathway


@dataclass(frozen=True)
class FNetGeometry:
    """Geometry of the patches that F-Net takes in and gives out: how they are averaged, and their sizes in voxels.

    A valid convolution takes `kernel_size - 1` voxels from the patch. With the output patch `P`, the features of level
    0 are `P` plus what the head takes; those of level `r + 1` are half of the features of level `r` plus one
    convolution; the input of a level is its features plus its three extraction convolutions.

    Args:
        num_levels: number of resolutions; level `r` has voxels of `2^r` voxels.
        kernel_size: edge of the cubic convolution kernels, odd.
        num_head_convs: convolutions of `kernel_size` after the fusion at level 0.
        pyramid_filter: how the coarse levels are averaged, see `Pyramid`.
        padding_value: intensity beyond the border of the image, see `Pyramid`.
    """

    num_levels: int = 4
    kernel_size: int = 5
    num_head_convs: int = 2
    pyramid_filter: str = "box"
    padding_value: float | None = None

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise InputError(f"num_levels must be at least 2, got {self.num_levels}")
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd and at least 3, got {self.kernel_size}")
        check_choice("num_head_convs", self.num_head_convs, (0, 1, 2))

    @property
    def stride(self) -> int:
        """Shift in voxels under which the network in eval mode is translation-covariant."""
        return 2 ** (self.num_levels - 1)

    @property
    def margins(self) -> tuple[int, ...]:
        """Distance in voxels by which the input of each level begins before the output patch."""
        taken = (self.kernel_size - 1) // 2
        # by the head, by one integration at each level up to this one (2^(level + 1) - 2 in all) and by the extraction
        head = self.num_head_convs
        return tuple(taken * (head - 2 + (2 + _NUM_CONVS) * 2**level) for level in range(self.num_levels))

    @property
    def surplus(self) -> int:
        """Voxels that a feasible patch edge is more than a multiple of `stride`."""
        return (2 - self.num_head_convs) * (self.kernel_size - 1)

    def is_feasible(self, size: int) -> bool:
        """Tell whether `size` voxels can be the edge of an output patch."""
        return size > 0 and (size - self.surplus) % self.stride == 0

    def next_feasible(self, size: int) -> int:
        """Return the smallest feasible patch edge that is at least `size` voxels."""
        return next_feasible(max(size, 1), self.stride, self.surplus)

    def input_sizes(self, patch_size: Any) -> tuple[tuple[int, ...], ...]:
        """Return the input size of each level, in voxels of that level, or refuse when one would be a fraction.

        Args:
            patch_size: edge lengths of the output patch in voxels, or one for all axes.
        """
        patch_size = tuple(ensure_tuple_rep(patch_size, 3))
        if not all(self.is_feasible(edge) for edge in patch_size):
            below = [max((e for e in range(1, edge) if self.is_feasible(e)), default=0) for edge in patch_size]
            nearest = sorted({*below, *(self.next_feasible(edge) for edge in patch_size)} - {0})
            raise InputError(
                f"patch_size must be a feasible size such as {nearest} for {self.num_levels} levels, kernels of "
                f"{self.kernel_size} and {self.num_head_convs} head convolutions, got {patch_size}"
            )
        return tuple(
            tuple((edge + 2 * margin) // 2**level for edge in patch_size) for level, margin in enumerate(self.margins)
        )

    def pyramid(self, image: torch.Tensor, anywhere: bool = False) -> Pyramid:
        """Return the levels of an image of shape `(..., H, W, D)`.

        Args:
            image: at the finest resolution.
            anywhere: windows may start at any voxel; otherwise at multiples of `stride`, which takes less memory.
        """
        phases = None if anywhere else [-margin for margin in self.margins]
        return Pyramid(image, self.num_levels, self.pyramid_filter, self.padding_value, phases)

    def windows(self, pyramid: Pyramid, start: Sequence[int], patch_size: Any) -> list[torch.Tensor]:
        """Return the input patch of each level for the output patch that begins at voxel `start`."""
        return [
            pyramid.window(level, [first - margin for first in start], size)
            for level, (margin, size) in enumerate(zip(self.margins, self.input_sizes(patch_size), strict=True))
        ]


def next_feasible(size: int, stride: int, surplus: int) -> int:
    """Return the smallest number from `size` on that is `surplus` more than a multiple of `stride`."""
    return size + (surplus - size) % stride


class FNet(nn.Module):
    """Foveal network that segments a volume from views of it at several resolutions.

    Every level has an extraction pathway of valid convolutions. From the coarsest level up, an integration convolution
    combines its features with the upsampled result of the level below.

    In eval mode the network is translation-covariant in steps of `geometry.stride` voxels: patches cut anywhere on that
    grid give the same voxels, to the bit where the arithmetic is the same. TorchScript compiles it.

    Args:
        in_channels: channels of the image.
        out_channels: number of classes, background included.
        features: feature maps of each level, finest first; their number is the number of levels. The paper has 32 on
            each of 4 levels, the original F-Net 16, 24, 32, 48.
        kernel_size: edge of the cubic kernels in voxels.
        num_head_convs: convolutions of `kernel_size` at level 0 after fusion, the last one being the classifier; with
            0 or 1, the classifier is a convolution of size 1 behind them. The paper does not give it; 2 is the only
            choice that fits the patch sizes it tried.
        fusion: `concat` or `sum` of a level's features and the upsampled ones. The paper does not give it.
        upsample_mode: `nearest` or `trilinear`. The paper does not give it; only `nearest` makes patches and dense
            inference equal.
        pyramid_filter: see `Pyramid`.
        padding_value: intensity beyond the image's border; the smallest one of each channel if not given.
        gain: gain of the Xavier normal initialization. The paper has 0.01; runs of a few minutes need 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = (32, 32, 32, 32),
        kernel_size: int = 5,
        num_head_convs: int = 2,
        fusion: str = "concat",
        upsample_mode: str = "nearest",
        pyramid_filter: str = "box",
        padding_value: float | None = None,
        gain: float = 0.01,
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, ("concat", "sum"))
        check_choice("upsample_mode", upsample_mode, ("nearest", "trilinear"))
        if fusion == "sum" and len(set(features)) > 1:
            raise InputError(f"features must be the same on all levels when fusion is sum, got {tuple(features)}")
        self.geometry = FNetGeometry(len(features), kernel_size, num_head_convs, pyramid_filter, padding_value)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.fusion = fusion
        self.upsample_mode = upsample_mode
        self.padding_value = None if padding_value is None else float(padding_value)
        # what TorchScript, which knows no dataclass, needs of the geometry
        self.stride, self.surplus, self.margins = self.geometry.stride, self.geometry.surplus, [*self.geometry.margins]
        self.filters = [filter_weights(pyramid_filter, level) for level in range(len(features))]

        self.extraction = nn.ModuleList(extraction_pathway(in_channels, width, kernel_size) for width in features)
        self.integration = nn.ModuleList()
        for level, width in enumerate(features):
            is_coarsest = level + 1 == len(features)
            fused = width + (features[level + 1] if fusion == "concat" and not is_coarsest else 0)
            self.integration.append(
                _head(fused, width, out_channels, kernel_size, num_head_convs)
                if level == 0
                else _conv_block(fused, width, kernel_size, FusingConvolution)
            )
        initialize_convolutions(self, gain)

    def forward(self, image: torch.Tensor, context: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Return the logits of a patch or of a whole image.

        Args:
            image: with `context`, the input patch of level 0; alone, a whole image of shape `(B, C, H, W, D)`.
            context: input patches of levels 1, 2, ..., of shape `(B, C, *geometry.input_sizes(patch_size)[level])`.

        Returns:
            Logits of shape `(B, out_channels, *patch_size)`, or of the image's own size.
        """
        if context is None:
            height, width, depth = image.shape[2:]
            return self._fuse(self._whole(image))[:, :, :height, :width, :depth]
        patches = [image]
        patches.extend(context)
        return self._fuse(patches)

    def pathway(self, level: int) -> Any:
        """Return the extraction pathway of a level: a sequence of blocks, each with `conv` and `adn`."""
        return self.extraction[level]

    def _whole(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the input patch of each level for the smallest feasible output patch that covers an image."""
        patch_size = [next_feasible(edge, self.stride, self.surplus) for edge in image.shape[2:]]
        patches: list[torch.Tensor] = []
        block = 1  # edge of a voxel of the level
        for margin, weights in zip(self.margins, self.filters):  # noqa: B905  TorchScript knows no strict one
            size = [(edge + 2 * margin) // block for edge in patch_size]
            patches.append(average_whole(image, weights, self.padding_value, margin, size, block))
            block *= 2
        return patches

    def _fuse(self, patches: list[torch.Tensor]) -> torch.Tensor:
        if len(patches) != len(self.margins):
            raise InputError(
                f"inputs must be one patch for each of {len(self.margins)} levels, got {len(patches)}; cut them with "
                "geometry.windows"
            )
        level = len(patches) - 1
        fused = self._integrate(level, [self._extract(level, patches[level])])
        while level > 0:
            level -= 1
            features = self._extract(level, patches[level])
            if self.fusion == "concat" and self.upsample_mode == "nearest":
                fused = self._integrate(level, [features, fused])
            else:
                upsampled = F.interpolate(fused, scale_factor=2.0, mode=self.upsample_mode)
                joined = features + upsampled if self.fusion == "sum" else torch.cat((features, upsampled), dim=1)
                fused = self._integrate(level, [joined])
        return fused

    def _extract(self, level: int, patch: torch.Tensor) -> torch.Tensor:
        for index, pathway in enumerate(self.extraction):  # TorchScript has no index that varies into modules
            if index == level:
                patch = pathway(patch)
        return patch

    def _integrate(self, level: int, features: list[torch.Tensor]) -> torch.Tensor:
        fused = features[0]
        for index, block in enumerate(self.integration):
            if index == level:
                fused = block(features)
        return fused


def extraction_pathway(in_channels: int, features: int, kernel_size: int) -> nn.Sequential:
    """Return valid convolutions, each with batch norm and ReLU: F-Net's pathway of one level, and its autoencoder's."""
    channels = [in_channels] + _NUM_CONVS * [features]
    return nn.Sequential(*(_conv_block(*pair, kernel_size) for pair in itertools.pairwise(channels)))


def initialize_convolutions(network: nn.Module, gain: float) -> None:
    """Draw the weights of every convolution from Xavier's normal distribution and set its bias to zero, in place."""
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _conv_block(
    in_channels: int, out_channels: int, kernel_size: int, kind: type[Convolution] = Convolution
) -> nn.Module:
    norm = ("batch", {"eps": 1e-5})  # small weights give variances near eps: it must not change unnoticed
    return kind(
        3, in_channels, out_channels, kernel_size=kernel_size, padding=0, adn_ordering="NA", norm=norm, act="relu"
    )


def _head(in_channels: int, features: int, out_channels: int, kernel_size: int, num_convs: int) -> nn.Sequential:
    if num_convs == 0:
        return FusingHead(JoiningConv3d(in_channels, out_channels, 1))
    return FusingHead(
        _conv_block(in_channels, features, kernel_size, FusingConvolution),
        nn.Conv3d(features, out_channels, kernel_size if num_convs == 2 else 1),
    )
