"""Laws of what runs the commands of a study. Those of a real Ray cluster are in `test_ray.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import FakeRunner, run, table_of

from common.cli import MissingPackageError
from tools.study import supervise
from tools.study.__main__ import study
from tools.study.engines import LocalRunner, LostRun, RayRunner, count_threads, open_runner, share

TICKS = "import sys, time\nwhile True: print('tick', flush=True); time.sleep(0.05)"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n" + TICKS
SLOW = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: signal.alarm(2))\n" + TICKS  # ends two seconds later


def test_a_command_gets_its_threads_and_its_log(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        script = "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit(4)"
        runner = LocalRunner(1, 3, lock.fileno())
        status, seconds = runner([sys.executable, "-c", script], tmp_path / "log.txt")
    assert status == 4
    assert 0 < seconds < 30
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "3\n"


def test_threads_are_what_the_environment_says_and_else_a_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert count_threads(1) == count_threads(64) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS must be a whole number from 1, got 'many'"):
        count_threads(1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert count_threads(1) == len(os.sched_getaffinity(0))
    assert count_threads(10**6) == 1


class LosingRunner(FakeRunner):
    """Lose some commands with their machines, a number of times each."""

    def __init__(self, lost, times):
        super().__init__()
        self.lost, self.times = lost, times

    def __call__(self, command, log_path):
        ended = super().__call__(command, log_path)
        if self.lost in self.calls[-1] and self.calls.count(self.calls[-1]) <= self.times:
            (log_path.parent / "checkpoint.pt").touch()
            raise LostRun("the node died")
        return ended


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_is_lost_with_its_machine_goes_on_in_its_folder(content, resume):
    runner = LosingRunner("stl_n2_fold0_seed0 training", times=2)
    assert run(content, runner, resume=resume) == []
    assert len(runner.calls) == 17 + 2
    folder = Path("out/runs/stl_n2_fold0_seed0")
    assert json.loads((folder / "done.json").read_text(encoding="utf-8"))["starts"] == 3
    assert (folder / "checkpoint.pt").is_file()
    assert "1 runs were interrupted" in table_of(content)


def test_a_run_that_loses_every_machine_fails(content, capsys):
    runner = LosingRunner("scratch_n2_fold0_seed0 training", times=99)
    assert run(content, runner) == ["scratch_n2_fold0_seed0 training", "scratch_n2_fold0_seed0 evaluation"]
    assert runner.calls.count("scratch_n2_fold0_seed0 training") == 5
    assert "its machine was lost 5 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("machines", "workers", "cores", "shares"),
    [
        ([{"CPU": 8}, {"CPU": 8}], None, None, (8, 2)),
        ([{}, {"CPU": 8}, {"CPU": 8}], None, None, (8, 2)),  # a head that runs nothing
        ([{"CPU": 8}, {"CPU": 8}], 1, None, (8, 1)),
        ([{"CPU": 8}, {"CPU": 8}], 3, None, (4, 3)),
        ([{"CPU": 8}, {"CPU": 8}], 99, None, (1, 16)),
        ([{"CPU": 8}, {"CPU": 8}], None, 3, (3, 4)),
        ([{"CPU": 8}, {"CPU": 2}], None, 3, (3, 2)),
        ([{"CPU": 8}, {"CPU": 8}], 3, 3, (3, 3)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], None, None, (4, 4)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], None, 8, (8, 2)),
    ],
)
def test_runs_never_get_more_cores_or_gpus_than_a_machine_has(machines, workers, cores, shares):
    assert share(machines, workers, cores) == shares


@pytest.mark.parametrize(
    ("machines", "cores", "message"),
    [
        ([{}], None, "must find a machine with 1 cores, got at most 0 cores; start more machines"),
        ([{"CPU": 2}], 4, "must find a machine with 4 cores, got at most 2 cores; .* OMP_NUM_THREADS"),
        ([{"CPU": 2}, {"GPU": 1}], None, "must find a machine with 1 cores and a GPU"),
    ],
)
def test_a_cluster_without_room_is_refused(machines, cores, message):
    with pytest.raises(ValueError, match=message):
        share(machines, None, cores)


def test_an_engine_that_is_none_is_refused(content):
    with pytest.raises(ValueError, match="engine must be a known one, got 'rya'; did you mean 'ray'"):
        study("study.yaml", engine="rya")


def test_the_command_that_installs_ray_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs the package ray, got none; pip install '\.\[ray\]'"):
        RayRunner()


@pytest.fixture
def start(tmp_path):
    """Start a supervised Python script as the worker of a cluster does: with a lock, a log and a pipe."""
    started = []

    def start(script):
        command = [sys.executable, supervise.__file__, str(tmp_path / "log.lock"), sys.executable, "-c", script]
        with (tmp_path / "log.txt").open("ab") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(command, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(text, path, seconds=20):
    deadline = time.monotonic() + seconds
    while not path.exists() or text not in path.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_supervised_command_has_its_own_status_and_output(start, tmp_path):
    process = start("import sys; print(repr(sys.stdin.read())); sys.exit(7)")
    assert process.wait(20) == 7
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "''\n"


@pytest.mark.slow
def test_a_supervised_command_ends_with_all_its_processes_when_its_starter_does(start, tmp_path):
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {TICKS!r}])\n"
    process = start(child + DEAF)
    wait_for("tick", tmp_path / "log.txt")
    process.stdin.close()
    assert process.wait(20) == -signal.SIGKILL
    size = (tmp_path / "log.txt").stat().st_size
    time.sleep(0.5)
    assert (tmp_path / "log.txt").stat().st_size == size
    assert "asked" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_repetition_waits_until_the_last_process_of_the_former_command_has_ended(start, tmp_path):
    first = start(SLOW)
    wait_for("tick", tmp_path / "log.txt")
    second = start("print('second', flush=True)")
    with pytest.raises(ValueError, match="output_dir must not be in use"), open_runner(tmp_path, "local", 1):
        pass
    time.sleep(0.5)
    first.stdin.close()
    assert second.wait(30) == 0
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("tick\nsecond\n")
    second.stdin.close()
    time.sleep(1.0)
    with open_runner(tmp_path, "local", 1):
        pass


def test_a_command_whose_starter_is_gone_before_it_began_does_not_begin(start, tmp_path):
    first = start(TICKS)
    wait_for("tick", tmp_path / "log.txt")
    second = start("print('second', flush=True)")
    second.stdin.close()
    second.wait(20)
    first.stdin.close()
    first.wait(20)
    assert "second" not in (tmp_path / "log.txt").read_text(encoding="utf-8")
