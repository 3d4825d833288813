"""Laws of the winner-take-all autoencoders."""

from __future__ import annotations

import pytest
import torch

from common.fnet import FNetGeometry, SparseDecoder, WTAAutoencoder, WTAAutoencoders, winner_take_all


def sparse_maps(activations, positions, size):
    """Return the maps whose only entries are the winners."""
    maps = activations.new_zeros(*activations.shape[:2], size[0] * size[1] * size[2])
    return maps.scatter(2, positions, activations).view(*activations.shape[:2], *size)


def maps_of_kind(kind):
    if kind == "random":
        return torch.randn(3, 4, 5, 6, 7)
    return torch.zeros(3, 4, 5, 6, 7) if kind == "zeros" else torch.full((3, 4, 5, 6, 7), 2.0)


@pytest.mark.parametrize("kind", ["random", "zeros", "ties"])
def test_exactly_five_winners_of_each_map_and_sample(kind):
    maps = maps_of_kind(kind)
    activations, positions = winner_take_all(maps, 5)
    assert activations.shape == positions.shape == (3, 4, 5)
    assert all(len(set(winners.tolist())) == 5 for winners in positions.flatten(0, 1))
    torch.testing.assert_close(
        activations.sort(descending=True).values, maps.flatten(2).sort(descending=True).values[..., :5]
    )
    torch.testing.assert_close(maps.flatten(2).gather(2, positions), activations)


@pytest.mark.parametrize("kind", ["random", "zeros", "ties"])
def test_the_gradient_reaches_the_winners_only(kind):
    maps = maps_of_kind(kind).requires_grad_()
    activations, positions = winner_take_all(maps, 5)
    activations.sum().backward()
    expected = torch.zeros(3, 4, 210).scatter(2, positions, 1.0)
    assert torch.equal(maps.grad.flatten(2), expected)


@pytest.mark.parametrize("num_winners", [0, -1, 9])
def test_more_winners_than_voxels_are_refused(num_winners):
    with pytest.raises(ValueError, match=f"num_winners must be between 1 and the 8 voxels of a map, got {num_winners}"):
        winner_take_all(torch.zeros(1, 1, 2, 2, 2), num_winners)


@pytest.mark.parametrize(
    ("maps", "channels", "kernel", "size", "winners"),
    [(4, 1, 5, (6, 6, 6), 5), (3, 2, 7, (3, 5, 8), 5), (2, 3, 3, (9, 2, 4), 1), (1, 1, 13, (2, 3, 1), 6)],
)
def test_the_sparse_decoder_equals_the_dense_one_in_values_and_gradients(maps, channels, kernel, size, winners):
    torch.manual_seed(0)
    decoder = SparseDecoder(maps, channels, kernel).double()
    activations, positions = winner_take_all(torch.randn(2, maps, *size, dtype=torch.float64), winners)
    activations.requires_grad_()
    sparse = decoder.decode(activations, positions, size)
    dense = decoder(sparse_maps(activations, positions, size))
    assert dense.shape == (2, channels, *(edge + kernel - 1 for edge in size))
    torch.testing.assert_close(sparse, dense, atol=1e-12, rtol=0)
    upstream = torch.randn_like(dense)
    wanted = [decoder.weight, decoder.bias, activations]
    for found, expected in zip(
        torch.autograd.grad((sparse * upstream).sum(), wanted),
        torch.autograd.grad((dense * upstream).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def test_an_autoencoder_equals_encode_select_and_dense_decode(settle):
    network = settle(WTAAutoencoder(2, 3, 3, num_winners=4)).double()
    image = torch.randn(2, 2, 9, 8, 7, dtype=torch.float64)
    features = network.encoder(image)
    expected = network.decoder(sparse_maps(*winner_take_all(features, 4), features.shape[2:]))
    torch.testing.assert_close(network(image), expected, atol=1e-12, rtol=0)


def test_number_of_parameters_is_that_of_the_specification():
    assert sum(parameter.numel() for parameter in WTAAutoencoder(1).parameters()) == 330_593


def test_every_level_gives_back_its_own_size():
    sizes = FNetGeometry(3, 3).input_sizes((8, 12, 16))
    patches = [torch.randn(2, 2, *size) for size in sizes]
    network = WTAAutoencoders(2, (2, 3, 4), 3)
    assert [output.shape for output in network(*patches)] == [patch.shape for patch in patches]


def test_in_eval_mode_a_sample_does_not_see_the_others_of_its_batch(settle):
    network = settle(WTAAutoencoders(1, (3, 2), 3))
    patches = [torch.randn(3, 1, 9, 8, 9), torch.randn(3, 1, 8, 8, 9)]
    together = network(*patches)
    for index in range(3):
        alone = network(*(patch[index : index + 1] for patch in patches))
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found, expected[index : index + 1])


def test_levels_train_as_if_each_were_alone():
    network = WTAAutoencoders(1, (2, 2), 3)
    outputs = network(torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8))
    outputs[0].square().sum().backward()
    assert all(parameter.grad is None for parameter in network.levels[1].parameters())
    assert network.levels[0].encoder[0].conv.weight.grad.abs().sum() > 0


def test_names_of_the_weights_stay():
    names = list(WTAAutoencoders(1, (2, 2), 3).state_dict())
    for name in ["levels.0.encoder.0.conv.weight", "levels.1.encoder.2.adn.N.bias", "levels.1.decoder.weight"]:
        assert name in names


def test_a_missing_level_is_refused():
    with pytest.raises(ValueError, match="inputs must be one patch for each of 2 levels, got 1"):
        WTAAutoencoders(1, (2, 2), 3)(torch.zeros(1, 1, 8, 8, 8))


def test_channels_in_another_order_are_reconstructed_in_that_order():
    torch.manual_seed(0)
    autoencoder, order = WTAAutoencoder(3, 4, 3).double().eval(), [2, 0, 1]
    image = torch.randn(2, 3, 12, 11, 10, dtype=torch.float64)
    expected = autoencoder(image)
    assert expected.shape == image.shape
    first, decoder = autoencoder.encoder[0].conv, autoencoder.decoder
    first.weight.data = first.weight.data[:, order]
    decoder.weight.data, decoder.bias.data = decoder.weight.data[:, order], decoder.bias.data[order]
    torch.testing.assert_close(autoencoder(image[:, order]), expected[:, order])
