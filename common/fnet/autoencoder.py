"""Winner-take-all convolutional autoencoders, and their decoder for sparse inputs.

Sources: A. Makhzani and B. Frey, *Winner-take-all autoencoders*, NeurIPS 2015 (https://arxiv.org/abs/1409.2752);
C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.cli import InputError

from .network import extraction_pathway, initialize_convolutions

__all__ = ["SparseDecoder", "WTAAutoencoder", "WTAAutoencoders", "winner_take_all"]


def winner_take_all(features: torch.Tensor, num_winners: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest activations of each feature map, which alone get a gradient, and where they stand.

    Args:
        features: tensor of shape `(B, F, H, W, D)`.
        num_winners: activations to keep of each map.

    Returns:
        Activations and their positions in the flattened map, both of shape `(B, F, num_winners)`.

    Raises:
        ValueError: when a map has fewer voxels than winners.
    """
    maps = features.flatten(2)
    if not 0 < num_winners <= maps.shape[-1]:
        raise InputError(f"num_winners must be between 1 and the {maps.shape[-1]} voxels of a map, got {num_winners}")
    activations, positions = maps.topk(num_winners, dim=-1, sorted=False)
    return activations, positions


class SparseDecoder(nn.ConvTranspose3d):
    """Transposed convolution for inputs of which only a few entries are not zero.

    The kernel is added to the output at the place of each entry, weighted by it: the result is that of the dense
    transposed convolution of stride 1 (up to the order of summation), the cost is that of the entries.
    """

    def decode(self, activations: torch.Tensor, positions: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Return what `forward` returns for maps that are zero but for some activations.

        Args:
            activations: tensor of shape `(B, in_channels, K)`.
            positions: their places in the flattened maps, of the same shape.
            size: edge lengths of the maps in voxels.

        Returns:
            Tensor of shape `(B, out_channels, *[edge + kernel_size - 1 for edge in size])`.
        """
        batch = activations.shape[0]
        height, width, depth = (edge + kernel - 1 for edge, kernel in zip(size, self.kernel_size, strict=True))
        z, y, x = (torch.arange(kernel, device=positions.device) for kernel in self.kernel_size)
        stencil = ((z[:, None, None] * width + y[:, None]) * depth + x).flatten()
        row = torch.div(positions, size[2], rounding_mode="floor")
        corner = (torch.div(row, size[1], rounding_mode="floor") * width + row % size[1]) * depth + positions % size[2]
        targets = (corner.flatten(1)[..., None] + stencil).flatten(1)  # (B, F * K * kernel voxels)
        kernels = self.weight.flatten(2).transpose(0, 1).unsqueeze(2)  # (out_channels, F, 1, kernel voxels)
        values = (activations[:, None, :, :, None] * kernels).flatten(2)  # (B, out_channels, F * K * kernel voxels)
        output = values.new_zeros(batch, self.out_channels, height * width * depth)
        output = output.scatter_add(2, targets[:, None].expand_as(values), values)
        bias: Any = self.bias
        return output.view(batch, self.out_channels, height, width, depth) + bias.view(-1, 1, 1, 1)


class WTAAutoencoder(nn.Module):
    """Autoencoder that reconstructs a patch from the few strongest activations of each feature map.

    Args:
        in_channels: channels of the image.
        features: feature maps of each convolution.
        kernel_size: edge of the encoder's cubic kernels in voxels.
        num_winners: activations that are kept of each map and sample.
        gain: gain of the Xavier normal initialization.
    """

    def __init__(
        self, in_channels: int, features: int = 32, kernel_size: int = 5, num_winners: int = 5, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.num_winners = num_winners
        self.encoder = extraction_pathway(in_channels, features, kernel_size)
        self.decoder = SparseDecoder(features, in_channels, len(self.encoder) * (kernel_size - 1) + 1)
        initialize_convolutions(self, gain)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction of patches of shape `(B, C, H, W, D)`, in the same shape."""
        features = self.encoder(image)
        activations, positions = winner_take_all(features, self.num_winners)
        return self.decoder.decode(activations, positions, features.shape[2:])


class WTAAutoencoders(nn.Module):
    """One autoencoder for each level of F-Net, trained side by side.

    Args:
        features: feature maps of each level, finest first, as in `FNet`; the others are those of `WTAAutoencoder`.
    """

    def __init__(
        self,
        in_channels: int,
        features: Sequence[int] = (32, 32, 32, 32),
        kernel_size: int = 5,
        num_winners: int = 5,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            WTAAutoencoder(in_channels, width, kernel_size, num_winners, gain) for width in features
        )

    def forward(self, *patches: torch.Tensor) -> list[torch.Tensor]:
        """Return the reconstruction of the patch of each level, finest first."""
        if len(patches) != len(self.levels):
            raise InputError(f"inputs must be one patch for each of {len(self.levels)} levels, got {len(patches)}")
        return [autoencoder(patch) for autoencoder, patch in zip(self.levels, patches, strict=True)]
