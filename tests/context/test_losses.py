"""Laws of the inpainting loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.context import InpaintingLoss


def test_value_worked_out_by_hand():
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


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"target must have the shape of input \(1, 1, 2, 2\), got \(1, 1, 2, 1\)"):
        InpaintingLoss()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 1))
