"""Python commands in processes of their own that have imported MONAI already, which takes them seconds otherwise."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory

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
            started.append(context.Process(target=_be_python, args=(list(arguments), str(cwd), ranked, streams)))
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


def _be_python(arguments: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> None:
    """Be a new Python, with its output, its exit status, and its end by an error."""
    for number, stream in enumerate(streams, start=1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    option, value, *rest = arguments
    sys.argv = [option if option == "-c" else value, *rest]
    status = 0
    try:
        if option == "-c":
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(value, "<string>", "exec"), main.__dict__)
        else:
            runpy.run_module(value, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # one of them may end the process with another status
    os._exit(status)
