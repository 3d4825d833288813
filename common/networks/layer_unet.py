"""The 3D U-Net that takes a scan apart into an organ without its tumor, the tumor, and the mask between them.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230). The backbone is that of Models Genesis: Z. Zhou et al., MICCAI 2019
(https://arxiv.org/abs/1908.06912); its batch norms took the statistics of the batch in evaluation, too, and here they
do not.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.utils import get_norm_layer
from monai.utils import ensure_tuple_rep
from torch import nn

from common.utils import check_whole_numbers

from .transfer import RANDOM, is_scratch, load_weights

__all__ = ["LayerEncoder", "LayerUNet", "transfer_unet"]

logger = logging.getLogger(__name__)

NUM_LAYERS = 3  # organ, tumor and logit of the mask
_Size = tuple[int, int, int]


class LayerEncoder(nn.ModuleList):
    """The half of the U-Net that is transferred: a block for each level, and the pooling between them.

    Args:
        in_channels: channels of the scan.
        features: see `LayerUNet`.
        kernel_sizes: of each level.
        strides: of the pooling below each level but the coarsest.
        norm: see `LayerUNet`.

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
                to
                multiples of `stride`.
        """
        lack = [-length % stride for length, stride in zip(image.shape[2:], self.stride, strict=True)]
        maps: list[torch.Tensor] = []
        features = F.pad(image, [side for end in reversed(lack) for side in (0, end)]) if any(lack) else image
        for block, stride in zip(self, (None, *self.strides), strict=True):
            maps.append(block(features if stride is None else F.max_pool3d(maps[-1], stride)))
        return maps


class LayerUNet(nn.Module):
    """Give every voxel the intensity of the organ, that of the tumor, and a logit of belonging to the tumor.

    Args:
        in_channels: channels of the scan.
        out_channels: `NUM_LAYERS` for the layers above.
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
        out_channels: int = NUM_LAYERS,
        features: Sequence[int] = (64, 128, 256, 512),
        norm: str | Sequence[Any] = "batch",
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(features, str) or not isinstance(features, Sequence):
            raise TypeError(f"features must be a list of whole numbers, got {features!r}")
        for width in features:
            check_whole_numbers(features=width)
        if len(features) < 2 or any(width < 2 or width % 2 for width in features):
            raise ValueError(f"features must be even, for 2 levels or more, got {tuple(features)}")
        num_levels = len(features)
        kernels = _sizes("kernel_sizes", kernel_sizes, 3, num_levels)
        self.strides = _sizes("strides", strides, 2, num_levels - 1)
        if any(size % 2 == 0 for kernel in kernels for size in kernel):
            raise ValueError(f"kernel_sizes must be odd, got {kernel_sizes}")
        self.in_channels = in_channels
        self.features = tuple(features)
        self.encoder = LayerEncoder(in_channels, self.features, kernels, self.strides, norm)
        self.decoder = nn.ModuleList(
            _UpBlock(deep, skip, kernel, stride, norm)
            for (deep, skip), kernel, stride in zip(
                itertools.pairwise(reversed(features)), kernels[-2::-1], self.strides[::-1], strict=True
            )
        )
        self.head = nn.Conv3d(features[0], out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the layers of a scan.

        Args:
            image: tensor of shape `(B, in_channels, H, W, D)` of any size. It is padded with zeros up to multiples of
                `stride`, as the convolutions pad it.

        Returns:
            Tensor of shape `(B, out_channels, H, W, D)`.

        Raises:
            ValueError: when the image has another number of channels.
        """
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise ValueError(f"image must be (B, {self.in_channels}, H, W, D), got {tuple(image.shape)}")
        maps = self.encoder(image)
        features = maps.pop()
        for block in self.decoder:
            features = block(features, maps.pop())
        height, width, depth = image.shape[2:]
        return self.head(features)[:, :, :height, :width, :depth]


class _UpBlock(nn.Module):
    """Enlarge the features of a coarser level and combine them with those of the encoder."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: _Size, stride: _Size, norm: Any) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(in_channels, in_channels, stride, stride=stride)
        self.block = _block(in_channels + out_channels, out_channels, out_channels, kernel_size, norm)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat((self.upsample(features), skip), dim=1))


def transfer_unet(network: LayerUNet, path: str | Path | None, part: str = "encoder") -> LayerUNet:
    """Copy pretrained weights into a network, all of a part or none.

    Args:
        network: of the same features and input channels as the pretrained one; changed in place.
        path: state dict of a `LayerUNet`, or of another network with its encoder; `None` or `null` trains from scratch,
            `random` likewise keeps the initial weights.
        part: `encoder`, beside which the decoder stays fresh (section 3.4); or `network`: the decoder, too, and when
            the weights give layers, a head of two classes that begins as the segmentation of their mask.

    Returns:
        The network.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit the network, or `part` is unknown.
    """
    if part not in ("encoder", "network"):
        raise ValueError(f"part must be encoder or network, got {part!r}")
    if is_scratch(path) or path == RANDOM:
        logger.info("network: initial weights, nothing transferred")
        return network
    weights = load_weights(path)
    prefixes = ("encoder.",) if part == "encoder" else ("encoder.", "decoder.")
    target = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    source = {name: value for name, value in weights.items() if name.startswith(prefixes)}
    for name in {**target, **source}:
        expected = tuple(target[name].shape) if name in target else "nothing"
        found = tuple(source[name].shape) if name in source else "nothing"
        if found != expected:
            raise ValueError(f"{path}: {name} must have shape {expected}, got {found}")
    if part == "network" and len(weights.get("head.bias", ())) == NUM_LAYERS and network.head.out_channels == 2:
        for name in ("head.weight", "head.bias"):
            mask = weights[name][-1]  # the softmax of 0 and a logit is its sigmoid
            source[name] = torch.stack((torch.zeros_like(mask), mask))
    network.load_state_dict({**network.state_dict(), **source})
    logger.info("%s: %d of %d tensors transferred from %s", part, len(source), len(network.state_dict()), path)
    return network


def _sizes(name: str, values: Sequence[int | Sequence[int]] | None, default: int, count: int) -> list[_Size]:
    sizes = [ensure_tuple_rep(value, 3) for value in ([default] * count if values is None else values)]
    if len(sizes) != count or any(size < 1 for level in sizes for size in level):
        raise ValueError(f"{name} must be {count} positive sizes, one for each level, got {values}")
    return sizes


def _block(in_channels: int, mid_channels: int, out_channels: int, kernel_size: _Size, norm: Any) -> Any:
    layers: list[nn.Module] = []
    for low, high in ((in_channels, mid_channels), (mid_channels, out_channels)):
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        layers += [
            nn.Conv3d(low, high, kernel_size, padding=padding),
            _norm(norm, high),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _norm(norm: Any, channels: int) -> nn.Module:
    try:
        return get_norm_layer(norm, spatial_dims=3, channels=channels)
    except (TypeError, ValueError):
        raise ValueError(
            f'norm must be batch, instance or ["group", {{"num_groups": 8}}], whose groups divide {channels} maps, got '
            f"{norm!r}"
        ) from None
