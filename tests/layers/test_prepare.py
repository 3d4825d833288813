"""Laws of how scans and their layers reach a network."""

from __future__ import annotations

import pytest
import torch

from common.layers import (
    LAYERS,
    MaskInferer,
    PrepareJointLabels,
    PrepareLayers,
    RandStarShape,
    RandTumorLayers,
    SplitLayersd,
)


def simulation():
    return RandTumorLayers(RandStarShape((50, 200)), prob=1.0)


@pytest.fixture
def batch():
    scans = torch.rand(2, 2, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0)) + 0.5
    batch = {"image": scans[0], "donor": scans[1], "organ": torch.ones_like(scans[0]), "case": ["a", "b"]}
    return {**batch, "seed": torch.tensor([5, 6]), "spacing": torch.ones(2, 3)}


def test_the_input_is_the_scan_with_tumors_and_the_target_its_layers(batch):
    image, target = PrepareLayers(simulation())(batch, "cpu")
    assert torch.equal(target, simulation().make_batch(batch))
    assert torch.equal(image, target[:, 4:]) and image.shape == (2, 1, 12, 12, 12)
    image.zero_()
    assert target[:, 4].any()  # they share no memory


def test_the_same_batch_gives_the_same_layers_whatever_came_before(batch):
    prepare = PrepareLayers(simulation())
    first = prepare(batch)[1]
    prepare({**batch, "seed": batch["seed"] + 9})
    assert torch.equal(prepare(batch)[1], first)


def test_real_scans_follow_as_their_own_target(batch):
    scans = torch.rand(3, 1, 12, 12, 12)
    image, target = PrepareLayers(simulation())({"normal": batch, "real": {"image": scans}}, "cpu")
    assert torch.equal(target[:2], PrepareLayers(simulation())(batch)[1])
    real = dict(zip(LAYERS, target[2:].unbind(1), strict=True))
    assert torch.equal(real["image"], scans[:, 0]) and torch.equal(image[2:], scans)
    assert (real["mask"] == -1).all() and (real["alpha"] == 1).all()


def test_masks_of_simulations_are_labels_beside_those_of_labeled_scans(batch):
    labeled = {"image": torch.rand(1, 1, 12, 12, 12), "label": torch.rand(1, 1, 12, 12, 12).gt(0.9).to(torch.uint8)}
    soft = RandTumorLayers(RandStarShape((50, 200)), edge_blur=(0.2, 0.4), prob=1.0)
    image, label = PrepareJointLabels(soft, {0: "background", 1: "tumor"})({"labeled": labeled, "normal": batch}, "cpu")
    layers = soft.make_batch(batch)
    assert torch.equal(image, torch.cat((labeled["image"], layers[:, 4:])))
    assert label.dtype == torch.uint8
    assert torch.equal(label, torch.cat((labeled["label"], (layers[:, 2:3] > 0.5).to(torch.uint8))))
    assert 0 < label[1:].sum() < (layers[:, 2] > 0).sum()


def test_simulations_beside_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"labels must be background and a tumor beside simulations, got .*liver"):
        PrepareJointLabels(simulation(), {0: "background", 1: "liver", 2: "tumor"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tumors_are_simulated_on_the_device(batch):
    image, target = PrepareLayers(simulation())(batch, "cuda")
    assert image.is_cuda and target.is_cuda


@pytest.mark.parametrize("with_layers", [False, True])
def test_a_mask_becomes_the_logits_of_two_classes(with_layers):
    layers = torch.randn(2, 3, 4, 5, 6)
    inferer = MaskInferer(lambda inputs, network, *args, **kwargs: network(inputs), with_layers)
    out = inferer(layers, lambda inputs: inputs)
    assert out.shape == (2, 4 if with_layers else 2, 4, 5, 6)
    torch.testing.assert_close(out[:, :2].softmax(1)[:, 1], layers[:, 2].sigmoid())
    assert torch.equal(out[:, :2].argmax(1) == 1, layers[:, 2] > 0)
    if with_layers:
        split = SplitLayersd("pred")({"pred": out[0], "other": 1})
        assert torch.equal(split["pred"], out[0, :2]) and split["other"] == 1
        assert torch.equal(split["restored"], layers[0, :1]) and torch.equal(split["tumor"], layers[0, 1:2])
