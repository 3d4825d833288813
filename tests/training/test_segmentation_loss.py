"""Laws of the losses of labels that leave something open: it has no part in them, and what is in doubt a small one."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from common.context import DiceCrossEntropyLoss
from common.data import IGNORED, MAX_DOUBT, class_set
from common.training import PartialLabelLoss, class_weights

NUM_CLASSES = 4


def dice_ce() -> PartialLabelLoss:
    return PartialLabelLoss(DiceCELoss(softmax=True, to_onehot_y=True, batch=True))


def dice() -> PartialLabelLoss:
    inner = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return PartialLabelLoss(inner, cross_entropy_weight=0.0, include_background=False)


LOSSES = {
    "dice and cross entropy": (dice_ce, NUM_CLASSES),
    "dice": (dice, NUM_CLASSES),
    "sigmoids": (lambda: DiceCrossEntropyLoss(False, 1.0), NUM_CLASSES - 1),
    "softmax of slices": (lambda: DiceCrossEntropyLoss(True, 1.0), NUM_CLASSES - 1),
}
every_loss = pytest.mark.parametrize(("make", "channels"), LOSSES.values(), ids=LOSSES.keys())


def make_batch(channels: int, shape=(2, 6, 5, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that have a gradient, and labels of shape `(B, 1, *spatial_size)`."""
    generator = torch.Generator().manual_seed(0)
    batch_size, *size = shape
    logits = torch.randn(batch_size, channels, *size, generator=generator).requires_grad_()
    return logits, torch.randint(0, NUM_CLASSES, (batch_size, 1, *size), generator=generator)


def with_confidence(label: torch.Tensor, confidence: float | torch.Tensor) -> torch.Tensor:
    doubt = torch.round((1 - torch.as_tensor(confidence)) * MAX_DOUBT).to(label)
    return torch.cat((label, doubt.expand_as(label)), dim=1)


@pytest.mark.parametrize("make", [dice_ce, dice])
def test_where_nothing_is_open_it_is_the_loss_that_it_is_made_of_to_the_bit(make):
    logits, label = make_batch(NUM_CLASSES)
    expected = make().loss(logits, label)
    assert make()(logits, label).equal(expected)
    assert make()(logits, with_confidence(label, 1.0)).equal(expected)


@every_loss
def test_no_doubt_changes_nothing(make, channels):
    logits, label = make_batch(channels)
    assert make()(logits, with_confidence(label, 1.0)).equal(make()(logits, label))


@every_loss
@pytest.mark.parametrize("is_doubted", [False, True])
def test_it_is_that_of_the_minibatch_from_which_the_open_part_is_cut_away(make, channels, is_doubted):
    logits, label = make_batch(channels)
    expected = make()(logits[:, :, :4], label[:, :, :4])
    if is_doubted:
        confidence = torch.ones_like(label, dtype=torch.float)
        confidence[:, :, 4:] = 0
        partial = with_confidence(label, confidence)
    else:
        partial = label.clone()
        partial[:, :, 4:] = IGNORED
    torch.testing.assert_close(make()(logits, partial), expected, rtol=1e-6, atol=1e-6)


