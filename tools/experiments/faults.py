"""Fault runs: trainings and inferences that are killed at random moments, or whose disk is full, and what is left.

    python -m tools.experiments.faults OUTPUT_DIR [--bundles NAME,NAME] [--kills 20] [--seed 0]

For each bundle, a short training on phantoms is ended by SIGINT, SIGTERM and SIGKILL in turn, at random moments, and
started again until it is finished: its weights must be those of a training that nobody has ended, in every bit. An
inference is ended while it writes: whatever has its final name must be whole. And the disk is filled during a training
and during an inference (a small file system in memory, which takes root): older files must be whole, and the last line
must name the file.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from common.cli import InputError
from common.cli.options import INT
from tools._command import all_bundles, find_bundle, run_command
from tools._warm_python import be_python

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_HANG = 180.0  # seconds after which a run that was asked to end, or that shall finish, counts as hanging
_KILLS_OF_ONE = 4  # trainings end before: one that never gets further shows nothing
_PRELOADED = [
    *("monai.bundle", "matplotlib.pyplot", "torch.utils.tensorboard", "skimage.measure", "PIL.Image", "fire"),
    *(f"common.{name}" for name in ("training", "transforms", "fnet", "context", "planar", "layers")),
]
_SIZE = 32  # voxels of a phantom along its longest axis
_MAX_EPOCHS = 6
_TRAINING: dict[str, Any] = {
    "max_epochs": _MAX_EPOCHS,
    "iterations_per_epoch": 3,
    "val_interval": 1,
    "val_iterations": 1,
    "num_labeled": 3,
    "num_validation": 1,
    "device": "cpu",
}
_OF_BUNDLES: dict[str, dict[str, Any]] = {"planar_heatmap_descriptor": {"step": 4, "num_labeled": 4}}
_EPOCHS = {"planar_heatmap_descriptor": 4}  # one for each scan
_MEGABYTES = 48  # of the small disk: what a run must find free before it starts, and little more
_PARTIAL = ".partial"  # how the names of files begin that are not whole yet


@dataclass
class _Tally:
    """Counts of what came of some kills.

    Attributes:
        statuses: number of runs by signal and exit status.
        failures: what must not have happened, one sentence each.
        finished: number of trainings that were finished and compared.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    finished: int = 0

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.statuses.items() if not name.startswith("none"))


def faults(output_dir: str, *, bundles: str = "", kills: int = 20, seed: int = 0) -> str:
    """Kill trainings and inferences, fill their disk, and count what went wrong.

    Args:
        output_dir: folder for phantoms, weights and logs; new or empty.
        bundles: names, separated by commas; all if not given.
        kills: of each bundle's training, and of its inference.
        seed: of the moments.

    Returns:
        One line for each bundle and kind of fault, then each failure.
    """
    INT.check("kills", kills)
    INT.check("seed", seed)
    folder = Path(output_dir).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"output_dir must be new or empty, got {output_dir}; choose another")
    roots = [find_bundle(name, "configs/train.yaml") for name in bundles.split(",") if name] or all_bundles()
    from common.data import write_phantoms

    scans = write_phantoms(folder / "phantoms", num_training=5, num_test=8, num_unlabeled=2, size=_SIZE)
    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload(_PRELOADED)
    chance, lines, failures = random.Random(seed), [], []
    for root in roots:
        place = folder / root.name
        for name, trial in (("training", _kill_trainings), ("inference", _kill_inferences), ("full disk", _fill_disks)):
            began = time.monotonic()
            tally = trial(root, scans, place, kills, chance)
            counts = ", ".join(f"{key}: {count}" for key, count in sorted(tally.statuses.items()))
            line = f"{root.name}, {name}: {tally.finished} compared, {len(tally.failures)} failures; {counts}"
            lines.append(f"{line}; {time.monotonic() - began:.0f} s")
            failures += [f"FAILURE {root.name}, {name}: {text}" for text in tally.failures]
            print(lines[-1], *tally.failures, sep="\n  ", flush=True)
    return "\n".join([*lines, *failures, f"{len(failures)} failures"])


