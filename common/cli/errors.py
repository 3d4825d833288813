"""Errors that this library raises on purpose, and the last line of a failed run, which says what is wrong."""

from __future__ import annotations

import atexit
import errno
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.dummy import DummyProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from .signals import Interruption, noted_signal, raise_on_termination

__all__ = [
    "BundleError",
    "DivergenceError",
    "KindError",
    "InputError",
    "MissingFileError",
    "MissingPackageError",
    "collect_errors",
    "concerns_run",
    "end_process_at_exit",
    "explain_errors",
    "find_cause",
    "find_sentence",
    "is_collecting",
    "is_device_full",
    "keep_going",
    "root_cause",
    "tell",
]

_collected: ContextVar[list[str] | None] = ContextVar("_collected", default=None)
_ERROR = "error: "
_PATIENCE = 60.0  # seconds for one case
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # full, beyond a quota, or read-only
_INTERRUPTED = 130  # status of a process that SIGINT has ended
_OTHER_IS_GONE = ("closed by peer", "reset by peer")  # what gloo says of it


class BundleError(Exception):
    """Error that was foreseen: its text is one sentence with what is wrong, and needs no traceback."""


class InputError(BundleError, ValueError):
    """Value that is out of range, or does not fit another."""


class KindError(BundleError, TypeError):
    """Value of a wrong type, such as text for a number."""


class MissingFileError(BundleError, FileNotFoundError):
    """File or folder that is not there."""


class MissingPackageError(BundleError, ImportError):
    """Package that an option needs and that is not installed."""


class DivergenceError(BundleError, FloatingPointError):
    """Training that has left the finite numbers, or collapsed."""


@contextmanager
def collect_errors() -> Iterator[list[str]]:
    """List to which `keep_going` adds the sentences of foreseen errors, so that one look finds all that is wrong."""
    sentences: list[str] = []
    token = _collected.set(sentences)
    try:
        yield sentences
    finally:
        _collected.reset(token)


def is_collecting() -> bool:
    """Tell whether errors are collected, see `collect_errors`."""
    return _collected.get() is not None


@contextmanager
def keep_going() -> Iterator[None]:
    """Block that ends at a foreseen error, which is noted where errors are collected, and otherwise raised."""
    collected = _collected.get()
    try:
        yield
    except Exception as error:
        sentence = find_sentence(error)
        if collected is None or sentence is None:
            raise
        collected.append(sentence.removeprefix(_ERROR))


def explain_errors() -> None:
    """Have an uncaught error end in one sentence: its true cause, which MONAI wraps in up to a hundred lines.

    A `BundleError` is printed as that sentence alone, and so is a file that the system refuses; others after their
    traceback. A termination signal becomes an interruption, so that what is open is closed; the status of the process
    is then 130 (SIGINT) or 143 (SIGTERM). Of several processes, one that fails ends at once, `torchrun` ends the
    others, and its report has the sentence, too.
    """
    sys.excepthook = _explain
    raise_on_termination()


def find_sentence(error: BaseException) -> str | None:
    """Return the sentence of a foreseen error, or of the one behind it; None when nobody foresaw it."""
    if (interruption := _find_interruption(error)) is not None:
        return str(interruption) or "interrupted; the same command goes on from the last checkpoint"
    expected = find_cause(error)
    if expected is not None:
        return f"{_ERROR}{_text(expected)}"
    is_lonely = _is_one_of_several() and any(text in str(root_cause(error)) for text in _OTHER_IS_GONE)
    return "error: another process has failed, see its own message" if is_lonely else None


def find_cause(error: BaseException) -> Exception | None:
    """Return the foreseen error behind an error, which may be that error itself; None when nobody foresaw it."""
    expected = [link for link in _chain(error) if isinstance(link, BundleError) or _is_refused_file(link)]
    return expected[-1] if expected else None  # type: ignore[return-value]


def concerns_run(error: BaseException) -> bool:
    """Tell whether an error in one case would meet all others: a disk that takes no more, or a device without memory.

    An interruption concerns the run, too.
    """
    chain = _chain(error)
    is_disk_full = any(isinstance(link, OSError) and link.errno in _DISK_ERRORS for link in chain)
    return is_disk_full or is_device_full(error) or not all(isinstance(link, Exception) for link in chain)


def is_device_full(error: BaseException) -> bool:
    """Tell whether a device without memory is behind an error."""
    torch: Any = sys.modules.get("torch")  # not imported: the help of a command comes without PyTorch
    return torch is not None and any(isinstance(link, torch.OutOfMemoryError) for link in _chain(error))


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


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sentence, interruption = find_sentence(error), _find_interruption(error)
    if sentence is None:
        traceback.print_exception(kind, error, trace)
        cause = root_cause(error)
        sentence = f"{_ERROR}{type(cause).__name__}: {cause}"
    tell(sentence)
    if interruption is not None:
        end_process_at_exit(getattr(interruption, "status", _INTERRUPTED))
        return
    _wait_for_pools()
    if _is_one_of_several():
        end_process_at_exit(1)


def tell(sentence: str, is_printed: bool = True) -> None:
    """Print the sentence with which a run fails, and write it into the report of `torchrun`."""
    if is_printed:
        print(sentence, file=sys.stderr)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:
        message = {"message": sentence, "extraInfo": {"timestamp": int(time.time())}}
        Path(report).write_text(json.dumps({"message": message}), encoding="utf-8")


def _find_interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption behind an error, such as that of a worker process that the same signal has ended."""
    interruptions = (link for link in _chain(error) if isinstance(link, KeyboardInterrupt))
    number = noted_signal()
    return next(interruptions, None if number is None else Interruption(number))


def _wait_for_pools() -> None:
    """Wait for threads that still load a case beside the one that failed.

    A pool that is given up, as that of MONAI's `CacheDataset`, leaves them running. Where they met the end of the
    interpreter, it aborted: with another exit status, and another last line.
    """
    for thread in threading.enumerate():
        if isinstance(thread, DummyProcess) and thread is not threading.current_thread():
            thread.join(_PATIENCE)


def root_cause(error: BaseException) -> BaseException:
    """Return the error at the bottom of a chain of causes."""
    seen = [error]
    while error.__cause__ is not None and not any(error.__cause__ is known for known in seen):
        error = error.__cause__
        seen.append(error)
    return error


def _is_one_of_several() -> bool:
    dist: Any = sys.modules.get("torch.distributed")  # not imported: the help of a command comes without PyTorch
    return dist is not None and dist.is_available() and dist.is_initialized()


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, its cause or the error during whose handling it was raised, and so on, each once.

    An error that is raised again, as that of a worker, may be among its own causes.
    """
    chain = [error]
    while True:
        last = chain[-1]
        link = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if link is None or any(link is known for known in chain):
            return chain
        chain.append(link)


def _text(error: BaseException) -> str:
    """Return the text of an error; that of a worker process comes with its traceback in front."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


def _is_refused_file(error: BaseException) -> bool:
    """Tell whether the system refused a file: none there, no right to it, or no space left."""
    return isinstance(error, OSError) and error.errno is not None and error.filename is not None
