"""Laws of the last line of a failed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import InputError, collect_errors, concerns_run, explain_errors, find_cause, keep_going, root_cause

ROOT = Path(__file__).resolve().parents[2]


def run(code):
    """Run Python with `explain_errors` and return its exit status and the lines that it printed."""
    code = f"from common.cli import explain_errors\nexplain_errors()\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.slow
def test_an_expected_error_is_one_sentence_even_inside_a_config():
    """MONAI wraps an error of a config's component into another; its cause is what counts."""
    status, lines = run(
        "from monai.bundle import ConfigParser\n"
        "config = {'weights': {'_target_': 'common.training.load_weights', 'path': 'nowhere.pt'}}\n"
        "ConfigParser(config).get_parsed_content('weights')"
    )
    assert status == 1
    assert lines[-1].startswith("error: nowhere.pt: weights must exist; pretrain first")
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.slow
def test_an_unexpected_error_keeps_its_traceback_and_ends_in_its_cause():
    status, lines = run("try:\n    [][1]\nexcept IndexError as error:\n    raise RuntimeError('wrapped') from error")
    assert status == 1
    assert "Traceback" in "\n".join(lines)
    assert lines[-1] == "error: IndexError: list index out of range"


@pytest.mark.slow
def test_an_operation_that_goes_wrong_in_the_library_keeps_its_traceback():
    """A comparison of text with a number was printed alone, as if it told a user what to do."""
    status, lines = run("from common.fnet import FNetGeometry\nFNetGeometry(num_levels='three')")
    assert status == 1
    assert "Traceback" in "\n".join(lines)
    assert lines[-1].startswith("error: TypeError: '<' not supported")


@pytest.mark.slow
def test_threads_that_still_load_a_case_are_waited_for():
    """Where one met the end of the interpreter, it aborted: status 134, and another last line."""
    status, lines = run(
        "import time\n"
        "from multiprocessing.pool import ThreadPool\n"
        "from common.cli import InputError\n"
        "with ThreadPool(1) as pool:\n"
        "    pool.apply_async(lambda: (time.sleep(0.5), print('loaded', file=__import__('sys').stderr)))\n"
        "    time.sleep(0.1)\n"
        "    raise InputError('a.nii: must be whole; copy it again')"
    )
    assert status == 1
    assert lines == ["error: a.nii: must be whole; copy it again", "loaded"]


@pytest.mark.slow
def test_a_termination_signal_is_an_interruption():
    status, lines = run("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    assert status != 0
    assert lines[-1] == "interrupted; the same command goes on from the last checkpoint"


def test_what_follows_from_the_failure_of_another_process_is_no_failure_of_its_own(tmp_path, monkeypatch):
    """What gloo says when a process is gone stood last, below the sentence that told why."""
    report = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(report))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # a machine whose name has no address is warned of
    status, lines = run(
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "raise RuntimeError('[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:12184. This is')"
    )
    assert status == 1
    assert lines == ["[rank0]: error: another process has failed, see its own message"]
    assert json.loads(report.read_text(encoding="utf-8"))["message"]["message"] == lines[0].removeprefix("[rank0]: ")


# ---- chains of errors, in this process -----------------------------------------------------------


@pytest.fixture
def explain(monkeypatch, capsys):
    """Return a function that lets an error go uncaught and returns what is printed."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handler = signal.getsignal(signal.SIGTERM)
    explain_errors()

    def _explain(raise_error):
        try:
            raise_error()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        return capsys.readouterr().err.strip().splitlines()

    yield _explain
    signal.signal(signal.SIGTERM, handler)


def refuse():
    from common.fnet import FNetGeometry

    FNetGeometry(num_levels=1)


def test_an_error_while_another_is_handled_is_not_blamed_on_the_other(explain):
    """Ignite restarts its loader while it handles StopIteration, which was printed instead of the error."""

    def restart():
        try:
            next(iter([]))
        except StopIteration:
            refuse()

    def restart_unexpected():
        try:
            next(iter([]))
        except StopIteration:
            raise RuntimeError("worker died")  # noqa: B904

    assert explain(restart) == ["error: num_levels must be at least 2, got 1"]
    assert explain(restart_unexpected)[-1] == "error: RuntimeError: worker died"


def test_an_interruption_is_one_whatever_was_handled(explain):
    """Interrupted while it waited for a worker, a run was said to have failed with queue.Empty."""

    def interrupt():
        try:
            raise TimeoutError
        except TimeoutError:
            raise KeyboardInterrupt  # noqa: B904

    assert explain(interrupt) == ["interrupted; the same command goes on from the last checkpoint"]


def test_the_deepest_sentence_of_the_library_is_the_one(explain):
    def wrap():
        try:
            refuse()
        except ValueError as error:
            raise RuntimeError("applying transform") from error

    assert explain(wrap) == ["error: num_levels must be at least 2, got 1"]


@pytest.mark.slow
def test_an_error_of_a_worker_process_ends_in_its_sentence():
    status, lines = run(
        "import torch\n"
        "from common.fnet import FNetGeometry\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 1\n"
        "    def __getitem__(self, index): FNetGeometry(1)\n"
        "list(torch.utils.data.DataLoader(Data(), num_workers=1))"
    )
    assert status == 1
    assert lines[-1].endswith("num_levels must be at least 2, got 1")


def test_an_error_ends_a_block_and_what_follows_where_errors_are_not_collected():
    with pytest.raises(ValueError, match="seed must be 1"), keep_going():
        raise InputError("seed must be 1")


def test_where_errors_are_collected_what_follows_a_block_goes_on():
    with collect_errors() as errors:
        for number in range(3):
            with keep_going():
                raise InputError(f"seed must be {number}")
    assert errors == ["seed must be 0", "seed must be 1", "seed must be 2"]
    with pytest.raises(ValueError, match="seed must be 3"), keep_going():  # behind the collection
        raise InputError("seed must be 3")


def test_a_collected_error_is_the_cause_and_not_what_wrapped_it():
    with collect_errors() as errors, keep_going():
        try:
            raise InputError("seed must be 1")
        except InputError as error:
            raise RuntimeError("Failed to instantiate") from error
    assert errors == ["seed must be 1"]


def test_an_error_that_is_among_its_own_causes_is_looked_at_once():
    """One that a worker hands over and that is raised again; the search for its cause never ended."""
    first, second = InputError("a must be 1, got 2; pass 1"), RuntimeError("component")
    first.__context__, second.__cause__ = second, first
    first.__suppress_context__ = False
    assert find_cause(second) is first and find_cause(first) is first and not concerns_run(second)
    first.__cause__ = second
    assert root_cause(second) is first and root_cause(first) is second
