"""Does a training of many scans keep its memory, and does the store deliver faster than the network learns?

    python -m tools.experiments.many_scans OUTPUT_DIR [--bundles NAME,NAME] [--workflows pretraining,training]
        [--num_scans 2000] [--size 64] [--max_epochs 3] [--iterations 10] [--cache_memory 0]

Volumes are made on the spot, and each bundle learns from them with the small network of `demo.yaml`, two workers and,
if not told otherwise, all scans on disk. A line for each run has the largest memory of its processes together, the
growth from the first epoch to the last one, the seconds of a step and those in which the loader alone delivers a
minibatch, and the size of the store. The exit status is 1 when a run takes 4 GB or more, or grows by more than 5 %.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import check_each
from common.cli.options import NON_NEGATIVE, POSITIVE_INT
from tools._command import all_bundles, find_bundle, run_command

__all__ = ["Costs", "measure_training", "write_scans"]

_MOST_BYTES = 4e9
_MOST_GROWTH = 0.05
_NUM_WORKERS = 2
_INTERVAL = 0.2  # seconds between two looks at the memory
_WORKFLOWS = {"pretraining": "pretrain.yaml", "training": "train.yaml"}


@dataclass
class Costs:
    """Costs of a training.

    Attributes:
        peak: largest memory of all of its processes together in bytes, each shared page counted once.
        epochs: memory of the main process after each epoch in bytes.
        preparation: seconds until the first step.
        steps: seconds of each step, without waiting for its minibatch.
        deliveries: seconds in which the loader delivers each minibatch, while nothing else is done.
        stored: bytes of the preprocessed scans on disk.
    """

    peak: int = 0
    epochs: list[int] = field(default_factory=list)
    preparation: float = 0.0
    steps: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)
    stored: int = 0

    @property
    def growth(self) -> float:
        """Growth of the memory from the first epoch to the largest one after it, as a share."""
        return max(self.epochs) / self.epochs[0] - 1

    def summarize(self) -> str:
        """Return the costs in one line."""
        step, delivery = statistics.median(self.steps), statistics.median(self.deliveries)
        return (
            f"peak {self.peak / 1e9:.2f} GB, growth over {len(self.epochs)} epochs {self.growth:.1%}; "
            f"{self.preparation:.0f} s before the first step, step {step:.3f} s, delivery {delivery:.3f} s "
            f"({step / delivery:.1f} times as fast); {self.stored / 1e9:.2f} GB on disk"
        )


def many_scans(
    output_dir: str,
    *,
    bundles: str = "",
    workflows: str = "pretraining,training",
    num_scans: int = 2000,
    size: int = 64,
    max_epochs: int = 3,
    iterations: int = 10,
    cache_memory: float = 0.0,
) -> None:
    """Train each bundle on many volumes, and tell memory and time.

    Args:
        output_dir: folder for volumes, weights and stores; volumes that are there are used again.
        bundles: names, separated by commas; all if not given.
        workflows: `pretraining`, `training` or both, separated by a comma.
        num_scans: volumes.
        size: edges of a volume in voxels.
        max_epochs: of each run; an atlas has one for each labeled scan.
        iterations: steps of an epoch.
        cache_memory: GB of the volumes that may stay in memory.
    """
    check_each(POSITIVE_INT, num_scans=num_scans, size=size, max_epochs=max_epochs, iterations=iterations)
    check_each(NON_NEGATIVE, cache_memory=cache_memory)
    roots = [find_bundle(name, "configs/train.yaml") for name in bundles.split(",") if name] or all_bundles()
    folder = Path(output_dir).absolute()
    scans = write_scans(folder / f"scans_{num_scans}_{size}", num_scans, size)
    is_good = True
    for root in roots:
        for name in workflows.split(","):
            if (root / "configs" / _WORKFLOWS[name]).is_file():
                options = {"max_epochs": max_epochs, "iterations_per_epoch": iterations, "cache_memory": cache_memory}
                costs = measure_training(root, name, scans, folder / root.name / f"{num_scans}_{size}", **options)
                print(f"{root.name}, {name} of {num_scans} volumes of {size}^3: {costs.summarize()}", flush=True)
                is_good &= costs.peak < _MOST_BYTES and costs.growth <= _MOST_GROWTH
    if not is_good:
        sys.exit(1)


def write_scans(folder: Path, num_scans: int, size: int) -> Path:
    """Write volumes of a body with an organ, each with its label, and list them; return their folder.

    Args:
        folder: for the volumes; those that are there stay.
        num_scans: volumes.
        size: edges of a volume in voxels of 1 mm.
    """
    import nibabel as nib

    rng = np.random.default_rng(0)
    noise = rng.normal(scale=15, size=(2 * size,) * 3).astype("float32")
    axis = np.linspace(-1, 1, size, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij", sparse=False))
    for index in range(num_scans):
        center, start = rng.uniform(-0.3, 0.3, (3, 1, 1, 1)).astype("float32"), rng.integers(size, size=3)
        if (folder / f"label_{index:05d}.nii").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        organ = ((grid - center) ** 2).sum(0) < 0.09
        window = tuple(slice(first, first + size) for first in start)
        image = np.where((grid**2).sum(0) < 0.9, 40 + 60 * organ + noise[window], -1000)
        for kind, voxels in (("image", image.astype("int16")), ("label", organ.astype("uint8"))):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{kind}_{index:05d}.nii")
    return folder


def measure_training(bundle: Path, name: str, scans: Path, output: Path, **options: Any) -> Costs:
    """Run a training in a process of its own, and return what it costs.

    Args:
        bundle: its folder.
        name: `pretraining` or `training`.
        scans: folder that `write_scans` has written.
        output: folder for the weights and the store.
        options: of the run.
    """
    _list_scans(bundle, name, scans)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(bundle, name, scans, output, options, sender))
    process.start()
    sender.close()
    peak = 0
    while not receiver.poll(_INTERVAL):
        peak = max(peak, sum(map(_proportional_bytes, _processes(process.pid))))
    costs = receiver.recv()
    process.join()
    costs.peak = peak
    costs.stored = sum(path.stat().st_size for path in (output / "cache").glob("*"))
    return costs


def _list_scans(bundle: Path, name: str, scans: Path) -> None:
    """Write `dataset.json` such that a run learns from nearly all of the volumes."""
    from common.data import write_datalist

    pairs = [
        {"image": path.name, "label": path.name.replace("image", "label")} for path in sorted(scans.glob("image_*"))
    ]
    content: dict[str, Any] = {"labels": {"0": "background", "1": "tumor"}, "modality": {"0": "CT"}}
    few = pairs if name == "training" else pairs[:6]
    others = [{"image": pair["image"]} for pair in pairs[len(few) :]]
    is_normal = bundle.name.startswith("layer")  # a pretraining on scans without a tumor
    write_datalist(scans, {**content, "training": few, "normal" if is_normal else "unlabeled": others})


def _train(bundle: Path, name: str, scans: Path, output: Path, options: dict[str, Any], sender: Connection) -> None:
    """Train in this process, and send the costs."""
    import torch
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    torch.set_num_threads(1)
    config = _WORKFLOWS[name]
    files = [str(bundle / "configs" / file) for file in (config, "demo.yaml")]
    places = {"bundle_root": str(bundle), "dataset_dir": str(scans), "ckpt_dir": str(output)}
    settings = {"device": "cpu", "num_workers": _NUM_WORKERS, "resume": False, **options}
    if name == "training":
        settings |= {"pretrained": "null", "num_validation": 2, "val_interval": 10**6}
    content = "\n" + (bundle / "configs" / config).read_text(encoding="utf-8")
    known = {option: value for option, value in settings.items() if f"\n{option}:" in content}
    began = time.perf_counter()
    made = ConfigWorkflow(files, workflow_type="train", logging_file=False, **places, **known)
    made.initialize()
    trainer = made.parser.get_parsed_content("train::trainer")
    costs, clock = Costs(), {"step": 0.0}

    @trainer.on(Events.ITERATION_STARTED)
    def _begin() -> None:
        clock["step"] = time.perf_counter()
        costs.preparation = costs.preparation or clock["step"] - began

    @trainer.on(Events.ITERATION_COMPLETED)
    def _end() -> None:
        costs.steps.append(time.perf_counter() - clock["step"])

    @trainer.on(Events.EPOCH_COMPLETED)
    def _note() -> None:
        costs.epochs.append(_proportional_bytes("self"))

    made.run()
    loader = made.parser.get_parsed_content("train::dataloader")
    waited = time.perf_counter()
    for number, _ in enumerate(loader):
        costs.deliveries.append(time.perf_counter() - waited)
        waited = time.perf_counter()
        if number >= 2 * options["iterations_per_epoch"]:
            break
    sender.send(costs)


def _processes(pid: int | None) -> Iterator[int]:
    """Yield a process and those that it has started, and so on."""
    if pid is not None:
        yield pid
        for thread in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in _read(thread).split():
                yield from _processes(int(child))


def _proportional_bytes(pid: int | str) -> int:
    """Return the memory of a process, of which a page that several share counts to each in part."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # of a process that has just ended
        return ""


if __name__ == "__main__":
    run_command(many_scans)
