"""Laws of how patches reach the network."""

from __future__ import annotations

import torch

from common.fnet import PreparePatches

BATCH = {
    "image": torch.randn(2, 1, 4, 4, 4),
    "context": [torch.randn(2, 1, 3, 3, 3)],
    "label": torch.ones(2, 1, 2, 2, 2),
}


def test_the_label_is_the_target_and_the_coarser_patches_are_arguments():
    image, target, context, named = PreparePatches()(BATCH, "cpu", False)
    assert image is BATCH["image"] and target is BATCH["label"] and named == {}
    assert context == (BATCH["context"][0],)


def test_autoencoders_have_their_input_as_target():
    image, target, context, _ = PreparePatches(reconstruct=True)({"image": BATCH["image"], "context": BATCH["context"]})
    assert target == [image, *context]


def test_every_tensor_is_moved():
    image, target, context, _ = PreparePatches()(BATCH, torch.device("cpu"), dtype=torch.float64)
    assert {tensor.dtype for tensor in (image, target, *context)} == {torch.float64}