# ---- kinds of faults -----------------------------------------------------------------------------


def _kill_trainings(root: Path, scans: Path, place: Path, kills: int, chance: random.Random) -> _Tally:
    """End trainings at random moments, and compare the weights that they leave in the end."""
    tally, numbers = _Tally(), cycle(_SIGNALS)
    command = _training(root, scans)
    began = time.monotonic()
    status = _run([*command, "--ckpt_dir", str(place / "whole")], place / "whole.log")
    epochs = _EPOCHS.get(root.name, _MAX_EPOCHS)
    epoch_seconds = (time.monotonic() - began) / epochs
    if status != 0:
        tally.failures.append(f"an undisturbed training ended with {status}, see {place / 'whole.log'}")
        return tally
    while tally.kills < kills:
        models = place / f"killed_{tally.finished}"
        ours, log = [*command, "--ckpt_dir", str(models)], place / f"{models.name}.log"

        def wait(process: Any, log: Path = log) -> None:
            epoch = chance.randrange(epochs)  # 0: before the first one has ended
            if epoch:
                _wait_for(process, lambda: f" epoch {epoch}/" in _read(log))
            time.sleep(chance.uniform(0, epoch_seconds))

        status = None
        for _ in range(min(_KILLS_OF_ONE, kills - tally.kills)):
            status = _kill(ours, log, next(numbers), wait, tally)
            if status == 0:
                break
        if status != 0 and (status := _run(ours, log)) != 0:
            tally.failures.append(f"a training that goes on ended with {status}, see {log}")
            return tally
        tally.finished += 1
        if (different := _differing_weights(place / "whole" / "model.pt", models / "model.pt")) is not None:
            tally.failures.append(f"{models / 'model.pt'}: {different} is not that of the undisturbed training")
    return tally


def _kill_inferences(root: Path, scans: Path, place: Path, kills: int, chance: random.Random) -> _Tally:
    """End inferences while they write, and look at every file that has its final name."""
    tally, numbers = _Tally(), cycle(_SIGNALS)
    if not (place / "whole" / "model.pt").is_file():
        return tally
    command = _inference(root, scans, place)
    whole = place / "segmented_whole"
    process = _start([*command, "--output_dir", str(whole)], place / "segmented_whole.log")
    _wait_for_file(process, whole, "*_seg.nii.gz")
    began = time.monotonic()
    process.join(_HANG)
    seconds = time.monotonic() - began
    for number in range(kills):
        output, log = place / f"segmented_{number}", place / f"segmented_{number}.log"

        def wait(process: Any, output: Path = output) -> None:
            _wait_for_file(process, output, "*")
            time.sleep(chance.uniform(0, seconds))

        _kill([*command, "--output_dir", str(output)], log, next(numbers), wait, tally)
        tally.failures += _broken_files(output, whole)
        tally.finished += 1
        shutil.rmtree(output, ignore_errors=True)
    return tally


def _fill_disks(root: Path, scans: Path, place: Path, kills: int, chance: random.Random) -> _Tally:
    """Fill the disk of a training and of an inference once they have written something."""
    tally = _Tally()
    if not (place / "whole" / "model.pt").is_file():
        return tally
    for name in ("training", "inference"):
        with _small_disk(place / f"disk_{name}") as disk:
            if disk is None:
                tally.statuses["none, no file system could be mounted"] += 1
                continue
            log = place / f"full_{name}.log"
            if name == "training":
                command, first = [*_training(root, scans), "--ckpt_dir", str(disk)], "training.ckpt"
            else:
                command, first = [*_inference(root, scans, place), "--output_dir", str(disk)], "*_seg.nii.gz"
            process = _start(command, log)
            _wait_for_file(process, disk, first)
            _fill(disk / "filler")
            process.join(_HANG)
            tally.statuses[f"none, {name}: {process.exitcode}"] += 1
            last = _read(log).strip().splitlines()[-1]
            if process.exitcode in (0, None):
                tally.failures.append(f"{name} on a full disk ended with {process.exitcode}, see {log}")
            elif name == "training" and str(disk) not in last:
                tally.failures.append(f"{name} on a full disk must name the file, got {last!r}")
            (disk / "filler").unlink()
            tally.failures += _broken_files(disk, place / "segmented_whole" if name == "inference" else None)
            tally.finished += 1
    return tally


