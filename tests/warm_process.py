"""Python commands in processes of their own that have imported MONAI already, which takes them seconds otherwise."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory

from tools._warm_python import be_python

_PRELOADED = ["monai.bundle", "monai.engines", "nibabel"]


def run_python(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], processes: int = 1, timeout: float = 300
) -> CompletedProcess[str]:
    """Run `python -m MODULE ...` or `python -c CODE ...`, and return its exit status and what it wrote.

    Several processes find each other as those of `torchrun` do; when one fails, the others are ended.

    Args:
        arguments: of Python.
        cwd: folder in which it runs.
        environment: its variables, of which those that Python and PyTorch read at their start are this process's.
        processes: that run it.
        timeout: seconds.

    Raises:
        TimeoutExpired: when it takes longer.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the process that imports
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with TemporaryDirectory() as folder:
        started = []
        for rank, ranked in enumerate(_environments(environment, processes)):
            streams = [f"{folder}/{name}_{rank}" for name in ("out", "err")]
            started.append(context.Process(target=be_python, args=(list(arguments), *streams, str(cwd), ranked)))
            started[-1].start()
        ends = time.monotonic() + timeout
        while any(process.is_alive() for process in started) and not any(process.exitcode for process in started):
            connection.wait([process.sentinel for process in started if process.is_alive()], ends - time.monotonic())
            if time.monotonic() > ends:
                break
        status = next((process.exitcode for process in started if process.exitcode), 0)
        is_late = any(process.is_alive() for process in started) and not status
        for process in started:
            process.join(5 if status else 0)  # what is wrong with the run, all of them tell
            process.kill()
            process.join()
        if is_late:
            raise TimeoutExpired(list(arguments), timeout)
        written = [
            "".join(path.read_text("utf-8") for path in sorted(Path(folder).glob(f"{name}_*")))
            for name in ("out", "err")
        ]
    return CompletedProcess(list(arguments), status, *written)


def _environments(environment: Mapping[str, str], processes: int) -> Iterator[dict[str, str]]:
    """Yield the variables of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        yield {**environment, **({name: str(value) for name, value in place.items()} if processes > 1 else {})}
