"""The last line of a failed run says what is wrong."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

__all__ = ["explain_errors"]

_LIBRARY = str(Path(__file__).resolve().parents[1])


def explain_errors() -> None:
    """Have an uncaught error end in one sentence: its true cause, which MONAI wraps in up to a hundred lines.

    Errors that this library raises on purpose are printed as that sentence alone, others after their traceback. A
    termination signal becomes an interruption, so that what is open is closed. Of several processes, one that fails
    ends at once, `torchrun` ends the others, and its report has the sentence, too.
    """
    sys.excepthook = _explain
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sentence, is_whole = _sentence(error)
    if not is_whole:
        traceback.print_exception(kind, error, trace)
    print(sentence, file=sys.stderr)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:
        message = {"message": sentence, "extraInfo": {"timestamp": int(time.time())}}
        Path(report).write_text(json.dumps({"message": message}), encoding="utf-8")
    if _is_one_of_several():
        end_process_at_exit(1)


def _sentence(error: BaseException) -> tuple[str, bool]:
    """Return the sentence for an error, and whether it says all."""
    chain = _chain(error)
    if any(isinstance(link, KeyboardInterrupt) for link in chain):
        return "interrupted; the same command goes on from the last checkpoint", True
    expected = [link for link in chain if _is_expected(link)]
    if expected:
        return f"error: {expected[-1]}", True
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if _is_one_of_several() and ("closed by peer" in str(cause) or "reset by peer" in str(cause)):
        return "error: another process has failed, see its own message", True
    return f"error: {type(cause).__name__}: {cause}", False


def _is_one_of_several() -> bool:
    return dist.is_available() and dist.is_initialized()


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, its cause or the error during whose handling it was raised, and so on."""
    chain = [error]
    while True:
        last = chain[-1]
        link = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if link is None:
            return chain
        chain.append(link)


def _is_expected(error: BaseException) -> bool:
    """Tell whether this library raised an error on purpose, or the system refused one of its files."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    if not last or not last[0].filename.startswith(_LIBRARY):
        return False
    is_raised = (last[0].line or "").startswith("raise ")
    return isinstance(error, OSError) or (is_raised and isinstance(error, (ValueError, TypeError, ArithmeticError)))


logger = logging.getLogger(__name__)


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
