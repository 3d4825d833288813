"""Laws of mixed precision: its gradients are those of full precision, but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.training import MixedPrecisionInferer, has_bfloat16

CPU = torch.device("cpu")


@pytest.fixture
def bfloat16(monkeypatch):
    """Compute in bfloat16 on any CPU, be it slower."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)


def weight_gradient(conv, image, weights, enabled):
    conv.zero_grad()
    soil_memory()
    (MixedPrecisionInferer(enabled)(image, conv) * weights).sum().backward()
    return conv.weight.grad.clone()


def soil_memory():
    """Free memory that is full of NaN, which is what a kernel finds that forgets to write."""
    del [torch.full((37_000 * (index + 1),), torch.nan) for index in range(20)][:]


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("depth", range(1, 7))
def test_gradients_are_those_of_full_precision_however_thin_the_patch_is(kernel_size, depth):
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, kernel_size, padding=kernel_size // 2)
    image = torch.randn(2, 16, depth, 4, 4)
    weights = torch.randn(2, 16, depth, 4, 4)
    expected = weight_gradient(conv, image, weights, enabled=False)
    for _ in range(4):
        found = weight_gradient(conv, image, weights, enabled=True)
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.usefixtures("bfloat16")
def test_convolutions_are_in_bfloat16_where_there_is_room():
    seen = []
    conv = nn.Conv3d(1, 1, 3, padding=1)
    conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    for depth in (4, 2):
        assert MixedPrecisionInferer()(torch.rand(1, 1, depth, 4, 4), conv).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({}, False),
    ],
    ids=["Intel, AVX512 alone", "Intel, AMX", "AMD, AVX512", "AMD, neither", "unnamed", "untold"],
)
def test_a_cpu_takes_bfloat16_where_it_is_faster(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(CPU) is expected
