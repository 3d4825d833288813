"""Mixed precision: bfloat16 wherever the device computes with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch.overrides import TorchFunctionMode

from common.cli import check_flags

__all__ = ["MixedPrecisionInferer", "has_bfloat16"]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device is faster with bfloat16: GPUs since Ampere, CPUs with AMX, and AMD's with AVX512-BF16.

    On Intel's that have AVX512-BF16 alone, a training step takes longer than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not tell
    is_intel = "Intel" in capabilities.get("cpu_name", "")
    return bool(capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and not is_intel))


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
        guard = _ThinConvolutions() if enabled and inputs.device.type == "cpu" else nullcontext()
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=enabled), guard:
            output = network(inputs, *args, **kwargs)
        if isinstance(output, torch.Tensor):
            return output.to(inputs.dtype)
        return [tensor.to(inputs.dtype) for tensor in output]


class _ThinConvolutions(TorchFunctionMode):
    """Have convolutions in full precision whose input has fewer voxels along its first axis than the kernel.

    On CPUs PyTorch (2.13) leaves a part of the gradient of their weights as it finds it in memory, in bfloat16 alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.conv3d and len(args) > 1 and args[0].shape[2] < args[1].shape[2]:
            with torch.autocast("cpu", enabled=False):
                args = tuple(arg.float() if torch.is_tensor(arg) else arg for arg in args)
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
