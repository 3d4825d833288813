"""Laws of the inpainting loss, and of the segmentation loss of classes that overlap or exclude one another."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceFocalLoss
from monai.networks import one_hot

from common.context import DiceCrossEntropyLoss, InpaintingLoss

# ---- inpainting ----------------------------------------------------------------------------------


def test_inpainting_has_the_value_worked_out_by_hand():
    """Two images of two channels with summed errors of 1 + 4, 0, 9 and 2: their mean is 4."""
    target = torch.zeros(2, 2, 1, 2)
    input = torch.tensor([[[[1.0, -2.0]], [[0.0, 0.0]]], [[[3.0, 0.0]], [[1.0, 1.0]]]])
    loss = InpaintingLoss()(input, target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(4)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_it_is_the_mean_squared_error_times_the_number_of_pixels(batch_size):
    input, target = torch.randn(2, batch_size, 3, 7, 9).unbind()
    torch.testing.assert_close(InpaintingLoss()(input, target), 7 * 9 * F.mse_loss(input, target))


def test_zero_for_equal_images_and_a_gradient_for_others():
    input, target = torch.randn(2, 1, 4, 4, requires_grad=True), torch.randn(2, 1, 4, 4)
    assert InpaintingLoss()(target, target).item() == 0
    InpaintingLoss()(input, target).backward()
    torch.testing.assert_close(input.grad, (input.detach() - target))  # 2 / (2 images x 1 channel)


def test_a_large_image_of_half_precision_does_not_overflow():
    input, target = torch.full((1, 1, 512, 512), 2.0, dtype=torch.float16), torch.zeros(1, 1, 512, 512)
    assert InpaintingLoss()(input, target).item() == 4 * 512 * 512


def test_another_shape_than_that_of_the_image_is_refused():
    with pytest.raises(ValueError, match=r"target must have the shape of input \(1, 1, 2, 2\), got \(1, 1, 2, 1\)"):
        InpaintingLoss()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 1))


# ---- segmentation --------------------------------------------------------------------------------


def make_batch(batch_size=2, num_classes=3):
    """Return logits without background, and a label with it, of shape `(B, 1, H, W)`."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch_size, num_classes, 5, 4, generator=generator)
    return logits, torch.randint(0, num_classes + 1, (batch_size, 1, 5, 4), generator=generator)


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_with_sigmoids_it_is_the_dice_loss_of_monai_with_a_binary_cross_entropy(batch_size, num_classes, weight):
    logits, label = make_batch(batch_size, num_classes)
    masks = one_hot(label, num_classes + 1)[:, 1:]
    expected = DiceFocalLoss(sigmoid=True, batch=True, gamma=0.0, lambda_focal=weight, smooth_nr=0.0)(logits, masks)
    torch.testing.assert_close(DiceCrossEntropyLoss(False, weight)(logits, label), expected)


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_with_a_softmax_it_is_the_loss_of_monai_with_a_background_logit_of_zero(batch_size, num_classes, weight):
    logits, label = make_batch(batch_size, num_classes)
    loss = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=0.0, lambda_ce=weight
    )
    expected = loss(torch.cat((torch.zeros_like(logits[:, :1]), logits), 1), label)
    torch.testing.assert_close(DiceCrossEntropyLoss(True, weight)(logits, label), expected)


@pytest.mark.parametrize(("softmax", "probability", "classes"), [(False, 1 / 2, 2), (True, 1 / 3, 1)])
def test_value_worked_out_by_hand(softmax, probability, classes):
    """Two pixels with logits of zero, the first of class 1: its Dice is 2 p / (1 + 2 p), and that of class 2 is 0."""
    label = torch.tensor([[[[1, 0]]]])
    dice = 2 * probability / (1 + 2 * probability)
    cross_entropy = -math.log(probability)  # of sigmoids a mean over two classes, which is the same
    value = DiceCrossEntropyLoss(softmax, 10.0)(torch.zeros(1, 2, 1, 2), label)
    assert value.item() == pytest.approx(1 - dice / 2 + 10 * cross_entropy, rel=1e-4)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_perfect_segmentation_costs_nothing_and_nothing_comes_of_a_minibatch_without_labels(softmax):
    logits, label = make_batch()
    masks = one_hot(label, 4)[:, 1:]
    loss = DiceCrossEntropyLoss(softmax, 1.0)
    assert loss(100 * (2 * masks - 1), label).item() == pytest.approx(0, abs=1e-6)
    logits.requires_grad_()
    DiceCrossEntropyLoss(softmax)(logits, torch.zeros_like(label)).backward()
    assert not logits.grad.any()
    loss(logits, torch.zeros_like(label)).backward()
    assert (logits.grad > 0).all()


def test_only_with_a_softmax_does_a_class_push_the_others_away():
    label = torch.ones(1, 1, 1, 1)
    for softmax in (False, True):
        logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
        DiceCrossEntropyLoss(softmax)(logits, label).backward()
        assert (logits.grad[0, 1].item() > 0) == softmax


def test_the_label_map_of_sigmoids_is_that_of_a_softmax_with_background():
    logits, _ = make_batch()
    probability, best = logits.sigmoid().max(1)
    label_map = torch.where(probability > 0.5, best + 1, 0)
    assert torch.equal(label_map, torch.cat((torch.zeros_like(logits[:, :1]), logits), 1).softmax(1).argmax(1))


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"target must .* the size of input \(1, 2, 3, 3\), got \(1, 1, 3, 2\)"):
        DiceCrossEntropyLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 2))


def test_text_is_no_flag():
    with pytest.raises(TypeError, match="softmax must be True or False"):
        DiceCrossEntropyLoss(softmax="false")


def test_a_restoration_counts_in_every_channel_alike():
    input, target = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    channels = [InpaintingLoss()(input[:, index : index + 1], target[:, index : index + 1]) for index in range(3)]
    torch.testing.assert_close(InpaintingLoss()(input, target), torch.stack(channels).mean())
    order = [2, 0, 1]
    torch.testing.assert_close(InpaintingLoss()(input[:, order], target[:, order]), InpaintingLoss()(input, target))
