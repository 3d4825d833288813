"""Python commands in processes of their own that have imported MONAI already, which takes them seconds otherwise."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory

_PRELOADED = ["monai.bundle", "monai.engines", "nibabel"]


def run_python(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float = 300
) -> CompletedProcess[str]:
    """Run `python -m MODULE ...` or `python -c CODE ...`, and return its exit status and what it wrote.

    Args:
        arguments: of Python.
        cwd: folder in which it runs.
        environment: its variables, of which those that Python and PyTorch read at their start are this process's.
        timeout: seconds.

    Raises:
        TimeoutExpired: when it takes longer.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the process that imports
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with TemporaryDirectory() as folder:
        streams = [f"{folder}/{name}" for name in ("out", "err")]
        process = context.Process(target=_be_python, args=(list(arguments), str(cwd), dict(environment), streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutExpired(list(arguments), timeout)
        written = [Path(stream).read_text(encoding="utf-8") for stream in streams]
    return CompletedProcess(list(arguments), process.exitcode, *written)


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
