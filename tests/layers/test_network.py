"""Laws of the 3D U-Net of layer decomposition, and of the classifier on its encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripted import check_scripted

from common.layers import EncoderClassifier, LayerUNet, transfer_unet
from common.training import load_network

SMALL: dict[str, Any] = {"features": (4, 8, 12)}
FLAT: dict[str, Any] = {**SMALL, "kernel_sizes": [[3, 3, 1], 3, 3], "strides": [[2, 2, 1], 2]}


def test_the_published_network_has_as_many_weights():
    assert sum(parameter.numel() for parameter in LayerUNet().parameters()) == 19_073_795


@pytest.mark.parametrize(
    "options", [SMALL, FLAT, {**SMALL, "norm": "instance"}, {**SMALL, "norm": ["group", {"num_groups": 2}]}]
)
@pytest.mark.parametrize("size", [(8, 8, 8), (9, 7, 5), (4, 12, 4)])
def test_every_size_keeps_its_size(options, size):
    network = LayerUNet(**options).train()
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    "options",
    [SMALL, {**FLAT, "in_channels": 2}, {**SMALL, "norm": "instance"}, {**SMALL, "norm": ["group", {"num_groups": 2}]}],
    ids=str,
)
def test_torchscript_gives_the_same_for_images_of_any_size(options):
    channels = options.get("in_channels", 1)
    check_scripted(LayerUNet(**options), [(2, channels, 9, 7, 5), (1, channels, 8, 8, 8)])


def test_levels_have_their_own_kernels_and_strides():
    network = LayerUNet(**FLAT)
    assert network.encoder.stride == (4, 4, 2)
    assert [network.get_submodule(f"encoder.{level}.0").kernel_size for level in range(3)] == [
        (3, 3, 1),
        (3, 3, 3),
        (3, 3, 3),
    ]
    assert [tuple(maps.shape[1:]) for maps in network.encoder(torch.randn(1, 1, 8, 8, 4))] == [
        (4, 8, 8, 4),
        (8, 4, 4, 4),
        (12, 2, 2, 2),
    ]


def test_a_flat_kernel_sees_no_other_slice_before_the_first_pooling_along_depth():
    """Slices of clinical scans lie far apart; the finest level looks at each on its own."""
    block = LayerUNet(**FLAT).encoder[0].eval()
    image = torch.randn(1, 1, 8, 8, 4)
    changed = image.clone()
    changed[..., 2] += 1
    difference = (block(image) - block(changed)).abs().amax((0, 1, 2, 3))
    assert difference[2] > 0 and not difference[[0, 1, 3]].any()


def test_in_evaluation_a_scan_does_not_depend_on_the_others_of_its_batch():
    """The published batch norms took the statistics of the batch."""
    torch.manual_seed(0)
    network = LayerUNet(**SMALL)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 1, 8, 8, 8))
        images = torch.randn(3, 1, 8, 8, 8)
        network.eval()
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]))
        network.train()
        assert not torch.allclose(network(images)[1:2], network(images[1:2]), atol=1e-3)


def test_a_whole_network_is_loaded_or_refused(tmp_path):
    torch.save(LayerUNet(**SMALL).state_dict(), tmp_path / "weights.pt")
    loaded = load_network(LayerUNet(**SMALL), tmp_path / "weights.pt")
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(loaded.get_parameter("head.weight"), weights["head.weight"])
    with pytest.raises(ValueError, match=r"weights must be those of the network .* such as head.bias"):
        load_network(LayerUNet(**SMALL, out_channels=2), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 8}, TypeError, "features must be a list, each entry a whole number from 1, got 8"),
        ({"features": (4, 8.0)}, ValueError, "features must be a list, each entry a whole number"),
        ({"features": (4,)}, ValueError, r"features must be even, for 2 levels or more, got \(4,\)"),
        ({"features": (4, 7)}, ValueError, r"features must be even"),
        ({**SMALL, "kernel_sizes": [3, 3]}, ValueError, "kernel_sizes must be 3 positive sizes"),
        ({**SMALL, "kernel_sizes": [3, 2, 3]}, ValueError, "kernel_sizes must be odd"),
        ({**SMALL, "strides": [2, 2, 2]}, ValueError, "strides must be 2 positive sizes"),
        ({**SMALL, "strides": [2, 0]}, ValueError, "strides must be 2 positive sizes"),
        ({**SMALL, "norm": "foo"}, ValueError, "norm must be batch, instance or .*, got 'foo'"),
        ({**SMALL, "norm": 3}, ValueError, "norm must be batch, instance or .*, got 3"),
        ({**SMALL, "norm": ["group", {"num_groups": 3}]}, ValueError, "norm must be .* groups divide 2 maps, got "),
    ],
)
def test_arguments_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        LayerUNet(**options)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 8, 8, 8)])
def test_images_of_another_form_are_refused(shape):
    with pytest.raises(ValueError, match=r"image must be \(B, 1, H, W, D\), got"):
        LayerUNet(**SMALL)(torch.randn(shape))


@pytest.mark.parametrize(("num_patches", "shape"), [(1, (2, 1, 9, 8, 7)), (3, (2, 3, 1, 8, 8, 8))])
def test_a_classifier_gives_logits_and_leaves_the_encoder_under_its_name(tmp_path, num_patches, shape):
    classifier = EncoderClassifier(LayerUNet(**SMALL), num_classes=5, num_patches=num_patches)
    assert classifier(torch.randn(shape)).shape == (2, 5)
    torch.save(classifier.state_dict(), tmp_path / "weights.pt")
    network = transfer_unet(LayerUNet(**SMALL), tmp_path / "weights.pt")
    name = "encoder.2.0.weight"
    assert torch.equal(network.get_parameter(name), classifier.get_parameter(name))
    assert {name.split(".")[0] for name in classifier.state_dict()} == {"encoder", "head"}


def test_a_classifier_tells_the_order_of_its_patches():
    torch.manual_seed(0)
    classifier = EncoderClassifier(LayerUNet(**SMALL), num_classes=4, num_patches=2).eval()
    pair = torch.randn(1, 2, 1, 8, 8, 8)
    assert not torch.allclose(classifier(pair), classifier(pair.flip(1)))


def test_channels_may_change_places_together_with_the_weights_that_see_and_give_them(settle):
    network = settle(LayerUNet(2, **SMALL))
    image = torch.randn(1, 2, 8, 8, 8)
    expected = network(image)
    assert expected.shape == (1, 5, 8, 8, 8)
    order = [1, 0, 3, 2, 4]  # of organ, tumor and mask
    kernel = network.encoder[0][0].weight
    kernel.data = kernel.data[:, [1, 0]]
    for parameter in network.head.parameters():
        parameter.data = parameter.data[order]
    torch.testing.assert_close(network(image.flip(1)), expected[:, order], atol=1e-5, rtol=1e-4)
