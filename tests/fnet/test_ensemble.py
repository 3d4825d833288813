"""Laws of an ensemble of F-Nets."""

from __future__ import annotations

import pytest
import torch
from scripted import check_scripted
from torch import nn

from common.fnet import FNet, FNetEnsemble, FNetInferer


@pytest.fixture
def ensemble() -> FNetEnsemble:
    """An ensemble whose members have weights of their own."""
    torch.manual_seed(0)
    ensemble = FNetEnsemble(FNet(1, 3, (2, 2), 3, gain=1.0), 3).eval()
    for parameter in ensemble.parameters():
        nn.init.normal_(parameter)
    return ensemble


@pytest.mark.slow
def test_torchscript_gives_the_same(ensemble):
    check_scripted(ensemble, [(2, 1, 5, 6, 7)])


def test_the_inferer_gives_the_mean_of_the_members_probabilities_tile_by_tile(ensemble):
    volume = torch.randn(1, 1, 11, 14, 9)
    for mode in ("dense", "overlap"):
        inferer = FNetInferer(tile_size=8, mode=mode, patch_size=8)
        with torch.no_grad():
            found = inferer(volume, ensemble)
            expected = torch.stack([inferer(volume, member) for member in ensemble.members]).mean(0)
        assert found.shape == (1, 3, 11, 14, 9)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
