"""Convolution of coarse features and fine ones, without upsampling the coarse ones first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import nn

__all__ = ["FusingConvolution", "FusingHead", "JoiningConv3d", "fold_kernel"]


class FusingConvolution(Convolution):
    """Valid convolution of fine features and of coarse ones that are upsampled to the nearest, side by side.

    A coarse voxel stands for two along each axis, which have the same input: their weights are added up, and 3 x 3 x 3
    products take the place of 5 x 5 x 5, by a transposed convolution. The results differ by rounding alone.
    It has the parameters of MONAI's `Convolution`, the fine features first.
    """

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return the features that follow.

        Args:
            inputs: fine features of shape `(B, C, 2 h, 2 w, 2 d)`; and coarse ones of `(B, C', h, w, d)`, if there are
                any.
        """
        fine = inputs[0]
        if len(inputs) == 1:
            return self.adn(self.conv(fine))
        coarse = inputs[1]
        kernel = self.conv.weight
        channels = fine.shape[1]
        margin = kernel.shape[2] - 1
        output = F.conv3d(fine, kernel[:, :channels], self.conv.bias)
        output = output + F.conv_transpose3d(coarse, fold_kernel(kernel[:, channels:]), stride=2, padding=margin)
        return self.adn(output)


class FusingHead(nn.Sequential):
    """A module that takes fine and coarse features, see `FusingConvolution`, and perhaps one behind it."""

    __constants__ = ["has_second"]  # by which TorchScript, that knows modules of one kind of input, leaves one out

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.has_second = len(modules) > 1

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Return what the last module gives."""
        output = self[0](inputs)
        if self.has_second:
            output = self[1](output)
        return output


class JoiningConv3d(nn.Conv3d):
    """Convolution of fine features and of coarse ones that are upsampled to the nearest, side by side, as they are."""

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Return the features that follow; see `FusingConvolution`."""
        joined = inputs[0]
        if len(inputs) > 1:
            joined = torch.cat((joined, F.interpolate(inputs[1], scale_factor=2.0, mode="nearest")), dim=1)
        return self._conv_forward(joined, self.weight, self.bias)


def fold_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Return the kernel of a transposed convolution that upsamples an image to the nearest, and convolves it.

    Args:
        kernel: of the convolution, of shape `(O, I, k, k, k)`.

    Returns:
        Kernel of shape `(I, O, k + 1, k + 1, k + 1)`, for a stride of 2 and a padding of `k - 1`.
    """
    kernel = kernel.flip([2, 3, 4]).transpose(0, 1)
    kernel = F.pad(kernel, [0, 1, 0, 0, 0, 0]) + F.pad(kernel, [1, 0, 0, 0, 0, 0])
    kernel = F.pad(kernel, [0, 0, 0, 1, 0, 0]) + F.pad(kernel, [0, 0, 1, 0, 0, 0])
    return F.pad(kernel, [0, 0, 0, 0, 0, 1]) + F.pad(kernel, [0, 0, 0, 0, 1, 0])
