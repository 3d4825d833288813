"""Laws of a study on a real Ray cluster on this machine: a head that runs nothing and two workers, stubs for runs."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_study import plan

from tools.study.__main__ import study
from tools.study.engines import RayRunner

ray = pytest.importorskip("ray", reason="ray is an extra: pip install '.[ray]'")
pytestmark = pytest.mark.slow

STUB = '''
"""Takes the place of `python -m monai.bundle`; a training waits for a file named go, and ends slowly when asked to."""
import os, signal, subprocess, sys, time
from pathlib import Path

run_id, options = sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2]))
seed = int(options["--seed"])
print(run_id, os.environ["OMP_NUM_THREADS"])


def end_slowly(*_):
    for _ in range(20):
        tick()
    sys.exit(1)


def tick():
    with open(options["--ckpt_dir"] + "/ticks.txt", "a") as ticks:
        ticks.write(f"{os.getpid()}\\n")
    time.sleep(0.05)


if run_id == "training":
    signal.signal(signal.SIGTERM, end_slowly)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    while not Path("go").exists():
        tick()
        Path(f"pids{seed}").write_text(f"{os.getpid()} {os.getppid()} {child.pid}")
    child.kill()
    if seed == 7:
        sys.exit("seed must not be 7")
else:
    rows = f"filename,class0,mean\\na,0.{seed + 1},0.{seed + 1}\\nb,0.{seed + 2},0.{seed + 2}\\n"
    Path(options["--evaluation_dir"], "mean_dice_raw.csv").write_text(rows)
with open("ended.txt", "a") as ended:
    ended.write(f"{run_id} {seed}\\n")
'''


class Machines:
    """A Ray cluster of a head without cores, and workers with two each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.limits = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self.limits})
        self.address = self.cluster.address
        self.refill()

    def refill(self):
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(num_cpus=2, **self.limits)

    def lose_machine_of(self, worker):
        """Kill all processes of the machine that a Ray worker belongs to."""
        raylet = parent_of(worker)
        nodes = [node for node in self.cluster.worker_nodes if raylet == raylet_of(node)]
        assert len(nodes) == 1
        self.cluster.remove_node(nodes[0], allow_graceful=False)


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pids_of(seed):
    """Return the processes of a training: itself, the Ray worker that started it, a child of its own."""
    path = Path(f"pids{seed}")
    wait_until(lambda: path.exists() and len(path.read_text(encoding="utf-8").split()) == 3)
    return [int(pid) for pid in path.read_text(encoding="utf-8").split()]


def scores(path):
    with Path(path).open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def _handler_of_sigterm():
    """Ray takes over SIGTERM where a cluster is started or joined, and tests of signals come after these."""
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="module")
def machines():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        machines = Machines()
        yield machines
        machines.cluster.shutdown()


@pytest.fixture
def stubbed(content, monkeypatch, machines):
    """Study of three seeds with a stub for `monai.bundle`; trainings wait for a file named go."""
    machines.refill()
    Path("modules/monai/bundle").mkdir(parents=True)
    Path("modules/monai/__init__.py").touch()
    Path("modules/monai/bundle/__init__.py").touch()
    Path("modules/monai/bundle/__main__.py").write_text(STUB, encoding="utf-8")
    content |= {"num_labeled": [2], "folds": [0], "seeds": [0, 1, 2], "arms": {"scratch": {}}}
    plan(content)
    monkeypatch.setenv("PYTHONPATH", str(Path("modules").resolve()))  # of the runs alone
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    yield content
    Path("go").touch()


