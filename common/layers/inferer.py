"""Inference without labels: the mask of the layers becomes a segmentation, and the other layers images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Self

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform

from common.cli import InputError
from common.training import smaller_inferer

__all__ = ["MaskInferer", "SplitLayersd"]


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
