"""Laws of the reconstruction loss."""

from __future__ import annotations

import pytest
import torch

from common.fnet import ReconstructionLoss


def test_value_worked_out_by_hand():
    """Errors of 0.5 and 2 under delta 1 cost 0.125 and 1.5; the levels' means are added."""
    fine, coarse = torch.zeros(2, 1, 1, 1, 2), torch.zeros(2, 1, 1, 1, 1)
    target = [torch.tensor([0.5, 2.0]).expand(2, 1, 1, 1, 2), torch.full((2, 1, 1, 1, 1), -2.0)]
    loss = ReconstructionLoss()([fine, coarse], target)
    assert loss.shape == ()
    assert loss.item() == pytest.approx((0.125 + 1.5) / 2 + 1.5)


def test_the_mean_over_levels_is_their_sum_divided_by_their_number():
    patches = [torch.randn(2, 1, 3, 3, 3), torch.randn(2, 1, 2, 2, 2), torch.randn(2, 1, 1, 1, 1)]
    targets = [torch.zeros_like(patch) for patch in patches]
    mean = ReconstructionLoss(reduction="mean")(patches, targets)
    torch.testing.assert_close(3 * mean, ReconstructionLoss()(patches, targets))
    with pytest.raises(ValueError, match="reduction must be one of sum, mean, got 'none'"):
        ReconstructionLoss(reduction="none")


def test_delta_is_where_the_loss_becomes_linear():
    target = [torch.full((1, 1, 1, 1, 1), 10.0)]
    assert ReconstructionLoss(delta=2.0)([torch.zeros(1, 1, 1, 1, 1)], target).item() == pytest.approx(2 * (10 - 1))


def test_zero_for_equal_tensors_and_the_same_for_a_repeated_batch():
    patches = [torch.randn(2, 1, 3, 3, 3), torch.randn(2, 1, 2, 2, 2)]
    others = [torch.randn_like(patch) for patch in patches]
    assert ReconstructionLoss()(patches, patches).item() == 0
    repeated = ReconstructionLoss()([torch.cat((p, p)) for p in patches], [torch.cat((o, o)) for o in others])
    torch.testing.assert_close(repeated, ReconstructionLoss()(patches, others))


def test_each_level_trains_as_if_it_were_alone():
    patches = [torch.randn(1, 1, 3, 3, 3, requires_grad=True), torch.randn(1, 1, 2, 2, 2, requires_grad=True)]
    targets = [torch.zeros_like(patch) for patch in patches]
    together = torch.autograd.grad(ReconstructionLoss()(patches, targets), patches)
    for patch, target, gradient in zip(patches, targets, together, strict=True):
        (alone,) = torch.autograd.grad(ReconstructionLoss()([patch], [target]), patch)
        torch.testing.assert_close(gradient, alone)
        assert gradient.abs().min() > 0


def test_other_shapes_are_refused():
    first, second = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 1)
    for target in ([first, second], [first]):
        with pytest.raises(ValueError, match=r"target must have the shapes of input .* got \["):
            ReconstructionLoss()([first, first], target)