# ---- runs ----------------------------------------------------------------------------------------


def _training(root: Path, scans: Path) -> list[str]:
    files = [str(root / "configs" / name) for name in ("train.yaml", "demo.yaml")]
    options = {**_TRAINING, **_OF_BUNDLES.get(root.name, {}), "bundle_root": root, "dataset_dir": scans}
    if (root / "configs" / "pretrain.yaml").is_file():
        options["pretrained"] = "null"
    return _command("training", files, options)


def _inference(root: Path, scans: Path, place: Path) -> list[str]:
    options = {"bundle_root": root, "dataset_dir": scans / "imagesTs", "ckpt_dir": place / "whole", "device": "cpu"}
    return _command("inference", [str(root / "configs" / "inference.yaml")], options)


def _command(id: str, files: Sequence[str], options: dict[str, Any]) -> list[str]:
    command = ["run", id, "--config_file", json.dumps(files)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return command


def _start(command: Sequence[str], log: Path) -> Any:
    """Start `python -m monai.bundle` with a command, in a process that has imported MONAI already."""
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = (["-m", "monai.bundle", *command], str(log), str(log))
    process = multiprocessing.get_context("forkserver").Process(target=be_python, args=arguments)
    process.start()
    return process


def _run(command: Sequence[str], log: Path) -> int | None:
    """Run a command to its end, and return its exit status; None where it hangs."""
    process = _start(command, log)
    return _end(process)


def _kill(
    command: Sequence[str], log: Path, number: signal.Signals, wait: Callable[[Any], None], tally: _Tally
) -> int | None:
    """Start a command, send it a signal after some time, and count its exit status, which is returned."""
    process = _start(command, log)
    wait(process)
    if process.is_alive():
        os.kill(process.pid, number)
        status = _end(process)
        tally.statuses[f"{number.name} {status}"] += 1
        if status is None:
            tally.failures.append(f"hung after {number.name}, see {log}")
    else:
        status = _end(process)
        tally.statuses[f"none, ended before: {status}"] += 1
    return status


def _end(process: Any) -> int | None:
    process.join(_HANG)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _wait_for(process: Any, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _HANG
    while process.is_alive() and not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def _wait_for_file(process: Any, folder: Path, pattern: str) -> None:
    _wait_for(process, lambda: any(folder.glob(pattern)))


# ---- what is left --------------------------------------------------------------------------------


def _differing_weights(expected: Path, found: Path) -> str | None:
    """Return the name of a tensor that differs in a bit, if there is one."""
    import torch

    ours, theirs = (torch.load(path, map_location="cpu", weights_only=True) for path in (found, expected))
    if ours.keys() != theirs.keys():
        return "the set of tensors"
    return next((name for name, value in ours.items() if not torch.equal(value, theirs[name])), None)


def _broken_files(folder: Path, expected: Path | None) -> Iterator[str]:
    """Yield a sentence for each file under a final name that is not whole, or not what it is elsewhere."""
    import nibabel as nib
    import numpy as np
    import torch
    from PIL import Image

    def read(path: Path) -> np.ndarray:
        image: Any = nib.load(path)
        return np.asanyarray(image.dataobj)

    def check(path: Path) -> None:
        if path.name.endswith(".nii.gz"):
            voxels = read(path)
            if expected is not None and not np.array_equal(voxels, read(expected / path.name)):
                raise ValueError("other voxels than those of an undisturbed inference")
        elif path.suffix in (".pt", ".ckpt"):
            torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".png":
            Image.open(path).load()

    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith(_PARTIAL):
            try:
                check(path)
            except Exception as error:  # whatever a reader makes of a broken file
                yield f"{path} is not whole: {error!r:.200}"


# ---- disks ---------------------------------------------------------------------------------------


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """Small file system in memory, mounted at a folder; None where this process may not mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


if __name__ == "__main__":
    run_command(faults)
