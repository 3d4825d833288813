"""Inference of a 2D network on volumes, slice by slice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch.nn import functional as F

from common.cli import InputError, check_choice, check_each
from common.cli.options import POSITIVE_INT

from .slices import slice_axis

__all__ = ["WholeSliceInferer"]

_PIXELS = 2 * 512**2  # of a minibatch on a CPU; with more, of 512 x 512 pixels a slice takes up to a third longer


class WholeSliceInferer(Inferer):
    """Inference of a 2D network that sees whole slices of a volume, several at a time.

    MONAI's `SliceInferer` cuts slices into windows of a given size; here a slice of any size is one input, padded as it
    is in a training (see `SliceDataset`), and the output is cropped.

    Args:
        axis: of the volume, to which the slices are perpendicular; see `SliceDataset`.
        batch_size: slices in a minibatch; fewer on a CPU where they are large.
        slice_size: height and width in pixels, up to which smaller slices are padded, at their far sides, with the
            smallest intensity of their volume in each channel; those of the training's crops. None: nothing is padded.
        sigmoid: turn the network's output into a probability for each class; otherwise it is left as it is.
        output_dtype: of the probabilities; that of the network's output if not given.
    """

    def __init__(
        self,
        axis: int = 2,
        batch_size: int = 8,
        slice_size: Sequence[int] | None = None,
        sigmoid: bool = True,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("axis", axis, (0, 1, 2))
        check_each(POSITIVE_INT, batch_size=batch_size)
        check_each(POSITIVE_INT.times(2).or_null, slice_size=slice_size)
        self.axis = axis
        self.batch_size = batch_size
        self.slice_size = slice_size or (1, 1)
        self.sigmoid = sigmoid
        self.output_dtype = output_dtype

    def smaller(self) -> Self | None:
        """Return an inferer of half as many slices at a time, with the same result; None where it is one slice."""
        if self.batch_size == 1:
            return None
        other = copy.copy(self)
        other.batch_size = self.batch_size // 2
        return other

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return probabilities of shape `(B, num_classes, H, W, D)` for volumes of shape `(B, C, H, W, D)`."""
        if inputs.ndim != 5:
            raise InputError(f"inputs must have shape (B, C, H, W, D), got {tuple(inputs.shape)}")
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        axis = slice_axis(volumes.shape[2:], self.axis) + 2
        slices = volumes.movedim(axis, 1)  # (B, slices, C, H, W)
        fill = volumes.flatten(2).amin(2)[:, None, :, None, None].expand(-1, slices.shape[1], -1, 1, 1)
        slices, fill = slices.flatten(0, 1), fill.flatten(0, 1)
        height, width = slices.shape[2:]
        padding = (0, max(self.slice_size[1] - width, 0), 0, max(self.slice_size[0] - height, 0))
        is_cpu = volumes.device.type == "cpu"
        number = self.batch_size
        if is_cpu:  # which asks the system anew for each large block of memory
            number = max(min(number, _PIXELS // slices[0, 0].numel()), 1)
        whole: torch.Tensor | None = None
        for first in range(0, len(slices), number):
            place = slice(first, first + number)
            part = slices[place]
            if any(padding):
                part = F.pad(part - fill[place], padding) + fill[place]
            if is_cpu:  # 1.1 to 1.7 times as fast there; a training in bfloat16 is slower so
                part = part.contiguous(memory_format=torch.channels_last)
            output = network(part, *args, **kwargs)[..., :height, :width]
            output = output.float().sigmoid() if self.sigmoid else output
            if whole is None:  # filled part by part: joined parts would take twice the memory
                shape = len(slices), *output.shape[1:]
                whole = torch.empty(shape, dtype=self.output_dtype or output.dtype, device=output.device)
            whole[place] = output
        return cast(torch.Tensor, whole).unflatten(0, (len(volumes), -1)).movedim(1, axis)
