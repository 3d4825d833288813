"""Laws of the two classes that layers become."""

from __future__ import annotations

import pytest
import torch

from common.layers import MaskInferer, SplitLayersd


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


def test_layers_of_several_channels_are_split_and_share_the_mask():
    layers = torch.randn(2, 7, 4, 5, 6)
    out = MaskInferer(lambda inputs, network: network(inputs), with_layers=True)(layers, lambda inputs: inputs)
    assert torch.equal(out[:, 1], layers[:, 6]) and not out[:, 0].any()
    split = SplitLayersd("pred", in_channels=3)({"pred": out[0]})
    for key, expected in (("pred", out[0, :2]), ("restored", layers[0, :3]), ("tumor", layers[0, 3:6])):
        assert torch.equal(split[key], expected)


@pytest.mark.parametrize(("in_channels", "count"), [(1, 4), (2, 6)])
def test_without_layers_there_is_nothing_to_split(in_channels, count):
    with pytest.raises(ValueError, match=f"must be those of a pretraining, {count} channels, got 2; add zero_shot"):
        SplitLayersd("pred", in_channels)({"pred": torch.zeros(2, 4, 5, 6)})