@every_loss
def test_a_voxel_that_is_not_labeled_has_no_gradient_and_its_logits_do_not_count(make, channels):
    logits, label = make_batch(channels)
    is_open = torch.rand(label.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    label[is_open] = IGNORED
    loss = make()(logits, label)
    loss.backward()
    is_open = is_open.expand_as(logits)
    assert not logits.grad[is_open].any()
    assert logits.grad[~is_open].any()
    changed = torch.where(is_open, 5 - logits.detach(), logits.detach())
    assert make()(changed, label).equal(loss.detach())


@every_loss
def test_a_minibatch_without_any_label_costs_the_same_whatever_is_predicted(make, channels):
    logits, label = make_batch(channels)
    loss = make()(logits, torch.full_like(label, IGNORED))
    loss.backward()
    assert loss.isfinite()
    assert not logits.grad.any()


@every_loss
@pytest.mark.parametrize("confidence", [0.2, 0.8])
def test_confidence_that_is_alike_everywhere_changes_next_to_nothing(make, channels, confidence):
    logits, label = make_batch(channels)
    expected = make()(logits, label)
    torch.testing.assert_close(make()(logits, with_confidence(label, confidence)), expected, rtol=1e-4, atol=1e-5)


def test_a_voxel_counts_by_its_confidence_in_the_cross_entropy():
    """Two voxels of class 1 with probabilities of 1/2 and 1/5, of which the second has a confidence of 0.2."""
    logits = torch.tensor([[[0.5, 0.8], [0.5, 0.2]]]).log()
    label = torch.tensor([[[1, 1], [0, round(0.8 * MAX_DOUBT)]]])
    loss = PartialLabelLoss(DiceCELoss(), dice_weight=0.0)
    assert loss(logits, label).item() == pytest.approx((math.log(2) + 0.2 * math.log(5)) / 1.2)


def test_a_voxel_counts_by_its_confidence_in_the_dice_loss():
    """Dice of class 1: 2 (0.5 + 0.2 * 0.2) over the sum of probabilities 0.54 and of voxels 1.2."""
    logits = torch.tensor([[[0.5, 0.8], [0.5, 0.2]]]).log()
    label = torch.tensor([[[1, 1], [0, round(0.8 * MAX_DOUBT)]]])
    loss = PartialLabelLoss(DiceLoss(), cross_entropy_weight=0.0, include_background=False)
    assert loss(logits, label).item() == pytest.approx(1 - 2 * 0.54 / (0.54 + 1.2), abs=1e-4)


def test_one_of_several_classes_costs_the_logarithm_of_their_probabilities_together():
    """Background or class 2, with probabilities of 0.1 and 0.3; and a voxel of class 1, with one of 0.6."""
    logits = torch.tensor([[[0.1, 0.2], [0.6, 0.6], [0.3, 0.2]]]).log()
    label = torch.tensor([[[class_set([0, 2]), 1]]])
    loss = PartialLabelLoss(DiceCELoss(), dice_weight=0.0)
    assert loss(logits, label).item() == pytest.approx(-(math.log(0.4) + math.log(0.6)) / 2)
    of_slices = DiceCrossEntropyLoss(True, 1.0)
    without_background = logits[:, 1:] - logits[:, :1]
    difference = of_slices(without_background, label) - DiceCrossEntropyLoss(True, 0.0)(without_background, label)
    assert difference.item() == pytest.approx(-(math.log(0.4) + math.log(0.6)) / 2)


@every_loss
def test_a_class_that_is_possible_is_not_pushed_down_and_one_that_is_not_is(make, channels):
    logits = torch.zeros(1, channels, 1, 1, 2, requires_grad=True)
    label = torch.tensor([class_set([0, 2]), 1]).view(1, 1, 1, 1, 2)
    make()(logits, label).backward()
    first = channels - NUM_CLASSES  # channel of the background; -1 where there is none
    gradient = logits.grad[0, :, 0, 0, 0]
    assert gradient[first + 1].item() > 0
    assert gradient[first + 2].item() <= 0


def test_masks_and_weights_of_each_class():
    label = torch.tensor([[[1, IGNORED, class_set([0, 2]), 2], [0, 0, 0, 51]]])
    masks, weights = class_weights(label, 3)
    assert masks[0].int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(weights[0], torch.tensor([[1, 0, 0, 0.8], [1, 0, 1, 0.8], [1, 0, 0, 0.8]]))


@pytest.mark.parametrize("shape", [(2, 3, 6, 5, 4), (2, 1, 6, 5, 3)])
@every_loss
def test_another_shape_is_refused(make, channels, shape):
    with pytest.raises(ValueError, match="target must have 1 or 2 channels and the size of input"):
        make()(make_batch(channels)[0], torch.zeros(shape))
