"""The layers of a scan, apart from its segmentation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SplitLayersd"]


class SplitLayersd(MapTransform):
    """Take what `MaskInferer` gives with layers apart.

    Args:
        keys: tensor of shape `(4, H, W, D)`: logits of background and tumor, the organ and the tumor. The logits stay.
        organ_key: where the organ without its tumor goes, of shape `(1, H, W, D)`, in units of the organ's median.
        tumor_key: where the tumor goes.
        allow_missing_keys: skip the keys that an item lacks.

    Raises:
        ValueError: when there are no layers.
    """

    def __init__(
        self,
        keys: KeysCollection,
        organ_key: str = "restored",
        tumor_key: str = "tumor",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.organ_key = organ_key
        self.tumor_key = tumor_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            layers = out[key]
            if len(layers) != 4:
                raise ValueError(
                    f"layers must be those of a pretraining, four channels, got {len(layers)}; add zero_shot.yaml"
                )
            out.update({key: layers[:2], self.organ_key: layers[2:3], self.tumor_key: layers[3:4]})
        return out
