"""Run all that wants a GPU, in one call of less than ten minutes: tests, benchmarks, short trainings, two processes.

    bash tools/gpu.sh gpu.json

Each part is a command of its own. One that fails, or takes too long, does not stop the others: the JSON file tells how
each of them ended, with its seconds, the rows of the benchmarks and the last lines of what failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.cli import InputError, check_choice
from common.cli.options import POSITIVE_INT
from tools._command import all_bundles, run_command

__all__ = ["gpu_check"]

_ROOT = Path(__file__).resolve().parents[1]
_BENCHMARKS = ("fnet", "context", "planar", "layers")
_SCANS = {"num_training": 6, "num_test": 2, "num_unlabeled": 4}
_SHORT = {"max_epochs": 2, "iterations_per_epoch": 10, "num_validation": 2}
_LAST_LINES = 30  # of the output of a part that fails


def gpu_check(output: str = "gpu.json", *, device: str = "cuda", minutes: int = 10) -> None:
    """Run all parts, and write a JSON file.

    Args:
        output: file to write, anew after each part.
        device: `cuda`, or `cpu` to try the command itself.
        minutes: that all parts may take together; each may take what the others have left.
    """
    import torch

    check_choice("device", device, ("cpu", "cuda"))
    POSITIVE_INT.check("minutes", minutes)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device must be one that PyTorch finds, got cuda on a machine without it; pass --device cpu")
    num_devices = torch.cuda.device_count() if device == "cuda" else 2
    report: dict[str, Any] = {"machine": _machine(device), "parts": []}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        for name, command in _parts(Path(folder), device, num_devices):
            part = _run(name, command, end - time.monotonic())
            rows = Path(folder) / f"{name}.json"
            if rows.is_file():
                part["rows"] = json.loads(rows.read_text(encoding="utf-8"))["rows"]
            report["parts"].append(part)
            print(f"{part['name']}: {part['outcome']}, {part['seconds']:.0f} s", flush=True)
            Path(output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    failed = [part["name"] for part in report["parts"] if part["outcome"] != "passed"]
    if failed:
        raise InputError(
            f"{output}: all parts must pass, got {', '.join(failed)} that did not; it has their last lines"
        )


def _parts(folder: Path, device: str, num_devices: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Give the names and the commands of the parts."""
    python = [sys.executable, "-m"]
    yield "tests", [*python, "pytest", "tests", "-m", "gpu"]
    scans = folder / "phantoms"
    yield "phantoms", [*python, "tools.phantom", str(scans), *_options(_SCANS)]
    for bundle in all_bundles():
        yield f"{bundle.name} training", [*python, "monai.bundle", *_training(bundle, scans, folder, device)]
    if num_devices > 1:
        launcher = [*python, "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"]
        for bundle in all_bundles():
            yield f"{bundle.name} two processes", [*launcher, *_training(bundle, scans, folder / "two", device)]
    for method in _BENCHMARKS:
        name = f"benchmark {method}"
        rows = folder / f"{name}.json"
        yield name, [*python, "tools.benchmark", method, "--quick", "--device", device, "--json", str(rows)]


def _training(bundle: Path, scans: Path, folder: Path, device: str) -> list[str]:
    """Return the command of a short training with mixed precision, where the device has it."""
    files = [str(bundle / "configs" / name) for name in ("train.yaml", "demo.yaml")]
    options = {"bundle_root": bundle, "dataset_dir": scans, "ckpt_dir": folder / bundle.name, **_SHORT}
    if (bundle / "configs" / "pretrain.yaml").is_file():
        options["pretrained"] = "null"
    if device == "cpu":
        options["device"] = device
    return ["run", "training", "--config_file", str(files), *_options(options)]


def _options(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _run(name: str, command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run a command for so long at most, and tell how it ended."""
    start = time.monotonic()
    part: dict[str, Any] = {"name": name, "command": [*command]}
    if seconds <= 0:
        return {**part, "outcome": "no time left", "seconds": 0.0}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            done = subprocess.run(command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=seconds)
            outcome = "passed" if done.returncode == 0 else f"failed with status {done.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {seconds:.0f} s"
        log.seek(0)
        lines = log.read().splitlines()
    ended = {**part, "outcome": outcome, "seconds": time.monotonic() - start}
    return ended if outcome == "passed" else {**ended, "last_lines": lines[-_LAST_LINES:]}


def _machine(device: str) -> dict[str, Any]:
    from tools.benchmark.measure import to_json

    return to_json([], device)["machine"]


if __name__ == "__main__":
    run_command(gpu_check)