@pytest.fixture
def start(stubbed):
    """Start the tool in a process of its own."""
    started = []
    code = "import os, sys; sys.path[:0] = sys.argv.pop(1).split(os.pathsep); "  # not PYTHONPATH, which has the stub
    code += "import runpy; runpy.run_module('tools.study', run_name='__main__', alter_sys=True)"

    def start(*options):
        own = signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it, and hand that on
        modules = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-c", code, modules, "study.yaml", *options]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        signal.signal(signal.SIGINT, own)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_cluster_does_what_this_machine_does(stubbed, capfd):
    stubbed["seeds"] = [0, 1, 7]
    plan(stubbed)
    Path("go").touch()
    for engine in ("ray", "local"):
        with pytest.raises(SystemExit, match="2 jobs failed or were skipped: scratch_n2_fold0_seed7 training"):
            study("study.yaml", engine=engine)
        assert "exit status 1: seed must not be 7" in capfd.readouterr().out
        assert Path("out/runs/scratch_n2_fold0_seed1/log.txt").read_text(encoding="utf-8").startswith("training ")
        Path("out").rename(engine)
    assert len(scores("ray/results.csv")) == 4
    assert scores("ray/results.csv") == scores("local/results.csv")
    assert sorted(Path("ended.txt").read_text(encoding="utf-8").splitlines()) == [
        f"{run_id} {seed}" for run_id in ("evaluation", "training") for seed in (0, 0, 1, 1)
    ]


@pytest.mark.parametrize("lost", ["machine", "worker"])
def test_the_runs_of_a_lost_machine_are_repeated_once_they_have_ended(stubbed, machines, lost, capfd):
    def lose():
        (pid, worker, child), (_, other_worker, _) = pids_of(0), pids_of(1)
        is_shared = parent_of(worker) == parent_of(other_worker)
        if lost == "machine":
            machines.lose_machine_of(worker)
        else:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid) and not is_alive(child))
        wait_until(lambda: pids_of(0)[0] != pid)
        Path("go").touch()
        return pid, 2 if lost == "machine" and is_shared else 1

    with ThreadPoolExecutor(1) as pool:
        loss = pool.submit(lose)
        study("study.yaml", engine="ray", workers=2)
        pid, num_lost = loss.result()
    assert "scratch_n2_fold0_seed0 training: lost with its machine" in capfd.readouterr().out
    assert f"{num_lost} runs were interrupted" in Path("out/table.md").read_text(encoding="utf-8")
    assert len(scores("out/results.csv")) == 6
    assert sorted(Path("ended.txt").read_text(encoding="utf-8").splitlines()) == [
        f"{run_id} {seed}" for run_id in ("evaluation", "training") for seed in range(3)
    ]
    ticks = Path("out/runs/scratch_n2_fold0_seed0/ticks.txt").read_text(encoding="utf-8").split()
    num_first = ticks.count(str(pid))
    assert ticks[:num_first] == [str(pid)] * num_first
    assert len({*ticks}) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_is_stopped_ends_its_runs_everywhere_and_goes_on_here(start, number):
    process = start("--engine", "ray", "--workers", "2")
    pids = [pid for seed in (0, 1) for pid in (pids_of(seed)[0], pids_of(seed)[2])]
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not Path("ended.txt").exists()
    Path("go").touch()
    study("study.yaml")
    assert "2 runs were interrupted" in Path("out/table.md").read_text(encoding="utf-8")


def test_the_runs_of_a_study_that_was_killed_hard_end(start):
    process = start("--engine", "ray", "--workers", "1")
    pid, _, child = pids_of(0)
    process.kill()
    process.communicate()
    wait_until(lambda: not is_alive(pid) and not is_alive(child))


def test_a_machine_that_lacks_the_folders_is_told_of(stubbed, tmp_path):
    runner = RayRunner()
    with pytest.raises(FileNotFoundError, match=r"on every machine of the cluster, got .*elsewhere/log.txt'; mount"):
        runner([sys.executable, "-c", "pass"], tmp_path / "elsewhere" / "log.txt")
    runner.close()


def test_a_cluster_that_is_not_there_is_told_of(content, monkeypatch):
    plan(content)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ValueError, match=r"must find a Ray cluster .*, got none at '127.0.0.1:9'; start one"):
        study("study.yaml", engine="ray")


def test_sigterm_is_left_as_it_was_with_and_without_a_cluster(monkeypatch, machines):
    def own(number, frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, own)
    for address in (machines.address, "127.0.0.1:1"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        try:
            RayRunner().close()
        except ValueError as error:
            assert address == "127.0.0.1:1", error
        assert signal.getsignal(signal.SIGTERM) is own
