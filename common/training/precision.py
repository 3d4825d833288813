"""Mixed precision: bfloat16 wherever the device computes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer

from common.cli import check_flags

__all__ = ["MixedPrecisionInferer", "has_bfloat16"]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware: GPUs since Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class MixedPrecisionInferer(SimpleInferer):
    """Run a network with bfloat16 convolutions and give its output, in full precision, to the loss.

    MONAI's trainer has mixed precision on CUDA only. bfloat16 has the range of float32, so no gradient scaler is
    needed, and an interrupted training goes on with the same numbers.

    Args:
        enabled: use bfloat16 where the device has it; otherwise, and elsewhere, the precision of the input.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        check_flags(enabled=enabled)
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the output of the network, one tensor or a list of them, in the precision of `inputs`."""
        enabled = self.enabled and has_bfloat16(inputs.device)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=enabled):
            output = network(inputs, *args, **kwargs)
        if isinstance(output, torch.Tensor):
            return output.to(inputs.dtype)
        return [tensor.to(inputs.dtype) for tensor in output]
