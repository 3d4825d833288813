"""Engines of a study: its commands run on this machine, or on the machines of a Ray cluster."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.cli import InputError, MissingFileError, MissingPackageError
from tools.study import supervise

__all__ = ["ENGINES", "LocalRunner", "LostRun", "RayRunner", "Runner", "count_threads", "open_runner", "share"]

ENGINES = ("local", "ray")
SECONDS_TO_STOP = 10.0
SECONDS_TO_CONNECT = 10.0
LOCK = "log.lock"


class LostRun(Exception):
    """Run that ended with its machine, through no fault of its own."""


class Runner(ABC):
    """Runner of commands.

    Args:
        workers: number of commands at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.guard = threading.Lock()
        self.is_stopped = False

    @abstractmethod
    def __call__(self, command: Sequence[str], log_path: Path) -> tuple[int, float]:
        """Run a command whose output is added to a log.

        Returns:
            Its exit status, and the seconds that it took.

        Raises:
            LostRun: when it must be run again.
        """

    @abstractmethod
    def stop(self) -> None:
        """End all commands, politely first, and start no other."""

    def close(self) -> None:
        """Start no other command, and leave what the runner is connected to."""
        self.is_stopped = True


class LocalRunner(Runner):
    """Runner on this machine: process groups of their own, so that they end together with the study.

    Args:
        workers: number of commands at a time.
        num_threads: `OMP_NUM_THREADS` of each command.
        lock: open file descriptor that each command holds; a lock on it outlives a study that is killed hard.
    """

    def __init__(self, workers: int, num_threads: int, lock: int) -> None:
        super().__init__(workers)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
        self.lock = lock
        self.processes: set[subprocess.Popen] = set()

    def __call__(self, command: Sequence[str], log_path: Path) -> tuple[int, float]:
        began = time.perf_counter()
        with log_path.open("ab") as log:
            with self.guard:
                if self.is_stopped:
                    return -signal.SIGTERM, 0.0
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                    pass_fds=[self.lock],
                )
                self.processes.add(process)
            status = process.wait()
        with self.guard:
            self.processes.discard(process)
        return status, time.perf_counter() - began

    def stop(self) -> None:
        with self.guard:
            self.is_stopped = True
            processes = [*self.processes]
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class RayRunner(Runner):
    """Runner on a Ray cluster whose machines share the folders and the Python environment.

    A command is a task of the cluster that this machine belongs to; of several, `RAY_ADDRESS` names one. Its
    environment variables are those of the machine that runs it, but for `PYTHONPATH` and `OMP_NUM_THREADS`.

    Args:
        workers: largest number of commands at a time; None: as many as there is room for.

    Raises:
        MissingPackageError: when Ray is not installed.
        InputError: when there is no cluster, or none of its machines has room for a command.
    """

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingPackageError("--engine ray needs the package ray, got none; pip install '.[ray]'") from None
        address = os.environ.get("RAY_ADDRESS", "auto")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_connection(address)
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError) as error:  # the latter where this machine has not joined
            raise InputError(
                f"--engine ray must find a Ray cluster that this machine has joined, got none at {address!r}; "
                "start one with `ray start` on each machine, as docs/many_gpus.md tells"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray has set one of its own
        self.ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores, workers = share(machines, workers, _wanted_threads())
        super().__init__(workers)
        print(f"Ray cluster of {len(machines)} machines: {workers} runs at a time, {cores} cores each", flush=True)
        self.environment = {key: value for key, value in os.environ.items() if key == "PYTHONPATH"}
        self.environment["OMP_NUM_THREADS"] = str(cores)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker may lack this PYTHONPATH
        has_gpus = any(machine.get("GPU") for machine in machines)
        task = ray.remote(_run_supervised)
        self.task = task.options(num_cpus=cores, num_gpus=1 if has_gpus else 0, max_retries=0)
        self.tasks: set = set()

    def __call__(self, command: Sequence[str], log_path: Path) -> tuple[int, float]:
        errors = self.ray.exceptions
        with self.guard:
            if self.is_stopped:
                return -signal.SIGTERM, 0.0
            supervised = [sys.executable, supervise.__file__, str(log_path.with_name(LOCK)), *command]
            task = self.task.remote(supervised, Path.cwd(), self.environment, log_path.absolute())
            self.tasks.add(task)
        try:
            return self.ray.get(task)
        except errors.TaskCancelledError:
            return -signal.SIGTERM, 0.0
        except OSError as error:
            raise MissingFileError(
                f"--engine ray must find the current folder, output_dir and {sys.executable} on every machine of the "
                f"cluster, got {getattr(error, 'cause', error)}; mount the disk that holds them there"
            ) from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            if self.is_stopped:
                return -signal.SIGKILL, 0.0
            raise LostRun(str(error).strip().splitlines()[0]) from error
        finally:
            with self.guard:
                self.tasks.discard(task)

    def stop(self) -> None:
        with self.guard:
            self.is_stopped = True
            tasks = [*self.tasks]
        for task in tasks:
            self.ray.cancel(task)
        late = self.ray.wait(tasks, num_returns=len(tasks), timeout=1.5 * SECONDS_TO_STOP)[1] if tasks else []
        for task in late:
            self.ray.cancel(task, force=True)

    def close(self) -> None:
        super().close()
        self.ray.shutdown()


def _check_connection(address: str) -> None:
    """Raise an `OSError` where nothing answers at `HOST:PORT`: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()


def _run_supervised(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log_path: Path
) -> tuple[int, float]:
    """Run a command on the machine of a Ray worker; its processes end with the worker."""
    began = time.perf_counter()
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        while process.poll() is None:  # no call that blocks: an interruption by Ray would not reach it
            time.sleep(0.05)
    finally:
        process.stdin.close()
        status = process.wait()
    return status, time.perf_counter() - began


def share(machines: Sequence[Mapping[str, float]], workers: int | None, cores: int | None) -> tuple[int, int]:
    """Share the cores of machines among commands; each has a GPU, too, where there are any.

    Args:
        machines: resources of each, `CPU` and `GPU`.
        workers: largest number of commands at a time; None: as many as there is room for.
        cores: of a command; None: as many as leave room for `workers`, or else for one on each machine or GPU.

    Returns:
        Cores of a command, and number of commands at a time.
    """
    has_gpus = any(machine.get("GPU") for machine in machines)
    most_cores = int(max((machine.get("CPU", 0) for machine in machines), default=0))

    def room(cores: int) -> int:
        places = [(machine.get("CPU", 0) // cores, machine.get("GPU", 0)) for machine in machines]
        return int(sum(min(place) if has_gpus else place[0] for place in places))

    if cores is None:
        one_each = room(1) if has_gpus else sum(machine.get("CPU", 0) >= 1 for machine in machines)
        wanted = workers or max(1, one_each)
        cores = max((cores for cores in range(1, most_cores + 1) if room(cores) >= wanted), default=1)
    places = room(cores)
    if places == 0:
        raise InputError(
            f"--engine ray must find a machine with {cores} cores{' and a GPU' if has_gpus else ''}, got at most "
            f"{most_cores} cores; start more machines, or set OMP_NUM_THREADS"
        )
    return cores, min(places, workers or places)


def count_threads(workers: int) -> int:
    """Return the threads of each run: what `OMP_NUM_THREADS` says, or a share of the cores."""
    return _wanted_threads() or max(1, len(os.sched_getaffinity(0)) // workers)


def _wanted_threads() -> int | None:
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not wanted:
        return None
    if not wanted.isdecimal() or int(wanted) < 1:
        raise InputError(f"OMP_NUM_THREADS must be a whole number from 1, got {wanted!r}; correct or unset it")
    return int(wanted)


@contextmanager
def open_runner(output_dir: Path, engine: str, workers: int | None) -> Iterator[Runner]:
    """Runner of a study, which has its folder for itself and is interrupted by SIGTERM.

    Args:
        output_dir: folder of the study.
        engine: one of `ENGINES`.
        workers: number of commands at a time; None: 1, or with `ray` as many as its cluster has room for.

    Raises:
        InputError: when another study, or a command that one has left here or on a cluster, uses the folder.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w") as lock:
        if not (_is_free(lock.fileno()) and all(map(_is_idle, output_dir.rglob(LOCK)))):
            raise InputError(
                f"output_dir must not be in use by another study or its runs, got {output_dir}; wait "
                "for it, or use another"
            )
        handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            runner = _make_runner(engine, workers, lock.fileno())
            try:
                yield runner
            finally:
                runner.close()
        finally:
            signal.signal(signal.SIGTERM, handler)


def _make_runner(engine: str, workers: int | None, lock: int) -> Runner:
    if engine == "ray":
        return RayRunner(workers)
    workers = 1 if workers is None else workers
    return LocalRunner(workers, count_threads(workers), lock)


def _is_idle(path: Path) -> bool:
    with path.open("a") as lock:
        return _is_free(lock.fileno())


def _is_free(lock: int) -> bool:
    """Take a lock, and tell whether that was possible."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
