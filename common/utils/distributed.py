"""Several processes that train one network."""

from __future__ import annotations

import atexit
import logging
import os
import sys

import torch
import torch.distributed as dist

__all__ = ["join_processes", "leave_processes", "process_device"]


def join_processes() -> None:
    """Join the processes that `torchrun` started: over NCCL with one GPU for each, over gloo on CPUs.

    Raises:
        ValueError: when the process was not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("multi_gpu_train.yaml must be run by torchrun, got a single process without LOCAL_RANK")
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave_processes() -> None:
    """Leave together, and end each process without taking its interpreter apart.

    Threads of gloo outlive the group while a network still refers to it. Now and then (3 in 100 runs) one of them met
    an interpreter that was gone and aborted a training that had succeeded.
    """
    dist.barrier()
    dist.destroy_process_group()
    atexit.register(_end)


def _end() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def process_device() -> torch.device:
    """Return the GPU of this process, or the CPU when the machine has fewer GPUs than processes."""
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return torch.device("cuda", rank) if torch.cuda.device_count() >= processes else torch.device("cpu")
