"""3D U-Net that takes a scan apart into organ, tumor and mask, its encoder, and a classifier on that.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230). The backbone is that of Models Genesis: Z. Zhou et al., MICCAI 2019
(https://arxiv.org/abs/1908.06912); its batch norms took the statistics of the batch in evaluation, too, and here they
do not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.utils import get_norm_layer
from monai.utils import ensure_tuple_rep
from torch import nn

from common.cli import InputError, check_each
from common.cli.options import POSITIVE_INT

__all__ = ["EncoderClassifier", "LayerEncoder", "LayerUNet"]

_Size = tuple[int, int, int]


class LayerEncoder(nn.ModuleList):
    """Encoder of the U-Net, which is transferred: a block for each level, and the pooling between them.

    The arguments are those of `LayerUNet`, whose kernels and strides are here three numbers for each level.

    Attributes:
        stride: voxels of the scan in one of the coarsest level, along each axis.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[_Size],
        strides: Sequence[_Size],
        norm: str | Sequence[Any],
    ) -> None:
        super().__init__(
            _block(low, high // 2, high, kernel_size, norm)
            for (low, high), kernel_size in zip(itertools.pairwise((in_channels, *features)), kernel_sizes, strict=True)
        )
        self.strides = strides
        self.stride = tuple(math.prod(steps) for steps in zip(*strides, strict=True))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps of every level, finest first.

        Args:
            image: tensor of shape `(B, in_channels, H, W, D)` of any size. At its far ends it is padded with zeros up
                to multiples of `stride`.
        """
        height, width, depth = image.shape[2:]
        ends = [0, -depth % self.stride[2], 0, -width % self.stride[1], 0, -height % self.stride[0]]
        features = F.pad(image, ends) if sum(ends) > 0 else image
        maps: list[torch.Tensor] = []
        for level, block in enumerate(self):
            features = block(F.max_pool3d(features, self.strides[level - 1]) if level > 0 else features)
            maps.append(features)
        return maps


def num_layers(in_channels: int) -> int:
    """Return the number of layers of a scan: its channels of the organ, those of the tumor, and one mask."""
    return 2 * in_channels + 1


class LayerUNet(nn.Module):
    """3D U-Net whose voxels are intensities of the organ, those of the tumor, and a logit of belonging to the tumor.

    Args:
        in_channels: channels of the scan.
        out_channels: that of the layers above, see `num_layers`, if not given.
        features: feature maps that leave each block of the encoder, finest first; its first convolution has half as
            many.
        norm: of MONAI, such as `batch`, `instance` or `["group", {"num_groups": 8}]`.
        kernel_sizes: edges of the convolutions of each level, finest first, one number or one for each axis; 3 if not
            given. `[3, 3, 1]` suits levels whose slices lie far apart.
        strides: of the pooling below each level but the coarsest, one number or one for each axis; 2 if not given.

    Raises:
        TypeError: when `features` is no list of whole numbers.
        ValueError: when an argument is out of range, or the lists have not one entry for each level.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int | None = None,
        features: Sequence[int] = (64, 128, 256, 512),
        norm: str | Sequence[Any] = "batch",
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        check_each(POSITIVE_INT.list, features=features)
        if len(features) < 2 or any(width % 2 for width in features):
            raise InputError(f"features must be even, for 2 levels or more, got {tuple(features)}")
        kernels = _sizes("kernel_sizes", kernel_sizes, 3, len(features))
        steps = _sizes("strides", strides, 2, len(features) - 1)
        if any(size % 2 == 0 for kernel in kernels for size in kernel):
            raise InputError(f"kernel_sizes must be odd, got {kernel_sizes}")
        self.in_channels = in_channels
        self.features = tuple(features)
        self.encoder = LayerEncoder(in_channels, self.features, kernels, steps, norm)
        self.decoder = nn.ModuleList(
            _UpBlock(deep, skip, kernel, stride, norm)
            for (deep, skip), kernel, stride in zip(
                itertools.pairwise(reversed(features)), kernels[-2::-1], steps[::-1], strict=True
            )
        )
        self.head = nn.Conv3d(features[0], num_layers(in_channels) if out_channels is None else out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the layers of a scan, of shape `(B, out_channels, H, W, D)`.

        Args:
            image: tensor of shape `(B, in_channels, H, W, D)` of any size.
        """
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise InputError(f"image must be (B, {self.in_channels}, H, W, D), got {list(image.shape)}")
        maps = self.encoder(image)
        features = maps.pop()
        for block in self.decoder:
            features = block(features, maps.pop())
        height, width, depth = image.shape[2:]
        return self.head(features)[:, :, :height, :width, :depth]


class _UpBlock(nn.Module):
    """Block of the decoder: it enlarges the features of a coarser level and combines them with the encoder's."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: _Size, stride: _Size, norm: Any) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(in_channels, in_channels, stride, stride=stride)
        self.block = _block(in_channels + out_channels, out_channels, out_channels, kernel_size, norm)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat((self.upsample(features), skip), dim=1))


def _sizes(name: str, values: Sequence[int | Sequence[int]] | None, default: int, count: int) -> list[_Size]:
    sizes = [ensure_tuple_rep(value, 3) for value in ([default] * count if values is None else values)]
    if len(sizes) != count or any(size < 1 for level in sizes for size in level):
        raise InputError(f"{name} must be {count} positive sizes, one for each level, got {values}")
    return sizes


def _block(in_channels: int, mid_channels: int, out_channels: int, kernel_size: _Size, norm: Any) -> Any:
    layers: list[nn.Module] = []
    for low, high in ((in_channels, mid_channels), (mid_channels, out_channels)):
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        layers += [nn.Conv3d(low, high, kernel_size, padding=padding), _norm(norm, high), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _norm(norm: Any, channels: int) -> nn.Module:
    try:
        return get_norm_layer(norm, spatial_dims=3, channels=channels)
    except (TypeError, ValueError):
        raise InputError(
            f'norm must be batch, instance or ["group", {{"num_groups": 8}}], whose groups divide {channels} maps, got '
            f"{norm!r}"
        ) from None


class EncoderClassifier(nn.Module):
    """Classifier on the encoder of a U-Net: it tells a class from the mean coarsest features of one patch or several.

    Args:
        unet: its encoder is used; under the same names, `transfer_unet` finds it in the weights.
        num_classes: of the output.
        num_patches: of one item.
    """

    def __init__(self, unet: LayerUNet, num_classes: int, num_patches: int = 1) -> None:
        super().__init__()
        self.encoder = unet.encoder
        self.head = nn.Sequential(nn.Linear(num_patches * unet.features[-1], 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(B, num_classes)`.

        Args:
            patches: tensor of shape `(B, C, H, W, D)`, or `(B, num_patches, C, H, W, D)`.
        """
        features = self.encoder(patches if patches.ndim == 5 else patches.flatten(0, 1))[-1].mean(dim=(2, 3, 4))
        return self.head(features.view(len(patches), -1))
