"""A folded convolution gives what the convolution of the upsampled features gives, and its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution

from common.fnet.folding import FusingConvolution, JoiningConv3d, fold_kernel


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_the_folded_kernel_is_the_kernel_behind_the_upsampling(kernel_size):
    kernel = torch.randn(3, 2, *3 * [kernel_size], dtype=torch.float64)
    coarse = torch.randn(2, 2, 5, 6, 4, dtype=torch.float64)
    expected = F.conv3d(F.interpolate(coarse, scale_factor=2.0), kernel)
    folded = F.conv_transpose3d(coarse, fold_kernel(kernel), stride=2, padding=kernel_size - 1)
    torch.testing.assert_close(folded, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_fused_features_and_their_gradients_are_those_of_the_joined_ones(kernel_size):
    options = {"kernel_size": kernel_size, "padding": 0, "adn_ordering": "NA", "norm": "batch", "act": "relu"}
    folded = FusingConvolution(3, 7, 4, **options).double()
    plain = Convolution(3, 7, 4, **options).double()
    plain.load_state_dict(folded.state_dict())
    fine = torch.randn(2, 3, 12, 14, 10, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, 4, 6, 7, 5, dtype=torch.float64, requires_grad=True)
    outputs = folded([fine, coarse]), plain(torch.cat((fine, F.interpolate(coarse, scale_factor=2.0)), dim=1))
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=0)
    weights = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad((output * weights).sum(), (fine, coarse, *network.parameters()))
        for output, network in zip(outputs, (folded, plain), strict=True)
    ]
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair, atol=1e-10, rtol=1e-9)


def test_without_coarse_features_it_is_a_convolution():
    options = {"kernel_size": 3, "padding": 0, "adn_ordering": "NA", "norm": "batch", "act": "relu"}
    folded, plain = FusingConvolution(3, 2, 4, **options).eval(), Convolution(3, 2, 4, **options).eval()
    plain.load_state_dict(folded.state_dict())
    fine = torch.randn(1, 2, 6, 6, 6)
    assert torch.equal(folded([fine]), plain(fine))


def test_a_classifier_of_one_voxel_joins_them():
    classifier = JoiningConv3d(5, 3, 1)
    fine, coarse = torch.randn(1, 2, 4, 6, 8), torch.randn(1, 3, 2, 3, 4)
    joined = torch.cat((fine, F.interpolate(coarse, scale_factor=2.0)), dim=1)
    assert torch.equal(classifier([fine, coarse]), F.conv3d(joined, classifier.weight, classifier.bias))
