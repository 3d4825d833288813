"""Laws of the command that runs a study: `monai.bundle` itself runs in two tests, and a stub of it in two others."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_study import CONFIGS, plan

from tools.study.__main__ import study

RECORDER = '''
"""Leave what each workflow of a bundle leaves."""
import json
from pathlib import Path


def pretrain(ckpt_dir):
    Path(ckpt_dir, "pretrained").mkdir(parents=True)
    Path(ckpt_dir, "pretrained/weights.pt").write_text("weights")


def train(ckpt_dir, **options):
    if options["phi"] == 13:
        raise ValueError("phi must not be 13")
    Path(ckpt_dir, "options.json").write_text(json.dumps(options))


def evaluate(evaluation_dir, dataset_dir):
    rows = ["filename,class0,class1,mean", f"{dataset_dir}/a.nii.gz,0.5,nan,0.5", f"{dataset_dir}/b.nii.gz,0.5,0.7,0.6"]
    Path(evaluation_dir, "mean_dice_raw.csv").write_text("\\n".join(rows))
'''

STUB = '''
"""Takes the place of `python -m monai.bundle`; a training with seed 1 waits until it is told to go on."""
import os, subprocess, sys, time
from pathlib import Path

run_id, options = sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2]))
print(run_id, os.environ["OMP_NUM_THREADS"])
with open("calls.txt", "a") as calls:
    calls.write(run_id + options["--seed"] + "\\n")
if run_id == "training" and options["--seed"] == "1" and not Path("go").exists():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path("waiting.partial").write_text(f"{os.getpid()} {child.pid}")
    Path("waiting.partial").rename("waiting")
    time.sleep(60)
if run_id == "evaluation":
    Path(options["--evaluation_dir"], "mean_dice_raw.csv").write_text("filename,class0,mean\\na,0.5,0.5\\n")
'''


@pytest.fixture
def real(content, monkeypatch):
    """The same study with a bundle that `monai.bundle` can run."""
    Path("modules").mkdir()
    Path("modules/recorder.py").write_text(RECORDER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path("modules").resolve()), str(Path(__file__).parents[3])]))
    training = ["num_labeled", "fold", "seed", "pretrained", "phi", "text", "sizes"]
    workflows = {
        "pretrain.yaml": ("pretraining", "recorder.pretrain", ["ckpt_dir"]),
        "train.yaml": ("training", "recorder.train", ["ckpt_dir", *training]),
        "evaluate.yaml": ("evaluation", "recorder.evaluate", ["evaluation_dir", "dataset_dir"]),
    }
    for name, (run_id, target, ids) in workflows.items():
        component = {"_target_": target, **{key: f"@{key}" for key in ids}}
        config = dict.fromkeys(CONFIGS[name], "default") | {f"do_{run_id}": component, run_id: [f"$@do_{run_id}"]}
        Path("bundle/configs", name).write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("bundle/configs/small.yaml").write_text("{}\n", encoding="utf-8")
    return content | {"num_labeled": [2], "folds": [1], "override_files": ["configs/small.yaml"]}


@pytest.mark.slow
def test_a_bundle_receives_the_values_of_the_study_file(real, capfd):
    real["arms"] = {"stl": {"pretraining": "wta", "options": {"phi": None, "text": "1.0", "sizes": [1, None, "a b"]}}}
    real["reference"] = "stl"
    plan(real)
    study("study.yaml")
    folder = Path("out/runs/stl_n2_fold1_seed0")
    assert json.loads((folder / "options.json").read_text(encoding="utf-8")) == {
        **{"num_labeled": 2, "fold": 1, "seed": 0, "pretrained": "out/pretraining/wta/pretrained/weights.pt"},
        **{"phi": None, "text": "1.0", "sizes": [1, None, "a b"]},
    }
    with Path("out/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class1"], row["mean"]) for row in rows] == [
        ("a.nii.gz", "nan", "0.5"),
        ("b.nii.gz", "0.7", "0.6"),
    ]
    assert "0.550" in Path("out/table.md").read_text(encoding="utf-8")
    assert Path("out/curve.png").read_bytes().startswith(b"\x89PNG")
    assert "[3/3] stl_n2_fold1_seed0 evaluation: done" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_ends_the_tool_with_status_1(real, capfd):
    real["arms"] = {"scratch": {"options": {"pretrained": None, "phi": 13}}}
    plan(real)
    with pytest.raises(ValueError, match="finished run to report"):
        study("study.yaml")
    output = capfd.readouterr().out
    assert "scratch_n2_fold1_seed0 training: FAILED" in output
    assert "skipped scratch_n2_fold1_seed0 evaluation: it needs scratch_n2_fold1_seed0 training" in output


def test_a_dry_run_prints_commands_and_runs_nothing(content, capsys):
    plan(content)
    study("study.yaml", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 17
    assert all("-m monai.bundle run" in line for line in lines)
    assert not Path("out").exists()


def test_a_report_without_any_finished_run_is_refused(content):
    plan(content)
    with pytest.raises(ValueError, match="out must hold a finished run to report, got none"):
        study("study.yaml", report_only=True)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def start(content, monkeypatch):
    """Start the tool on a study of two seeds with a stub for `monai.bundle`; seed 1 waits for a file named go."""
    Path("modules/monai/bundle").mkdir(parents=True)
    Path("modules/monai/__init__.py").touch()
    Path("modules/monai/bundle/__init__.py").touch()
    Path("modules/monai/bundle/__main__.py").write_text(STUB, encoding="utf-8")
    content |= {"num_labeled": [2], "folds": [0], "seeds": [0, 1], "arms": {"scratch": {}}}
    plan(content)
    root = str(Path(__file__).parents[3])
    code = "import os, runpy, sys; os.environ['PYTHONPATH'] = sys.argv.pop(1); "  # of the runs alone
    code += "runpy.run_module('tools.study', run_name='__main__', alter_sys=True)"
    path = os.pathsep.join([str(Path("modules").resolve()), root])
    started = []

    def start():
        command = [sys.executable, "-c", code, path, "study.yaml"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        own = signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it, and hand that on
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, **pipes))
        signal.signal(signal.SIGINT, own)
        return started[-1]

    yield start
    Path("go").touch()
    pids = [int(pid) for pid in Path("waiting").read_text(encoding="utf-8").split()] if Path("waiting").exists() else []
    for process in started:
        process.kill()
        process.wait()
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_was_stopped_goes_on_where_it_was(start, number):
    process = start()
    wait_until(Path("waiting").exists)
    process.send_signal(number)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 130, output
    pids = [int(pid) for pid in Path("waiting").read_text(encoding="utf-8").split()]
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not Path("out/runs/scratch_n2_fold0_seed1/done.json").exists()

    Path("go").touch()
    process = start()
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    calls = Path("calls.txt").read_text(encoding="utf-8").split()
    assert calls == ["training0", "evaluation0", "training1", "training1", "evaluation1"]
    assert "1 runs were interrupted" in Path("out/table.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_study_that_was_killed_hard_waits_for_its_runs_to_end(start):
    process = start()
    wait_until(Path("waiting").exists)
    process.kill()
    process.communicate()
    second = start()
    output = second.communicate(timeout=180)[0]
    assert second.returncode == 1
    assert "output_dir must not be in use by another study or its runs, got out" in output
