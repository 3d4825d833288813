"""One network that several processes train."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

__all__ = ["parallelize"]


def parallelize(module: nn.Module, **options: Any) -> nn.Module:
    """Wrap a network so that all processes of a distributed run make the same step.

    A batch norm then takes its statistics from the minibatches of all processes, as if they were one.

    Args:
        module: its batch norms are replaced; weights, their names and their running statistics stay.
        options: of `DistributedDataParallel`.

    Returns:
        The wrapper; a network without anything to learn is returned as it is.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    if next(module.parameters()).is_cuda:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    else:
        _synchronize(module)
    return DistributedDataParallel(module, **options)


def _synchronize(network: nn.Module) -> None:
    """Do on a CPU what PyTorch's conversion does for GPUs alone."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            synchronized = _SyncBatchNorm(child.num_features, child.eps, child.momentum)
            for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(synchronized, tensor, getattr(child, tensor))
            setattr(network, name, synchronized)
        else:
            _synchronize(child)


class _SyncBatchNorm(_BatchNorm):
    """A batch norm over the minibatches of all processes, which must be equally large."""

    num_batches_tracked: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        count = dist.get_world_size() * input.numel() // input.shape[1]
        values = input.float()  # also where the rest is in half precision
        mean = _SumOverProcesses.apply(values.sum(axes)) / count
        centered = values - mean.view(shape)
        variance = _SumOverProcesses.apply(centered.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        total = gradient.clone()
        dist.all_reduce(total)
        return total
