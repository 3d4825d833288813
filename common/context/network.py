"""2D U-Net of context prediction and restoration: one network for inpainting and for segmentation.

Source: J. Dominic et al., *Data-limited tissue segmentation using inpainting-based self-supervised learning*, arXiv
2022 (https://arxiv.org/abs/2210.07936)
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from common.cli import InputError, check_each
from common.cli.options import POSITIVE_INT

__all__ = ["ContextUNet", "StandardizedConv2d"]


class StandardizedConv2d(nn.Conv2d):
    """Convolution whose kernels have mean 0 and standard deviation 1 for each output filter.

    The kernel is `(weight - mean) / (std + 1e-5)`, with the mean and the standard deviation of the population (divided
    by the number of weights) over the input channels and the places of the kernel.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of an image of shape `(B, C, H, W)`."""
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return self._conv_forward(input, (self.weight - mean) / (std + 1e-5), self.bias)


class ContextUNet(nn.Module):
    """2D U-Net that gives every pixel of an image its intensity, or its score for each class.

    Inpainting and segmentation differ in `head` only, so that `encoder` and `decoder` carry over. GroupNorm is the
    usual one, over groups of channels; the authors' released code normalized horizontal stripes of the image.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the restored image, or one for each class without background.
        features: feature maps of each level, finest first; each level has half the size of the one before.
        num_groups: groups of channels in each GroupNorm.
        head_kernel_size: edge in pixels of the last convolution: 3 for inpainting and 1 for segmentation in the paper.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        num_groups: int = 16,
        head_kernel_size: int = 1,
    ) -> None:
        super().__init__()
        check_each(POSITIVE_INT.list, features=features)
        check_each(POSITIVE_INT, num_groups=num_groups)
        if len(features) < 2:
            raise InputError(f"features must have at least 2 levels, got {tuple(features)}")
        if any(width % num_groups for width in features):
            raise InputError(f"features must be multiples of num_groups {num_groups}, got {tuple(features)}")
        if head_kernel_size < 1 or head_kernel_size % 2 == 0:
            raise InputError(f"head_kernel_size must be odd, got {head_kernel_size}")
        self.in_channels = in_channels
        self.stride = 2 ** (len(features) - 1)
        self.encoder = nn.ModuleList(
            _encoder_block(*pair, num_groups) for pair in itertools.pairwise((in_channels, *features))
        )
        self.decoder = nn.ModuleList(
            _DecoderBlock(*pair, num_groups) for pair in itertools.pairwise(reversed(features))
        )
        self.head = nn.Conv2d(features[0], out_channels, head_kernel_size, padding=head_kernel_size // 2)
        # PyTorch counts the fan-in of a transposed convolution by its output channels. With half of them and stride 2,
        # that is just what keeps the variance where no ReLU follows.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return intensities, or a logit for each class; background has none.

        Args:
            image: tensor of shape `(B, C, H, W)` of any size. Below and to the right, its border pixels are repeated up
                to a multiple of `stride`, since zeros would be an edge that the image does not have.

        Returns:
            Tensor of shape `(B, out_channels, H, W)`.
        """
        if image.shape[1] != self.in_channels:
            raise InputError(
                f"image must have in_channels {self.in_channels}, got {image.shape[1]} channels; set "
                "in_channels to that"
            )
        height, width = image.shape[-2:]
        features = F.pad(image, [0, -width % self.stride, 0, -height % self.stride], mode="replicate")
        skips: list[torch.Tensor] = []
        for block in self.encoder:
            features = block(F.max_pool2d(features, 2) if skips else features)
            skips.append(features)
        skips.pop()
        for block in self.decoder:
            features = block(features, skips.pop())
        return self.head(features)[..., :height, :width]


class _DecoderBlock(nn.Module):
    """Decoder block that doubles the size of the features and combines them with those of the encoder."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.conv = StandardizedConv2d(2 * out_channels, out_channels, 3, padding=1)
        self.norm = nn.GroupNorm(num_groups, out_channels)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.norm(F.relu(self.conv(torch.cat((self.upsample(features), skip), dim=1))))


def _encoder_block(in_channels: int, out_channels: int, num_groups: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 3, padding=1),
            relu=nn.ReLU(),
            standardized_conv=StandardizedConv2d(out_channels, out_channels, 3, padding=1),
            standardized_relu=nn.ReLU(),
            norm=nn.GroupNorm(num_groups, out_channels),
        )
    )
