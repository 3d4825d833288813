"""Does an inference of many cases keep its memory, and what does a case cost beside its network?

    python -m tools.experiments.many_cases BUNDLE [--num_cases 100] [--size 64] [--ckpt_dir DIR]

Phantoms are segmented in one run. The exit status is 1 when the memory grows by more than 5 % after the tenth case, or
when a case takes a second or more of the processor beside its network.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.cli import check_each
from common.cli.options import POSITIVE_INT
from tools._command import find_bundle, run_command

__all__ = ["Costs", "measure_inference"]

_SETTLED = 10  # cases, after which the memory must not grow
_MOST_GROWTH = 0.05
_MOST_SECONDS = 1.0
_MEGABYTE = 1e6


@dataclass
class Costs:
    """Costs of the cases of an inference, in their order.

    Attributes:
        memory: resident bytes of the process after each case, without what the C library holds in reserve.
        seconds: of each case on a clock.
        others: seconds of the processor for each case, but for the network.
    """

    memory: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Growth of the memory from the tenth case to the largest one after it, as a share."""
        settled = self.memory[_SETTLED - 1 :] or self.memory[-1:]
        return max(settled) / settled[0] - 1

    @property
    def mean_other(self) -> float:
        """Mean of the processor's seconds beside the network; the first case, which imports much, is left out."""
        counted = self.others[1:] or self.others
        return sum(counted) / len(counted)

    def summarize(self) -> str:
        """Return the costs in one line."""
        first, last = self.memory[min(_SETTLED, len(self.memory)) - 1], self.memory[-1]
        return (
            f"{len(self.memory)} cases: {first / _MEGABYTE:.0f} MB after case {_SETTLED} and {last / _MEGABYTE:.0f} MB "
            f"after the last one, growth {self.growth:.1%}; {sum(self.seconds) / len(self.seconds):.2f} s a case, "
            f"of the processor {self.mean_other:.2f} s beside the network"
        )


def many_cases(bundle: str, *, num_cases: int = 100, size: int = 64, ckpt_dir: str | None = None) -> None:
    """Segment phantoms in one inference, and tell memory and time.

    Args:
        bundle: name of one of this repository's, or a folder.
        num_cases: phantoms.
        size: voxels along the longest axis.
        ckpt_dir: folder of trained weights; a training of two steps makes some where it is not given.
    """
    check_each(POSITIVE_INT, num_cases=num_cases, size=size)
    root = find_bundle(bundle, "configs")
    from common.data import write_phantoms

    with TemporaryDirectory() as folder:
        scans = write_phantoms(Path(folder) / "phantoms", 2, num_test=1, num_unlabeled=num_cases, size=size)
        weights = _train(root, scans, Path(folder) / "models") if ckpt_dir is None else Path(ckpt_dir)
        costs = measure_inference(root, scans / "imagesUn", weights, Path(folder) / "output")
    print(f"{root.name}, {costs.summarize()}")
    if costs.growth > _MOST_GROWTH or costs.mean_other >= _MOST_SECONDS:
        sys.exit(1)


def measure_inference(bundle: Path, scans: Path, weights: Path, output: Path) -> Costs:
    """Run an inference with the small networks of `demo.yaml`, and return what each case costs.

    Args:
        bundle: its folder.
        scans: folder of the scans.
        weights: folder of the weights.
        output: folder for the segmentations.
    """
    from ignite.engine import Events

    places = {"dataset_dir": str(scans), "ckpt_dir": str(weights), "output_dir": str(output)}
    made = _make(bundle, ["inference.yaml"], "infer", **places)
    evaluator = made.parser.get_parsed_content("evaluator")
    inferer = evaluator.inferer = _Timed(evaluator.inferer)
    costs = Costs()
    started, busy = time.perf_counter(), time.process_time()

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _note() -> None:
        nonlocal started, busy
        now, used = time.perf_counter(), time.process_time()
        costs.memory.append(_resident_bytes())
        costs.seconds.append(now - started)
        costs.others.append(used - busy - inferer.busy)
        started, busy, inferer.busy = now, used, 0.0

    made.run()
    made.finalize()
    return costs


class _Timed:
    """Inferer that tells how long the processor was busy with it."""

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer
        self.busy = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return self.inferer(*args, **kwargs)
        finally:
            self.busy += time.process_time() - started


def _train(bundle: Path, scans: Path, weights: Path) -> Path:
    """Train for two steps, and return the folder of the weights."""
    options = {"max_epochs": 1, "iterations_per_epoch": 2, "num_workers": 0, "pretrained": None}
    content = (bundle / "configs" / "train.yaml").read_text(encoding="utf-8")
    known = {name: value for name, value in options.items() if f"\n{name}:" in content}
    made = _make(bundle, ["train.yaml"], "train", dataset_dir=str(scans), ckpt_dir=str(weights), **known)
    made.run()
    made.finalize()
    return weights


def _make(bundle: Path, names: list[str], kind: str, **options: Any) -> Any:
    from monai.bundle import ConfigWorkflow

    files = [str(bundle / "configs" / name) for name in (*names, "demo.yaml")]
    options = {"bundle_root": str(bundle), "device": "cpu", **options}
    made = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **options)
    made.initialize()
    return made


def _resident_bytes() -> int:
    """Return the resident memory of this process, without the free pages that the C library holds in reserve."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_command(many_cases)
