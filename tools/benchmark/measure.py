"""Timing of two sides in turn, peak memory, and a table of the results."""

from __future__ import annotations

import math
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["Row", "Step", "Timer", "adam_step", "compare", "format_table", "peak_memory", "to_json"]

Step = Callable[[], Any]


@dataclass
class Row:
    """Comparison of side A with side B.

    Args:
        name: what is compared.
        side_a: what A is.
        side_b: what B is.
        unit: of the medians; a rate, such as `voxels/s`, is better when larger, `s` when smaller.
        median_a: of the repeats of A.
        median_b: of the repeats of B.
        ratio: how many times better A is than B.
        spread: smallest and largest of the ratios that the repeats give one by one.
        repeats: of either side, A and B in turn.
        notes: what else was found, such as the largest difference of the results or the peak memory in MiB.
    """

    name: str
    side_a: str
    side_b: str
    unit: str
    median_a: float
    median_b: float
    ratio: float
    spread: tuple[float, float]
    repeats: int
    notes: dict[str, Any] = field(default_factory=dict)


def adam_step(network: nn.Module, loss: Callable[[], torch.Tensor], learning_rate: float, **options: Any) -> Step:
    """Return a training step (forward, backward, Adam) of a network; `loss` runs it."""
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, **options)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


class Timer(NamedTuple):
    """Clock of sides that take turns, so that all meet the same load.

    Args:
        device: `cpu` or `cuda`.
        repeats: of each side, after one before the clock starts.
    """

    device: str
    repeats: int

    def time(self, sides: Sequence[Step]) -> list[list[float]]:
        """Return the seconds of each repeat of each side."""
        for side in sides:
            side()
        seconds: list[list[float]] = [[] for _ in sides]
        for _ in range(self.repeats):
            for side, taken in zip(sides, seconds, strict=True):
                self._synchronize()
                start = time.perf_counter()
                side()
                self._synchronize()
                taken.append(time.perf_counter() - start)
        return seconds

    def compare(self, name: str, sides: Mapping[str, Step], unit: str = "s", amount: float | None = None) -> Row:
        """Time two sides that do the same amount, and return their row; arguments as those of `compare`."""
        side_a, side_b = sides
        amounts = None if amount is None else (amount, amount)
        return compare(name, (side_a, side_b), self.time([*sides.values()]), unit, amounts)

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def compare(
    name: str,
    sides: tuple[str, str],
    seconds: Sequence[Sequence[float]],
    unit: str = "s",
    amounts: tuple[float, float] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Row:
    """Return the row of two sides that were timed in turn.

    Args:
        name: what is compared.
        sides: what A and B are.
        seconds: of each repeat of A and of B.
        unit: of the medians.
        amounts: what A and B do in one repeat, in the unit's numerator; the medians are then rates.
    """
    a, b = (statistics.median(taken) for taken in seconds)
    share = 1.0 if amounts is None else amounts[0] / amounts[1]
    ratios = [share * other / own for own, other in zip(*seconds, strict=True)]
    medians = (a, b) if amounts is None else (amounts[0] / a, amounts[1] / b)
    spread = (min(ratios), max(ratios))
    return Row(name, *sides, unit, *medians, share * b / a, spread, len(ratios), dict(notes or {}))


def peak_memory(make_step: Callable[..., Step], arguments: tuple[Any, ...], device: str) -> float:
    """Return the memory in MiB that a step needs at its peak, beyond what the process had before.

    On CUDA it is what PyTorch allocates; on a CPU it is the growth of the resident set of a process of its own.

    Args:
        make_step: function of a module that sets a step up.
        arguments: of that function.
        device: `cpu` or `cuda`.
    """
    if device == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        make_step(*arguments)()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_growth, (make_step, arguments, torch.get_num_threads()))


def _machine(device: str) -> dict[str, Any]:
    """Return the machine and the software, on which the numbers depend."""
    return {
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in plain text, the notes of a row below it."""
    header = ["", "A", "B", "unit", "median A", "median B", "A is better", "spread"]
    cells = [
        [
            *[row.name, row.side_a, row.side_b, row.unit, _round(row.median_a), _round(row.median_b)],
            *[f"{_round(row.ratio)}x", f"{_round(row.spread[0])}-{_round(row.spread[1])} (n={row.repeats})"],
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [_align(header, widths), "  ".join("-" * width for width in widths)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_align(line, widths))
        lines += [
            f"    {name}: {_round(value) if isinstance(value, float) else value}" for name, value in row.notes.items()
        ]
    return "\n".join(lines)


def to_json(rows: Sequence[Row], device: str) -> dict[str, Any]:
    """Return the rows and the machine as what `json` writes."""
    return {"machine": _machine(device), "rows": [asdict(row) for row in rows]}


def _resident_growth(make_step: Callable[..., Step], arguments: tuple[Any, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    before = _peak_resident()
    make_step(*arguments)()
    return _peak_resident() - before


def _peak_resident() -> float:
    """Return the largest resident set of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss begins with the peak of the process that started this one
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        cell.rjust(width) if index > 3 else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _round(value: float) -> str:
    """Return three significant digits."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
