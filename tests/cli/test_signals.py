"""Laws of the signals that ask a run to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.cli import Interruption, forget_signals, note_signals, noted_signal

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers():
    """Give the process its own handlers back."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    forget_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_raises_nothing(number, capfd):
    assert note_signals() and noted_signal() is None
    signal.raise_signal(number)  # in this thread: one that the process is sent may be handled in another, and later
    assert noted_signal() == number
    assert capfd.readouterr().err.startswith(f"{number.name}: the run stops after this iteration; a second signal")


def test_handlers_are_given_back():
    note_signals()
    assert not note_signals()  # the first one to note them also forgets them
    forget_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_in_another_thread_signals_are_left_alone():
    """MONAI Label trains in a thread, where Python refuses to set a handler."""
    noted = []
    thread = threading.Thread(target=lambda: noted.append(note_signals()))
    thread.start()
    thread.join()
    assert noted == [False] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_another_program_and_an_ignored_signal_stay():
    signal.signal(signal.SIGTERM, other := lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert not note_signals()
    assert signal.getsignal(signal.SIGTERM) is other and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_status_is_that_of_a_shell():
    assert [Interruption(number).status for number in SIGNALS] == [130, 143]


def status_of(code: str) -> tuple[int, str]:
    code = f"import os, signal, time\nfrom common.cli import *\nfrom common.cli import explain_errors\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_before_a_run_a_signal_ends_it_with_its_status(name, status):
    code = f"explain_errors()\nos.kill(os.getpid(), signal.{name})\ntime.sleep(9)"
    assert status_of(code) == (status, "interrupted; the same command goes on from the last checkpoint")


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_a_process_at_once(name, status):
    signals = f"for _ in range(2):\n    os.kill(os.getpid(), signal.{name})\n    time.sleep(0.1)"
    code = f"note_signals()\n{signals}\ntime.sleep(9)"
    found, line = status_of(code)
    assert found == status and line.startswith("ended at once by a second signal")


def test_an_error_that_the_signal_has_caused_is_no_failure():
    """Sent to all processes of a job, a signal ends the workers of a loader, whose end was said to be an error."""
    code = (
        "explain_errors()\nnote_signals()\nos.kill(os.getpid(), signal.SIGTERM)\nraise RuntimeError('worker is gone')"
    )
    assert status_of(code) == (143, "interrupted; the same command goes on from the last checkpoint")


def test_a_worker_leaves_signals_to_its_parent():
    code = (
        "note_signals()\npid = os.fork()\nif pid == 0:\n    [os.kill(os.getpid(), signal.SIGINT) for _ in range(3)]\n"
        "    os._exit(7)\nraise SystemExit(f'child: {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}')"
    )
    assert status_of(code) == (1, "child: 7")
