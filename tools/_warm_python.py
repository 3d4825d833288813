"""Python in a process that has imported MONAI already, which takes a new one seconds: the target of a `forkserver`."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
import types
from collections.abc import Mapping, Sequence

__all__ = ["be_python"]


def be_python(
    arguments: Sequence[str],
    output: str,
    errors: str,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Be `python -m MODULE ...` or `python -c CODE ...`, with its output and its exit status; it does not return.

    Args:
        arguments: of Python.
        output: file that stdout is appended to.
        errors: file that stderr is appended to, which may be the same.
        folder: in which it runs, and whose modules come first; that of this process if not given.
        environment: its variables; those of this process if not given.
    """
    for stream, path in enumerate((output, errors), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
        sys.path.insert(0, folder)
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
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # one of them may end the process with another status
    os._exit(status)
