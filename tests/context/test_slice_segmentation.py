"""Law of how slices and their labels reach a network with a channel for each class but the background."""

from __future__ import annotations

import torch

from common.context import SliceSegmentation
from common.training import PrepareTask


def test_slices_and_their_labels_are_moved_as_they_are():
    image, label = torch.randn(2, 3, 4, 5), torch.randint(-1, 4, (2, 2, 4, 5), dtype=torch.int32)
    moved = PrepareTask(SliceSegmentation())({"image": image, "label": label}, "cpu", False)
    assert moved[0] is image
    assert moved[1] is label
