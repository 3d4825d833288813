"""Command that holds a lock, and that ends with the process that started it.

    python supervise.py LOCK COMMAND...

This process becomes the command. Another one watches the standard input that both were given: a pipe that the starter
keeps open. It closes when the starter closes it, and when the starter is gone, however that came; then all processes of
the command are ended. The lock is free when they are, so that a second command with the same lock never runs beside
them. It needs nothing but the standard library, and a session of its own (`start_new_session`).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from contextlib import suppress

SECONDS_TO_STOP = 10.0
STDIN = 0


def supervise(lock_path: str, *command: str) -> None:
    """Become a command as soon as a lock is free; return when the starter is gone before."""
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(lock, True)
    while not _is_taken(lock):
        if select.select([STDIN], [], [], 0.2)[0]:
            return
    group = os.getpid()
    if os.fork() == 0:
        os.setsid()
        while os.read(STDIN, 1):
            pass
        _end(group)
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), STDIN)
    os.execvp(command[0], command)


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(group: int) -> None:
    """End a group of processes, politely first."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        while time.monotonic() < deadline:
            os.killpg(group, 0)  # raises when none is left
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    supervise(*sys.argv[1:])
