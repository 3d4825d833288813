"""Laws of how slices and their labels reach a network with a channel for each class."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DiceLoss

from common.context import SliceSegmentation
from common.training import PrepareTask


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(2, 3, 4, 5, generator=generator),
        "label": torch.randint(0, 4, (2, 1, 4, 5), generator=generator).to(torch.int16),
    }


def test_each_class_has_a_mask_and_background_has_none(batch):
    image, masks = PrepareTask(SliceSegmentation(4))(batch, "cpu", False)
    assert image is batch["image"]
    assert masks.shape == (2, 3, 4, 5)
    for value in (1, 2, 3):
        assert torch.equal(masks[:, value - 1], (batch["label"][:, 0] == value).float())


def test_a_class_that_no_slice_shows_has_an_empty_mask(batch):
    assert not PrepareTask(SliceSegmentation(6))(batch)[1][:, 3:].any()


def test_masks_have_the_precision_of_the_image(batch):
    assert {tensor.dtype for tensor in PrepareTask(SliceSegmentation(4))(batch, dtype=torch.float64)} == {torch.float64}


def test_a_perfect_prediction_has_no_dice_loss(batch):
    _, masks = PrepareTask(SliceSegmentation(4))({**batch, "label": MetaTensor(batch["label"])})
    loss = DiceLoss(sigmoid=True, batch=True)
    assert loss(100 * (2 * masks - 1), masks).item() == pytest.approx(0, abs=1e-6)
    assert loss(100 * (1 - 2 * masks), masks).item() == pytest.approx(1, abs=1e-6)


def test_a_label_beyond_the_classes_is_refused(batch):
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        PrepareTask(SliceSegmentation(3))(batch)
