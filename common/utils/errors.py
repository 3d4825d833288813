"""The last line of a failed run says what is wrong."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType

__all__ = ["explain_errors"]

_LIBRARY = str(Path(__file__).resolve().parents[1])


def explain_errors() -> None:
    """Have an uncaught error end in one sentence: its true cause, which MONAI wraps in up to a hundred lines.

    Errors that this library raises on purpose are printed as that sentence alone, others after their traceback. A
    termination signal becomes an interruption, so that what is open is closed.
    """
    sys.excepthook = _explain
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = error
    while cause.__cause__ is not None or (cause.__context__ is not None and not cause.__suppress_context__):
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if isinstance(cause, KeyboardInterrupt):
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return
    frames = traceback.extract_tb(cause.__traceback__)
    is_expected = isinstance(cause, (ValueError, TypeError, OSError, ArithmeticError)) and any(
        frame.filename.startswith(_LIBRARY) for frame in frames[-1:]
    )
    if not is_expected:
        traceback.print_exception(kind, error, trace)
    print(f"error: {cause}" if is_expected else f"error: {type(cause).__name__}: {cause}", file=sys.stderr)
