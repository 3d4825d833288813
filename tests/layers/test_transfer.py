"""Laws of the transfer from layers to segmentation: a part goes over whole, or nothing does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.data import make_record
from common.layers import EncoderClassifier, LayerUNet, transfer_unet

SMALL: dict[str, Any] = {"features": (4, 8, 12)}


def test_the_encoder_is_transferred_whole_and_the_decoder_stays(tmp_path):
    source, target = LayerUNet(**SMALL), LayerUNet(**SMALL, out_channels=5)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    assert transfer_unet(target, tmp_path / "weights.pt") is target
    for name, value in target.state_dict().items():
        expected = source.state_dict()[name] if name.startswith("encoder.") else before[name]
        assert torch.equal(value, expected), name


def test_a_transferred_network_begins_as_the_segmentation_without_labels(tmp_path):
    torch.manual_seed(0)
    source, target = LayerUNet(**SMALL), LayerUNet(**SMALL, out_channels=2)
    with torch.no_grad():
        source(3 * torch.randn(2, 1, 8, 8, 8))  # statistics of the batch norms
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    transfer_unet(target, tmp_path / "weights.pt", "network")
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        mask = source.eval()(image)[:, 2].sigmoid()
        torch.testing.assert_close(target.eval()(image).softmax(1)[:, 1], mask)
    assert mask.std() > 1e-3


@pytest.mark.parametrize(("pretrained", "classes"), [(3, 4), (1, 2)], ids=["more classes", "restoration"])
def test_a_head_of_other_channels_stays_fresh(tmp_path, pretrained, classes):
    source, target = LayerUNet(**SMALL, out_channels=pretrained), LayerUNet(**SMALL, out_channels=classes)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    before = target.head.weight.clone()
    transfer_unet(target, tmp_path / "weights.pt", "network")
    assert torch.equal(target.head.weight, before)
    name = "decoder.1.block.0.weight"
    assert torch.equal(target.get_parameter(name), source.get_parameter(name))


def test_a_classifier_has_no_decoder_to_transfer(tmp_path):
    classifier = EncoderClassifier(LayerUNet(**SMALL), num_classes=5)
    torch.save(classifier.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"decoder.0.upsample.weight must have shape .*, got nothing"):
        transfer_unet(LayerUNet(**SMALL), tmp_path / "weights.pt", "network")
    with pytest.raises(ValueError, match="part must be encoder or network, got 'decoder'"):
        transfer_unet(LayerUNet(**SMALL), tmp_path / "weights.pt", "decoder")


@pytest.mark.parametrize("path", [None, "null", "random"])
def test_from_scratch_nothing_is_transferred(path):
    network = LayerUNet(**SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    transfer_unet(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": (4, 8, 16)}, r"encoder.2.0.weight must have shape \(8, 8, 3, 3, 3\), got \(6, 8, 3, 3, 3\)"),
        ({"features": (4, 8)}, "must have no tensor that the network lacks, got encoder.2.0.weight"),
        ({"features": (4, 8, 12, 16)}, "encoder.3.0.weight must have shape .*, got nothing"),
    ],
)
def test_weights_of_another_encoder_are_refused_as_a_whole(tmp_path, options, message):
    torch.save(LayerUNet(**SMALL).state_dict(), tmp_path / "weights.pt")
    network = LayerUNet(**options)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        transfer_unet(network, tmp_path / "weights.pt")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt: weights must exist"):
        transfer_unet(LayerUNet(**SMALL), tmp_path / "nothing.pt")


@pytest.mark.parametrize("part", ["encoder", "network"])
def test_weights_of_other_channels_are_refused_with_their_names(tmp_path, part):
    weights = tmp_path / "weights.pt"
    torch.save(LayerUNet(**SMALL).state_dict(), weights)
    make_record(modality=["FLAIR"]).save_beside(weights)
    network = LayerUNet(2, 2, **SMALL)
    expected = (
        r"weights.pt: weights must be trained on images of 2 channels \(FLAIR, T1w\), got 1 channel \(FLAIR\); .*"
    )
    with pytest.raises(ValueError, match=expected):
        transfer_unet(network, weights, part, modality=["FLAIR", "T1w"])
    torch.save(LayerUNet(2, **SMALL).state_dict(), weights)
    make_record(modality=["FLAIR", "T1w"]).save_beside(weights)
    transfer_unet(network, weights, part, modality=["FLAIR", "T1w"])
    torch.save(LayerUNet(**SMALL).state_dict(), weights)
    (tmp_path / "record.json").unlink()  # whose names then are not known
    with pytest.raises(
        ValueError, match=r"encoder.0.0.weight must have shape \(2, 2, 3, 3, 3\), got \(2, 1, 3, 3, 3\)"
    ):
        transfer_unet(network, weights, part, modality=["FLAIR", "T1w"])


def test_a_transferred_network_of_two_channels_begins_as_the_segmentation_without_labels(tmp_path):
    torch.manual_seed(0)
    source, target = LayerUNet(2, **SMALL), LayerUNet(2, 2, **SMALL)
    with torch.no_grad():
        source(3 * torch.randn(2, 2, 8, 8, 8))  # statistics of the batch norms
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    transfer_unet(target, tmp_path / "weights.pt", "network")
    image = torch.randn(1, 2, 8, 8, 8)
    with torch.no_grad():
        mask = source.eval()(image)[:, -1].sigmoid()
        torch.testing.assert_close(target.eval()(image).softmax(1)[:, 1], mask)
