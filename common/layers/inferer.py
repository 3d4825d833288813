"""Inference: windows that fit the scan; without labels, the mask of the layers is a segmentation, the others images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Self

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from common.cli import InputError
from common.training import smaller_inferer

__all__ = ["FittedWindowInferer", "MaskInferer", "SplitLayersd", "fit_window"]


_HALVED = 32  # voxels along an axis that are one in the coarsest level of a usual U-Net, at most


class FittedWindowInferer(SlidingWindowInferer):
    """MONAI's sliding window in a size that fits the scan: somewhat longer where fewer windows cover it then.

    A scan that is a voxel longer than the window takes two of them along that axis, one upon the other; a window that
    is as long takes one, and has no border within the scan. Where no longer window pays, it is MONAI's, to the bit.

    Args:
        roi_size: smallest size of the window in voxels; scans that are shorter are padded, as by MONAI.
        growth: by which factor each edge may exceed it, which bounds the memory.
        **options: of MONAI's `SlidingWindowInferer`.

    Raises:
        ValueError: when the growth is below 1.
    """

    def __init__(self, roi_size: Sequence[int] | int, growth: float = 1.25, **options: Any) -> None:
        if growth < 1:
            raise InputError(f"growth must be 1 or more, got {growth}")
        super().__init__(roi_size, **options)
        self.growth = growth

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the network makes of scans of shape `(B, C, H, W, D)`, put together from its windows."""
        fitted = copy.copy(self)
        size = inputs.shape[2:]
        edges, overlaps = ensure_tuple_rep(self.roi_size, len(size)), ensure_tuple_rep(self.overlap, len(size))
        fitted.roi_size = [fit_window(*along, growth=self.growth) for along in zip(size, edges, overlaps, strict=True)]
        return super(FittedWindowInferer, fitted).__call__(inputs, network, *args, **kwargs)


def fit_window(length: int, window: int, overlap: float, growth: float) -> int:
    """Return the edge of the windows that cover an axis with the fewest voxels in all, the smallest one of several.

    It exceeds the shortest edge by steps in which a U-Net that takes that one can halve it as often, up to five times.

    Args:
        length: voxels of the scan.
        window: shortest edge.
        overlap: of neighboring windows, as a share of their edge.
        growth: by which factor the longest edge exceeds the shortest.
    """
    if length <= window:
        return window

    def voxels(edge: int) -> int:
        step = max(int(edge * (1 - overlap)), 1)
        return edge * (math.ceil(max(length - edge, 0) / step) + 1)

    return min(range(window, math.floor(growth * window) + 1, math.gcd(window, _HALVED)), key=voxels)


class MaskInferer(Inferer):
    """Inferer of two classes from layers: their mask as logits of background, which are 0, and of tumor.

    It runs another inferer. The softmax of the two is the sigmoid of the mask, and the tumor is where that is above one
    half.

    Args:
        inferer: such as MONAI's sliding window.
        with_layers: append the organ without its tumor and the tumor, each with the channels of the scan.
    """

    def __init__(self, inferer: Inferer, with_layers: bool = False) -> None:
        super().__init__()
        self.inferer = inferer
        self.with_layers = with_layers

    def smaller(self) -> Self | None:
        """Return an inferer that runs a smaller one, see `smaller_inferer`."""
        inner = smaller_inferer(self.inferer)
        if inner is None:
            return None
        other = copy.copy(self)
        other.inferer = inner
        return other

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return logits of shape `(B, 2, H, W, D)` for scans of shape `(B, C, H, W, D)`."""
        layers = self.inferer(inputs, network, *args, **kwargs)
        mask = layers[:, -1:]
        logits = torch.cat((torch.zeros_like(mask), mask), dim=1)
        return torch.cat((logits, layers[:, :-1]), dim=1) if self.with_layers else logits


class SplitLayersd(MapTransform):
    """Split of what `MaskInferer` returns with layers, of shape `(2 + 2 * in_channels, H, W, D)`.

    The logits of background and tumor stay under their key. The organ without its tumor becomes `restored`, and the
    tumor `tumor`, both of shape `(in_channels, H, W, D)` and in units of the organ's median in each channel.

    Args:
        keys: of what is split.
        in_channels: channels of a scan.

    Raises:
        ValueError: when there are no layers.
    """

    def __init__(self, keys: KeysCollection, in_channels: int = 1) -> None:
        super().__init__(keys)
        self.in_channels = in_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            layers = out[key]
            count = 2 + 2 * self.in_channels
            if len(layers) != count:
                raise InputError(
                    f"layers must be those of a pretraining, {count} channels, got {len(layers)}; add zero_shot.yaml"
                )
            restored, tumor = layers[2:].split(self.in_channels)
            out.update({key: layers[:2], "restored": restored, "tumor": tumor})
        return out
