"""Distributed training and inference: processes that join and leave, their network, and their loss."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from common.cli import end_process_at_exit, running_config, tell
from common.data import is_main_process

from .case_loop import CaseEvaluator

__all__ = ["WholeBatchLoss", "join_processes", "leave_processes", "parallelize", "process_device"]

logger = logging.getLogger(__name__)


def join_processes(cases: str | None = None) -> None:
    """Join the processes that `torchrun` started: over NCCL with one GPU for each, over gloo on CPUs.

    A single process, which nothing but itself has started, has nothing to join.

    Args:
        cases: id of the data set in the config whose cases the processes share. Processes beyond their number are not
            needed and end. The others may wait for one another as long as a day, since cases differ; in a training,
            minutes (the default of PyTorch).
    """
    if "LOCAL_RANK" not in os.environ:
        return
    os.environ.pop("SLURM_JOB_ID", None)  # or ignite takes the place of this process from SLURM, not from torchrun
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if cases is None:
        dist.init_process_group(backend)
        return
    num_cases = len(running_config().get_parsed_content(cases))
    rank, processes = int(os.environ["RANK"]), min(int(os.environ["WORLD_SIZE"]), num_cases)
    if rank >= processes:
        logger.info("process %d is not needed for %d case(s)", rank, num_cases)
        sys.exit(0)
    dist.init_process_group(backend, timeout=timedelta(days=1), rank=rank, world_size=processes)


def leave_processes(evaluator: CaseEvaluator | None = None) -> None:
    """Leave together what `join_processes` has joined.

    Args:
        evaluator: of the run; the exit status is 1 where it has refused a case.

    Raises:
        SystemExit: when a case was refused; the last line of the output names it.
    """
    sentence = None if evaluator is None else evaluator.summarize()
    is_main = is_main_process()
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        end_process_at_exit(0 if sentence is None else 1)
    if sentence is not None:
        tell(sentence, is_printed=is_main)
        sys.exit(1)


def process_device() -> torch.device:
    """Return the GPU of this process, or the CPU when the machine has fewer GPUs than processes."""
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return torch.device("cuda", rank) if torch.cuda.device_count() >= processes else torch.device("cpu")


def parallelize(module: nn.Module, unfreezes: bool = False, **options: Any) -> nn.Module:
    """Wrap a network so that all processes of a distributed run make the same step; alone, it stays as it is.

    A batch norm then takes its statistics from the minibatches of all processes, as if they were one.

    A network without anything to learn stays as it is, too.

    Args:
        module: its batch norms are replaced; weights, their names and their running statistics stay.
        unfreezes: parameters that are frozen now will learn later, see `UnfreezeAfter`.
        options: of `DistributedDataParallel`.
    """
    is_distributed = dist.is_available() and dist.is_initialized()
    if not is_distributed or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    if next(module.parameters()).is_cuda:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    else:
        _synchronize(module)
    frozen = [parameter for parameter in module.parameters() if unfreezes and not parameter.requires_grad]
    if not frozen:
        return DistributedDataParallel(module, **options)
    for parameter in frozen:  # of what requires no gradient when they are set up, processes never exchange any
        parameter.requires_grad_(True)
    network = DistributedDataParallel(module, find_unused_parameters=True, **options)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return network


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
    """Batch norm over the minibatches of all processes, which must be equally large."""

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
        mean = all_reduce(values.sum(axes)) / count
        centered = values - mean.view(shape)
        variance = all_reduce(centered.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


class WholeBatchLoss(nn.Module):
    """Loss of the minibatches of all processes, as if they were one.

    A Dice loss over a minibatch is not the mean of those of its parts. Each process computes it from the predictions of
    all, and has the gradient of its own, times the number of processes: `DistributedDataParallel` takes the mean.

    Args:
        loss: takes predictions and targets, tensors whose first axis is the minibatch or lists of them. The processes'
            must have the same shapes.
    """

    def __init__(self, loss: Callable[[Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Any, target: Any) -> torch.Tensor:
        """Return the scalar loss, the same in all processes."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.loss(input, target)
        loss = self.loss(_gather(input), _gather(target))
        others = dist.get_world_size() - 1
        return loss + others * (loss - loss.detach())


def _gather(item: torch.Tensor | Sequence[torch.Tensor]) -> Any:
    """Return the tensors of all processes as one; only that of this process has a gradient."""
    if not isinstance(item, torch.Tensor):
        return [_gather(part) for part in item]
    own = item.contiguous() if item.is_floating_point() else item.long()  # no backend has all types of whole numbers
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach())
    parts[dist.get_rank()] = own
    return torch.cat(parts)
