"""Laws of the losses of layer decomposition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from common.layers import (
    LAYERS,
    LayerDecompositionLoss,
    RandStarShape,
    RandTumorLayers,
    compose_layers,
    selection_loss,
    split_layers,
)

NAMES = ("organ_weight", "tumor_weight", "mask_weight", "composition_weight", "cross_entropy_weight")


def only(name):
    """Return a loss of which one part counts."""
    return LayerDecompositionLoss(**{**dict.fromkeys(NAMES, 0.0), name: 1.0})


def make_target(alpha, batch_size=2):
    """Return layers that compose their scan, with a mask of whole numbers."""
    generator = torch.Generator().manual_seed(0)
    organ, tumor = torch.rand(2, batch_size, 6, 5, 4, generator=generator)
    mask = (torch.rand(batch_size, 6, 5, 4, generator=generator) < 0.3).float()
    opacity = torch.full_like(mask, alpha)
    return torch.stack((organ, tumor * mask, mask, opacity, compose_layers(organ, tumor, mask, opacity)), dim=1)


def truth(target):
    """Return what a network that knew the layers would answer."""
    return torch.cat((target[:, :2], 200 * target[:, 2:3] - 100), dim=1)


def printed(pred, target):
    """Return the composition loss with organ and tumor as in equations 2 and 9."""
    organ, tumor, logit = pred.unbind(1)
    alpha, image = target[:, 3], target[:, 4]
    mask = logit.sigmoid()
    return ((1 - alpha * mask) * tumor + alpha * mask * organ - image).abs().mean()


# ---- composition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 0.8, 1.0])
def test_the_true_layers_have_no_loss_and_by_the_printed_equations_they_would(alpha):
    target = make_target(alpha)
    assert only("composition_weight")(truth(target), target).item() == pytest.approx(0, abs=1e-6)
    assert LayerDecompositionLoss()(truth(target), target).item() == pytest.approx(0, abs=1e-5)
    assert printed(truth(target), target) > 0.2


@pytest.mark.parametrize("target", ["texture", "blended"])
def test_the_layers_of_a_simulation_have_no_loss(target):
    simulation = RandTumorLayers(RandStarShape((100, 400)), num_tumors=(1, 2), target=target, prob=1.0)
    generator = torch.Generator().manual_seed(0)
    scans = torch.rand(2, 2, 1, 16, 16, 16, generator=generator) + 0.5
    batch = {"image": scans[0], "donor": scans[1], "organ": torch.ones_like(scans[0])}
    layers = simulation.make_batch({**batch, "seed": torch.tensor([1, 2]), "spacing": torch.ones(2, 3)})
    assert (layers[:, 2].flatten(1).amax(1) == 1).all()
    assert LayerDecompositionLoss()(truth(layers), layers).item() == pytest.approx(0, abs=1e-5)


def test_the_printed_equations_would_reward_a_mask_of_everything():
    """With a network that gives the scan as organ, everything is tumor at no cost; here, nothing is."""
    target = make_target(1.0)
    everything = torch.cat((target[:, 4:], 0 * target[:, 4:], torch.full_like(target[:, 4:], 100)), dim=1)
    nothing = torch.cat((target[:, 4:], 0 * target[:, 4:], torch.full_like(target[:, 4:], -100)), dim=1)
    assert printed(everything, target) == pytest.approx(0, abs=1e-6) and printed(nothing, target) > 0.2
    loss = only("composition_weight")
    assert loss(nothing, target) == pytest.approx(0, abs=1e-6) and loss(everything, target) > 0.2


def test_the_composition_counts_only_while_it_is_composed():
    target = make_target(0.5)
    pred = torch.randn(2, 3, 6, 5, 4)
    loss, without = LayerDecompositionLoss(), LayerDecompositionLoss(composition_weight=0.0)
    assert loss.is_composed
    assert loss(pred, target) > without(pred, target)
    loss.is_composed = False
    assert torch.equal(loss(pred, target), without(pred, target))


# ---- values --------------------------------------------------------------------------------------


def by_hand():
    """Return two voxels whose organ is 1 too high and tumor 2 too low, half of whose mask is right."""
    organ, tumor, mask, alpha, image = [2.0, 2.0], [4.0, 0.0], [1.0, 0.0], [0.5, 0.5], [3.0, 2.0]
    target = torch.tensor([organ, tumor, mask, alpha, image]).view(1, 5, 1, 1, 2)
    pred = torch.tensor([[3.0, 3.0], [2.0, -2.0], [0.0, 0.0]]).view(1, 3, 1, 1, 2)
    # half of the mask and half of the opacity: 0.75 * 3 + 0.25 * 2 = 2.75 and 0.75 * 3 - 0.25 * 2 = 1.75
    return pred, target


VALUES = {
    "organ_weight": 1.0,
    "tumor_weight": 2.0,
    "mask_weight": 1 - 2 * 0.5 / (1 + 0.5 + 0.5),
    "composition_weight": (0.25 + 0.25) / 2,
    "cross_entropy_weight": math.log(2),
}


@pytest.mark.parametrize("name", NAMES)
def test_value_worked_out_by_hand(name):
    loss = only(name)(*by_hand())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(VALUES[name], abs=1e-4)


def test_parts_are_added_by_their_weights_all_1_but_the_cross_entropy():
    weights = dict(zip(NAMES, (0.5, 0.25, 3.0, 2.0, 0.125), strict=True))
    expected = sum(weight * VALUES[name] for name, weight in weights.items())
    assert LayerDecompositionLoss(**weights)(*by_hand()).item() == pytest.approx(expected, abs=1e-4)
    default = sum(VALUES[name] for name in NAMES[:4])
    assert LayerDecompositionLoss()(*by_hand()).item() == pytest.approx(default, abs=1e-4)


def test_the_dice_is_that_of_all_voxels_of_a_minibatch_at_once():
    """A scan without a tumor has its share."""
    target = make_target(0.5, 4)
    target[0, 2] = 0
    pred = torch.randn(4, 3, 6, 5, 4)
    mask, sigmoid = target[:, 2], pred[:, 2].sigmoid()
    expected = 1 - 2 * (mask * sigmoid).sum() / (mask.sum() + sigmoid.sum())
    assert only("mask_weight")(pred, target).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_repeated_batch_has_the_same_loss(batch_size):
    target, pred = make_target(0.5, batch_size), torch.randn(batch_size, 3, 6, 5, 4)
    loss = LayerDecompositionLoss(cross_entropy_weight=1.0)
    torch.testing.assert_close(
        loss(torch.cat((pred, pred)), torch.cat((target, target))), loss(pred, target), atol=1e-4, rtol=1e-4
    )


# ---- real scans ----------------------------------------------------------------------------------


def real(batch_size):
    scans = torch.rand(batch_size, 6, 5, 4, generator=torch.Generator().manual_seed(3))
    layers = torch.zeros(batch_size, len(LAYERS), 6, 5, 4)
    layers[:, 2], layers[:, 3], layers[:, 4] = -1, 1, scans
    return layers


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_of_real_scans_only_the_composition_counts(order):
    simulated, scans = make_target(0.5), real(2)
    pred = torch.randn(4, 3, 6, 5, 4)
    loss = LayerDecompositionLoss(cross_entropy_weight=1.0)
    mixed = torch.cat((simulated, scans))[order]
    organ, tumor, logit = pred.unbind(1)
    composed = (compose_layers(organ, tumor, logit.sigmoid(), torch.cat((simulated, scans))[:, 3])).sub(
        torch.cat((simulated, scans))[:, 4]
    )
    loss.is_composed = False
    known = loss(pred[:2], simulated)
    torch.testing.assert_close(loss(pred[order], mixed), known)
    loss.is_composed = True
    torch.testing.assert_close(loss(pred[order], mixed), known + composed.abs().mean())


def test_real_scans_alone_have_the_loss_of_their_composition_and_a_gradient_there_only():
    target = real(3)
    pred = torch.randn(3, 3, 6, 5, 4, requires_grad=True)
    loss = LayerDecompositionLoss(cross_entropy_weight=1.0)
    organ, tumor, logit = pred.unbind(1)
    mask = logit.sigmoid()
    expected = ((1 - mask) * organ + mask * tumor - target[:, 4]).abs().mean()
    torch.testing.assert_close(loss(pred, target), expected)
    loss.is_composed = False
    assert loss(pred, target).item() == 0


# ---- degenerate cases, gradients, refusals -------------------------------------------------------


@pytest.mark.parametrize("level", [-1e4, 0.0, 1e4])
def test_empty_masks_and_extreme_logits_have_a_finite_loss_and_gradient(level):
    target = make_target(0.5)
    target[:, 1:3] = 0
    target[:, 4] = target[:, 0]
    pred = torch.cat((target[:, :2], torch.full_like(target[:, :1], level)), dim=1).requires_grad_()
    loss = LayerDecompositionLoss(cross_entropy_weight=1.0)(pred, target)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert loss.isfinite() and gradient.isfinite().all()
    if level == -1e4:
        assert loss.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("organ_weight", [0]),
        ("tumor_weight", [1]),
        ("mask_weight", [2]),
        ("composition_weight", [0, 1, 2]),
        ("cross_entropy_weight", [2]),
    ],
)
def test_each_part_trains_its_layers(name, channels):
    pred = torch.randn(2, 3, 6, 5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (gradient,) = torch.autograd.grad(only(name)(pred, make_target(0.5)), pred)
    has_gradient = [bool((gradient[:, channel] != 0).all()) for channel in range(3)]
    assert has_gradient == [channel in channels for channel in range(3)]
    assert not any(gradient[:, channel].any() for channel in range(3) if channel not in channels)


def test_descending_the_loss_finds_the_layers():
    target = make_target(0.5)
    pred = torch.zeros(2, 3, 6, 5, 4, requires_grad=True)
    optimizer = torch.optim.Adam([pred], lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        LayerDecompositionLoss(cross_entropy_weight=1.0)(pred, target).backward()
        optimizer.step()
    assert ((pred[:, 2] > 0) == (target[:, 2] > 0.5)).float().mean() > 0.98
    assert F.l1_loss(pred[:, :2], target[:, :2]) < 0.1


@pytest.mark.parametrize("weights", [{"organ_weight": -1.0}, dict.fromkeys(NAMES, 0.0)])
def test_weights_that_make_no_loss_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights must be 0 or more and one of them positive, got \("):
        LayerDecompositionLoss(**weights)


@pytest.mark.parametrize(
    ("pred", "target"),
    [((2, 2, 4, 4, 4), (2, 5, 4, 4, 4)), ((2, 3, 4, 4, 4), (2, 8, 4, 4, 4)), ((2, 3, 4, 4, 4), (2, 5, 4, 4, 3))],
)
def test_other_shapes_are_refused(pred, target):
    with pytest.raises(ValueError, match=r"input must have [35] channels of the size of target \(2, .* got \(2, "):
        LayerDecompositionLoss()(torch.zeros(pred), torch.zeros(target))


# ---- what weights are chosen by ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["organ_weight", "tumor_weight", "composition_weight"])
def test_weights_are_chosen_by_the_error_of_the_layers_that_are_learned(name):
    nothing = dict.fromkeys(NAMES, 0.0)
    loss = LayerDecompositionLoss(**{**nothing, name: 0.1, "mask_weight": 3.0})
    assert selection_loss(loss).weights == LayerDecompositionLoss(**{**nothing, name: 1.0}).weights


@pytest.mark.parametrize("weights", [(0, 0, 1, 0, 0), (0, 0, 0, 0, 2), (0, 0, 1, 0, 1)])
def test_where_the_mask_alone_is_learned_weights_are_chosen_by_its_loss(weights):
    """The epoch was chosen by the error of layers that nothing had trained."""
    loss = LayerDecompositionLoss(*weights)
    target = make_target(0.5)
    pred = truth(target)
    other = pred + torch.tensor([5.0, 5.0, 0.0]).view(1, 3, 1, 1, 1)
    error = selection_loss(loss)
    assert error(pred, target) == error(other, target) == loss(pred, target)
    assert error(-pred, target) > error(pred, target)


# ---- several channels ----------------------------------------------------------------------------


def two_channels(alpha=0.4):
    """Return a prediction and a target of scans of two channels, and those of each channel alone."""
    target, pred = split_layers(make_target(alpha)), torch.randn(2, 5, 6, 5, 4)
    other = target._replace(organ=target.organ.flip(2), tumor=target.tumor * 0.5)
    other = other._replace(image=compose_layers(*other[:4]))
    stacked = [torch.cat(pair, dim=1) for pair in zip(target, other, strict=True)]
    stacked[2:4] = [target.mask, target.alpha]
    alone = [
        (pred[:, [channel, 2 + channel, 4]], torch.cat(layers, dim=1)) for channel, layers in enumerate((target, other))
    ]
    return pred, torch.cat(stacked, dim=1), alone


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_of_those_of_each_channel(name):
    pred, target, alone = two_channels()
    expected = torch.stack([only(name)(*pair) for pair in alone]).mean()
    torch.testing.assert_close(only(name)(pred, target), expected)


def test_the_true_layers_of_all_channels_have_no_loss():
    _, target, _ = two_channels()
    layers = split_layers(target)
    true = torch.cat((layers.organ, layers.tumor, 200 * layers.mask - 100), dim=1)
    assert LayerDecompositionLoss()(true, target).item() == pytest.approx(0, abs=1e-5)


def test_the_order_of_the_channels_does_not_matter():
    pred, target, _ = two_channels()
    exchanged = LayerDecompositionLoss()(pred[:, [1, 0, 3, 2, 4]], target[:, [1, 0, 3, 2, 4, 5, 7, 6]])
    torch.testing.assert_close(exchanged, LayerDecompositionLoss()(pred, target))
