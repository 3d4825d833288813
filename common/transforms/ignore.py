"""Scores of labels that leave something open: what is not labeled is neither right nor wrong."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from common.data import IGNORED, member_mask

__all__ = ["IgnoreUnlabeledd"]


class IgnoreUnlabeledd(MapTransform):
    """Make a segmentation background where its label lets it be what it is, and the label, too, where it is open.

    A voxel that is not labeled then counts for no class, and neither does a class that the case is not labeled with.
    Where nothing is known of a voxel, the metadata of the label keep it as `ignored`, of the shape of the label, since
    what looks like the surface of a body there is none.

    Args:
        keys: of label maps of shape `(1, *spatial_size)`; the result has whole numbers from 0.
        label_key: of the label, see `common.data.partial_labels`, of the same size.
        num_classes: background included.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str, num_classes: int, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        label = out[self.label_key]
        values = convert_to_tensor(label, track_meta=False)[:1].cpu()
        if not (values < 0).any():
            return out
        members = member_mask(values[None], self.num_classes)[0]
        is_open, unlisted = values < 0, _unlisted(values, self.num_classes)
        for key in self.key_iterator(out):
            pred = torch.as_tensor(out[key]).long()
            is_left_out = (members.gather(0, pred) & is_open) | unlisted[pred]
            out[key] = torch.where(is_left_out, 0, torch.as_tensor(out[key]))
        out[self.label_key] = torch.where(is_open, 0, torch.as_tensor(out[self.label_key])[:1])
        if isinstance(out[self.label_key], MetaTensor) and (values == IGNORED).any():
            out[self.label_key].meta["ignored"] = values == IGNORED
        return out


def _unlisted(values: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return, for each class, whether the case is not labeled with it: its voxels may be among the background."""
    sets = values[values < IGNORED].unique()
    found = torch.zeros(num_classes, dtype=torch.bool)
    if len(sets):
        found = member_mask(sets.view(1, 1, -1), num_classes)[0].any(dim=1)
        found[0] = False
    return found
