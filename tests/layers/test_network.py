import pytest
import torch

from common.layers import EncoderClassifier, LayerUNet, transfer_unet
from common.training import load_network

SMALL = {"features": (4, 8, 12)}
FLAT = {**SMALL, "kernel_sizes": [[3, 3, 1], 3, 3], "strides": [[2, 2, 1], 2]}


def test_the_published_network_has_as_many_weights():
    assert sum(parameter.numel() for parameter in LayerUNet().parameters()) == 19_073_795


@pytest.mark.parametrize(
    "options", [SMALL, FLAT, {**SMALL, "norm": "instance"}, {**SMALL, "norm": ["group", {"num_groups": 2}]}]
)
@pytest.mark.parametrize("size", [(8, 8, 8), (9, 7, 5), (4, 12, 4)])
def test_every_size_keeps_its_size(options, size):
    network = LayerUNet(**options).train()
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_levels_have_their_own_kernels_and_strides():
    network = LayerUNet(**FLAT)
    assert network.encoder.stride == (4, 4, 2)
    assert [block[0].kernel_size for block in network.encoder] == [(3, 3, 1), (3, 3, 3), (3, 3, 3)]
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
    assert torch.equal(target.decoder[1].block[0].weight, source.decoder[1].block[0].weight)


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
        ({"features": (4, 8)}, "encoder.2.0.weight must have shape nothing, got"),
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


def test_a_whole_network_is_loaded_or_refused(tmp_path):
    torch.save(LayerUNet(**SMALL).state_dict(), tmp_path / "weights.pt")
    loaded = load_network(LayerUNet(**SMALL), tmp_path / "weights.pt")
    assert torch.equal(loaded.head.weight, torch.load(tmp_path / "weights.pt", weights_only=True)["head.weight"])
    with pytest.raises(ValueError, match=r"weights must be those of the network .* such as head.bias"):
        load_network(LayerUNet(**SMALL, out_channels=2), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": 8}, TypeError, "features must be a list of whole numbers, got 8"),
        ({"features": (4, 8.0)}, TypeError, "features must be a whole number"),
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
    assert torch.equal(network.encoder[2][0].weight, classifier.encoder[2][0].weight)
    assert {name.split(".")[0] for name in classifier.state_dict()} == {"encoder", "head"}


def test_a_classifier_tells_the_order_of_its_patches():
    torch.manual_seed(0)
    classifier = EncoderClassifier(LayerUNet(**SMALL), num_classes=4, num_patches=2).eval()
    pair = torch.randn(1, 2, 1, 8, 8, 8)
    assert not torch.allclose(classifier(pair), classifier(pair.flip(1)))
    with pytest.raises(ValueError, match="patches must be 2 of each item, got 1"):
        classifier(pair[:, 0])


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"num_classes": 2, "num_patches": 0}])
def test_a_classifier_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="num_classes must be 2 or more"):
        EncoderClassifier(LayerUNet(**SMALL), **options)
