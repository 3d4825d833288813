"""Benchmark a method on this machine, side by side with what would take its place.

    python -m tools.benchmark METHOD [--device cpu] [--json rows.json] [--repeats 5] [--threads 1] [--quick]

METHOD is fnet, context, planar, layers or reading, or all of them as one table of a machine. The two sides of a row
take turns, so that both meet the same load; the ratio is that of their medians.
"""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from common.cli import InputError
from tools._command import run_command

_METHODS = ("fnet", "context", "planar", "layers", "reading")


def benchmark(
    method: str,
    *,
    device: str = "cpu",
    json: str | None = None,
    repeats: int = 5,
    threads: int | None = None,
    quick: bool = False,
) -> None:
    """Benchmark the parts of a method, and print a row for each.

    Args:
        method: `all`, or one of these;
            `fnet`: training against U-Nets and with autoencoders, inference, the sparse decoder, the patch sampler;
            `context`: drawing masks, corruption against a training step, loader, inference;
            `planar`: pretraining, extraction, the search of neighbors, a whole volume;
            `layers`: simulated samples against the published way, their stages, a training step;
            `reading`: loading with all checks against MONAI's, headers.
        device: `cpu` or `cuda`, which takes the larger batches, networks and volumes of the papers.
        json: file to write the rows to, with the machine.
        repeats: of each side.
        threads: CPU threads; those that PyTorch takes when not given.
        quick: smaller sizes: on two cores a few minutes for `fnet`, less than one for the others.
    """
    import torch

    from common.cli import check_choice, check_flags
    from common.cli.options import POSITIVE_INT
    from tools.benchmark.measure import Row, Timer, format_table, to_json

    check_choice("method", method, ("all", *_METHODS))
    check_choice("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device must be one that PyTorch finds, got cuda on a machine without it; pass --device cpu")
    POSITIVE_INT.check("repeats", repeats)
    POSITIVE_INT.or_null.check("threads", threads)
    check_flags(quick=quick)
    if json is not None and not Path(json).parent.is_dir():
        raise InputError(f"json must lie in a folder that exists, got {json}; make it first")
    if threads is not None:
        torch.set_num_threads(threads)
    print(f"measuring on {device}; this takes minutes", file=sys.stderr)
    rows: list[Row] = []
    for name in _METHODS if method == "all" else (method,):
        found = import_module(f"tools.benchmark.{name}").all_rows(Timer(device, repeats), quick)
        rows += [replace(row, name=f"{name}: {row.name}") for row in found] if method == "all" else found
    result = to_json(rows, device)
    print(format_table(rows))
    print("; ".join(f"{name} {value}" for name, value in result["machine"].items()))
    if json is not None:
        Path(json).write_text(json_format.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(benchmark)
