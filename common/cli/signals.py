"""Signals that ask a run to stop: while they are noted, the first one sets a flag, and the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interruption", "forget_signals", "note_signals", "noted_signal", "raise_on_termination"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHELL = 128  # to which a shell adds the number of a signal
_STDERR = 2


class Interruption(KeyboardInterrupt):
    """Interruption of a run by a signal; its text is one sentence with how to go on.

    Args:
        number: of the signal.
        sentence: for the last line of the output.
    """

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(sentence)
        self.status = _SHELL + number


class _Notes:
    """What is known of the signals of this process."""

    former: dict[int, Any] = {}  # handlers that were replaced, by signal; none while signals are not noted
    process = 0  # that notes them; the workers of a loader inherit the handlers, and leave signals to it
    noted: int | None = None


def raise_on_termination() -> None:
    """Have a termination signal raise an `Interruption`, as an interrupt does, unless another program handles it."""
    if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


def note_signals() -> bool:
    """Note SIGINT and SIGTERM from now on, and tell whether that is new.

    An exception from within a signal handler can leave a lock taken, such as that of TensorBoard's queue, and then a
    run hangs where it shall end. In another thread than the main one, and where another program handles a signal or
    ignores it, nothing changes.
    """
    if _Notes.former or not _is_main_thread():
        return False
    ours = (signal.default_int_handler, signal.SIG_DFL, _raise)
    former: dict[int, Any] = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) in ours}
    _Notes.former, _Notes.process, _Notes.noted = former, os.getpid(), None
    for number in former:
        signal.signal(number, _note)
    return bool(former)


def forget_signals() -> None:
    """Give both signals back the handlers that they had before `note_signals`."""
    for number, handler in _Notes.former.items():
        signal.signal(number, handler)
    _Notes.former, _Notes.noted = {}, None


def noted_signal() -> int | None:
    """Return the signal that has come since `note_signals`, if one has."""
    return _Notes.noted


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)


def _note(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _Notes.process:
        return
    if _Notes.noted is not None:
        _write("ended at once by a second signal; what was written last is whole")
        os._exit(_SHELL + number)
    _Notes.noted = number
    _write(f"{signal.Signals(number).name}: the run stops after this iteration; a second signal ends it at once")


def _write(line: str) -> None:
    """Write a line past the buffers, in which a handler could meet itself."""
    os.write(_STDERR, f"{line}\n".encode())
