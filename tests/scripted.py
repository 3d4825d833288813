"""TorchScript of a network: compiled, written and read again, it gives what the network gives."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import torch
from torch import nn


def check_scripted(network: nn.Module, shapes: Iterable[Sequence[int]]) -> None:
    """Compare a network with its TorchScript, to the bit, on random images of some shapes."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network.eval()), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    assert scripted.state_dict().keys() == network.state_dict().keys()
    for shape in shapes:
        image = torch.randn(shape)
        with torch.no_grad():
            expected = network(image)
            assert torch.equal(scripted(image), expected), shape
        assert expected.shape[2:] == image.shape[2:] and expected.std() > 0
