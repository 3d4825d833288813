"""Several processes that share the work."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ["join_processes", "leave_processes", "process_device"]

logger = logging.getLogger(__name__)


def join_processes(num_cases: int | None = None) -> None:
    """Join the processes that `torchrun` started: over NCCL with one GPU for each, over gloo on CPUs.

    Args:
        num_cases: that the processes share. Processes beyond their number are not needed and end. The others may wait
            for one another as long as a day, since cases differ; in a training, minutes (the default of PyTorch).

    Raises:
        ValueError: when the process was not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("processes must be started by torchrun, see README.md, got a single one without LOCAL_RANK")
    os.environ.pop("SLURM_JOB_ID", None)  # or ignite takes the place of this process from SLURM, not from torchrun
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if num_cases is None:
        dist.init_process_group(backend)
        return
    rank, processes = int(os.environ["RANK"]), min(int(os.environ["WORLD_SIZE"]), num_cases)
    if rank >= processes:
        logger.info("process %d is not needed for %d case(s)", rank, num_cases)
        sys.exit(0)
    dist.init_process_group(backend, timeout=timedelta(days=1), rank=rank, world_size=processes)


def leave_processes() -> None:
    """Leave together."""
    dist.barrier()
    dist.destroy_process_group()
    end_process_at_exit(0)


def end_process_at_exit(status: int) -> None:
    """End this process, when it is done, without taking its interpreter apart.

    Threads of gloo outlive the group while a network still refers to it. Now and then (3 in 100 runs) one of them met
    an interpreter that was gone and aborted a training that had succeeded. And a process that has failed shall not wait
    for the others.
    """

    def end() -> None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(end)


def process_device() -> torch.device:
    """Return the GPU of this process, or the CPU when the machine has fewer GPUs than processes."""
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return torch.device("cuda", rank) if torch.cuda.device_count() >= processes else torch.device("cpu")
