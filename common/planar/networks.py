"""Networks that describe a voxel by the slab or the cube around it, and the heads of their pretext tasks.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision). All norms are group
norms, so that what a pair gives depends on the pair alone; in the authors' code, two norms of the heatmap decoder are
batch norms, with as many parameters:
https://github.com/multimodallearning/miccai19_self_supervision/blob/428ff1f66b0ab7885a07a16eb32f5160c2bbf348/miccai_train.ipynb
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.cli import InputError, check_choice

__all__ = [
    "CubicDescriptor",
    "HeatmapDecoder",
    "NeighborClassifier",
    "OffsetRegressor",
    "PlanarDescriptor",
    "SiameseNetwork",
    "TriplanarPretext",
]

_NUM_GROUPS = 4  # of channels, in each norm


class PlanarDescriptor(nn.Sequential):
    """Convolutional descriptor of a slab, a stack of a few planes of 42 x 42 samples.

    All convolutions are valid ones, and what is left of the plane is one pixel. A larger image is not described pixel
    by pixel: the norms would take their statistics from all of it.

    Args:
        in_channels: planes of a slab, those of all channels of a scan together.
        out_channels: numbers that describe it; a multiple of 4.
        features: feature maps of the first two convolutions; a multiple of 4.
    """

    size = 42
    pooled_size = 20
    num_planes = 3  # of a slab, in each channel of a scan

    def __init__(self, in_channels: int = num_planes, out_channels: int = 64, features: int = 32) -> None:
        widths = (in_channels, features, features, *[out_channels] * 4)
        super().__init__(
            *(
                _block(nn.Conv2d(*pair, 3, bias=False), nn.MaxPool2d(2) if index < 2 else None)
                for index, pair in enumerate(itertools.pairwise(widths))
            )
        )
        self.out_channels = out_channels
        _initialize(self)

    def forward(self, slabs: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of slabs of shape `(B, in_channels, 42, 42)`, of shape `(B, out_channels, 1, 1)`."""
        if slabs.shape[2:] != (self.size, self.size):
            raise InputError(f"slabs must have {self.size} x {self.size} samples, got {tuple(slabs.shape[2:])}")
        return self.describe_pooled(self.pool(slabs))

    def pool(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the first convolution and pooling make of slabs, or of larger images.

        Neither looks beyond its window, so that overlapping slabs may share the work: of an image of shape
        `(B, in_channels, H, W)`, the windows of 20 x 20 of the result, `(B, features, H // 2 - 1, W // 2 - 1)`, are
        those of the slabs that begin at even pixels.
        """
        if images.device.type == "cpu":  # several times as fast there
            images = images.contiguous(memory_format=torch.channels_last)
        first: Any = self[0]
        return first.pool(first.conv(images))

    def describe_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of slabs, given what `pool` makes of each, of shape `(B, features, 20, 20)`."""
        first: Any = self[0]
        output = first.relu(first.norm(pooled))
        for block in itertools.islice(self, 1, None):
            output = block(output)
        return output


class CubicDescriptor(nn.Sequential):
    """Convolutional descriptor of a cube of 25 x 25 x 25 samples.

    Args:
        in_channels: channels of the cube, those of a scan.
        out_channels: numbers that describe it; a multiple of 4.
        features: feature maps of the convolutions but the first, which has half as many, and the last; a multiple of 8.
    """

    size = 25

    def __init__(self, in_channels: int = 1, out_channels: int = 192, features: int = 32) -> None:
        widths = (in_channels, features // 2, *[features] * 5, out_channels)
        kernels = ((5, 1), (3, 2), (3, 2), (3, 2), (3, 1), (5, 1), (3, 1))  # sizes and dilations
        super().__init__(
            *(
                _block(nn.Conv3d(*pair, kernel_size, dilation=dilation, bias=False))
                for pair, (kernel_size, dilation) in zip(itertools.pairwise(widths), kernels, strict=True)
            )
        )
        _initialize(self)

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of cubes of shape `(B, in_channels, 25, 25, 25)`, of `(B, out_channels, 1, 1, 1)`."""
        if cubes.shape[2:] != (self.size,) * 3:
            raise InputError(f"cubes must have {self.size} samples a side, got {tuple(cubes.shape[2:])}")
        return super().forward(cubes)


class OffsetRegressor(nn.Sequential):
    """Head of REG2D: predicts from the descriptors of two slabs how far the second one is displaced in the plane.

    From descriptors of shape `(B, in_channels, 1, 1)` it returns displacements of shape `(B, 2)`.

    Args:
        in_channels: numbers that describe both slabs together.
    """

    def __init__(self, in_channels: int = 128) -> None:
        super().__init__(*_pointwise(nn.Conv2d, (in_channels, 128, 64, 32)), nn.Conv2d(32, 2, 1), nn.Flatten())
        _initialize(self)


class NeighborClassifier(nn.Sequential):
    """Head of DOERSCH: predicts from the descriptors of two cubes which of six neighbors of the first the second is.

    From descriptors of shape `(B, in_channels, 1, 1, 1)` it returns logits of shape `(B, 6)`.

    Args:
        in_channels: numbers that describe both cubes together.
    """

    def __init__(self, in_channels: int = 384) -> None:
        super().__init__(*_pointwise(nn.Conv3d, (in_channels, 64, 64, 32)), nn.Conv3d(32, 6, 1), nn.Flatten())
        _initialize(self)


class HeatmapDecoder(nn.Sequential):
    """Head of HEATMAP: predicts from the descriptors of two slabs a heatmap of where the second one lies in the plane.

    From descriptors of shape `(B, in_channels, 1, 1)` it returns heatmaps of shape `(B, 1, 19, 19)`.

    Args:
        in_channels: numbers that describe both slabs together.
    """

    size = 19

    def __init__(self, in_channels: int = 128) -> None:
        super().__init__(
            *_pointwise(nn.Conv2d, (in_channels, 64, 32, 16)),
            _block(nn.ConvTranspose2d(16, 16, 5, bias=False)),  # 5 x 5 pixels
            _block(nn.Conv2d(16, 16, 3, bias=False)),  # 3 x 3
            nn.Upsample((11, 11), mode="bilinear", align_corners=True),
            _block(nn.ConvTranspose2d(16, 16, 5, bias=False)),  # 15 x 15
            _block(nn.Conv2d(16, 8, 3, bias=False)),  # 13 x 13
            nn.AvgPool2d(3, stride=1, padding=1),
            _block(nn.ConvTranspose2d(8, 4, 5, bias=False)),  # 17 x 17
            nn.Upsample((self.size, self.size), mode="bilinear", align_corners=True),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        _initialize(self)


class SiameseNetwork(nn.Module):
    """Siamese network: describes both patches of a pair with the same weights, and compares them with a head.

    Args:
        descriptor: network that describes a patch; afterwards, only it is needed.
        head: takes the descriptors of both patches, one after the other, as channels.
    """

    def __init__(self, descriptor: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.head = head

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return what the head tells about pairs of patches of shape `(B, 2, C, ...)`."""
        return _compare(self.descriptor, self.head, pairs)


class TriplanarPretext(nn.Module):
    """Siamese networks for the three normal axes, trained side by side: they share nothing but the minibatch.

    The loss is a mean over the axes, too. Adam takes no notice of the factor, so that each network learns as if it were
    alone.

    Args:
        target: what the heads predict: `heatmap` or `displacement`.
        out_channels: numbers that describe a slab; a multiple of 4.
        features: see `PlanarDescriptor`.
        in_channels: channels of a scan, each of which has its planes in a slab.

    Attributes:
        descriptors: by axis, `"0"` to `"2"`; afterwards, only they are needed.
        heads: by axis.
    """

    def __init__(
        self, target: str = "heatmap", out_channels: int = 64, features: int = 32, in_channels: int = 1
    ) -> None:
        super().__init__()
        check_choice("target", target, ("heatmap", "displacement"))
        head = HeatmapDecoder if target == "heatmap" else OffsetRegressor
        self.descriptors = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for axis in "012":
            self.descriptors[axis] = PlanarDescriptor(PlanarDescriptor.num_planes * in_channels, out_channels, features)
            self.heads[axis] = head(2 * out_channels)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return heatmaps of shape `(B, 3, 1, 19, 19)` or displacements of `(B, 3, 2)`.

        Args:
            pairs: of slabs, of shape `(B, 3, 2, 3 * in_channels, 42, 42)`, the normal axis first.
        """
        networks = zip(self.descriptors.values(), self.heads.values(), pairs.unbind(1), strict=True)
        return torch.stack([_compare(*network) for network in networks], dim=1)


def _compare(descriptor: nn.Module, head: nn.Module, pairs: torch.Tensor) -> torch.Tensor:
    """Describe both patches of all pairs in one pass."""
    descriptors = descriptor(pairs.flatten(0, 1))
    return head(descriptors.unflatten(0, (-1, 2)).flatten(1, 2))


def _block(conv: Any, pool: nn.Module | None = None) -> nn.Sequential:
    layers: dict[str, nn.Module] = {"conv": conv}
    if pool is not None:
        layers["pool"] = pool
    layers["norm"] = nn.GroupNorm(_NUM_GROUPS, conv.out_channels)
    layers["relu"] = nn.LeakyReLU(0.01, inplace=True)
    return nn.Sequential(OrderedDict(layers))


def _pointwise(conv: type[nn.Conv2d] | type[nn.Conv3d], features: Sequence[int]) -> list[nn.Sequential]:
    """Return blocks of convolutions that see one point only."""
    return [_block(conv(*pair, 1, bias=False)) for pair in itertools.pairwise(features)]


def _initialize(network: nn.Module) -> None:
    """Draw the weights from Xavier's normal distribution."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
