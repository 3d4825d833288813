"""Measure what a method costs on this machine, side by side with what would take its place.

    python -m tools.benchmark fnet [--device cpu] [--json fnet.json] [--repeats 5] [--threads 1] [--quick]
    python -m tools.benchmark context [--device cpu] [--json context.json] [--repeats 5] [--threads 1] [--quick]
    python -m tools.benchmark planar [--device cpu] [--json planar.json] [--repeats 5] [--threads 1] [--quick]
    python -m tools.benchmark layers [--device cpu] [--json layers.json] [--repeats 5] [--threads 1] [--quick]

The two sides of a row take turns, so that both meet the same load; the ratio is that of their medians.
"""

from __future__ import annotations

import importlib.util
import json as json_format
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from common.cli import check_flags
from tools._command import run_command
from tools.benchmark.context import (
    ContextSize,
    corruption_rows,
    mask_rows,
    slice_inference_rows,
    slice_loader_rows,
)
from tools.benchmark.fnet import (
    FNetSize,
    decoder_rows,
    inference_rows,
    multi_task_rows,
    sampler_rows,
    training_rows,
)
from tools.benchmark.layers import LayersSize, shape_rows, simulation_rows, stage_rows
from tools.benchmark.layers import training_rows as layer_training_rows
from tools.benchmark.measure import Row, format_table, to_json
from tools.benchmark.planar import PlanarSize, extraction_rows, neighbor_rows, pretraining_rows, volume_rows

__all__ = ["context", "context_rows", "fnet", "fnet_rows", "layers", "layers_rows", "planar", "planar_rows"]


def fnet(
    device: str = "cpu",
    json: str | None = None,
    repeats: int = 5,
    threads: int | None = None,
    quick: bool = False,
    **unknown: Any,
) -> None:
    """Measure F-Net: training against U-Nets and with autoencoders, inference, the sparse decoder, the patch sampler.

    Args:
        device: `cpu` or `cuda`. A CPU trains with batches of 1, CUDA with batches of 8 in bfloat16.
        json: file to write the rows to, with the machine.
        repeats: of each side.
        threads: CPU threads; those that PyTorch takes when not given.
        quick: smaller sizes, a few minutes on two cores.
        unknown: refused; fire would measure before it complains.
    """
    _measure(fnet_rows, device, json, repeats, threads, quick, unknown)


def context(
    device: str = "cpu",
    json: str | None = None,
    repeats: int = 5,
    threads: int | None = None,
    quick: bool = False,
    **unknown: Any,
) -> None:
    """Measure context restoration: drawing masks, corruption against a training step, loader, inference.

    Args:
        device: `cpu` or `cuda`. A CPU trains with batches of 2, CUDA with the paper's batches of 9; both in bfloat16
            where they have it.
        json: file to write the rows to, with the machine.
        repeats: of each side.
        threads: CPU threads; those that PyTorch takes when not given.
        quick: smaller sizes, less than a minute on two cores.
        unknown: refused; fire would measure before it complains.
    """
    _measure(context_rows, device, json, repeats, threads, quick, unknown)


def planar(
    device: str = "cpu",
    json: str | None = None,
    repeats: int = 5,
    threads: int | None = None,
    quick: bool = False,
    **unknown: Any,
) -> None:
    """Measure planar descriptors: pretraining, extraction, the search of neighbors, a whole volume.

    Args:
        device: `cpu` or `cuda`, on which the volume has the paper's 192,720 positions.
        json: file to write the rows to, with the machine.
        repeats: of each side.
        threads: CPU threads; those that PyTorch takes when not given.
        quick: smaller sizes, less than a minute on two cores.
        unknown: refused; fire would measure before it complains.
    """
    _measure(planar_rows, device, json, repeats, threads, quick, unknown)


def layers(
    device: str = "cpu",
    json: str | None = None,
    repeats: int = 5,
    threads: int | None = None,
    quick: bool = False,
    **unknown: Any,
) -> None:
    """Measure layer decomposition: simulated samples against the published way, their stages, a training step.

    Args:
        device: `cpu`, where the step has a small network, or `cuda`, where it has the paper's.
        json: file to write the rows to, with the machine.
        repeats: of each side.
        threads: CPU threads; those that PyTorch takes when not given.
        quick: smaller sizes, less than a minute on two cores.
        unknown: refused; fire would measure before it complains.
    """
    _measure(layers_rows, device, json, repeats, threads, quick, unknown)


def fnet_rows(device: str, repeats: int, quick: bool) -> list[Row]:
    """Return all rows of F-Net, in the sizes of the paper or, when `quick`, in smaller ones."""
    is_cuda = device == "cuda"
    batch_size = 8 if is_cuda else 1
    sizes = [FNetSize(3, 16)] if quick else [FNetSize(5, 32), FNetSize(3, 32), FNetSize(3, 16)]
    decoder_patch = 40 if quick else 72
    print(f"measuring on {device}; this takes minutes", file=sys.stderr)
    rows = training_rows(sizes, 40 if quick else 72, batch_size, device, repeats)
    rows += inference_rows(FNetSize(3, 8 if quick else 16), 112, 72, device, repeats)
    if is_cuda and not quick:
        rows += inference_rows(FNetSize(5, 32), 160, 72, device, repeats)
    rows += decoder_rows(32, 13, decoder_patch, 5, batch_size, device, repeats)
    rows += multi_task_rows(sizes[0] if is_cuda else sizes[-1], 40 if quick else 72, (5, 8), device, repeats)
    rows += sampler_rows(sizes[-1], 40 if quick else 72, batch_size, device, repeats)
    return rows


def context_rows(device: str, repeats: int, quick: bool) -> list[Row]:
    """Return all rows of context restoration, in the sizes of the paper or, when `quick`, in smaller ones."""
    is_cuda = device == "cuda"
    size = ContextSize(128, features=(16, 32, 64, 128)) if quick else ContextSize()
    if not is_cuda:
        size = size._replace(batch_size=2)
    patch_sizes = (32, 16, 8) if quick else (64, 32, 16, 8)  # no two of 64 make a quarter of 128^2
    print(f"measuring on {device}; this takes minutes", file=sys.stderr)
    rows = mask_rows(size.image_size, patch_sizes, repeats)
    rows += corruption_rows(size, patch_sizes, device, repeats, aim=0.03 if is_cuda else 0.1)
    rows += slice_loader_rows(size, device, repeats)
    rows += slice_inference_rows(size._replace(batch_size=8), 64 if is_cuda else 8, device, repeats)
    return rows


def planar_rows(device: str, repeats: int, quick: bool) -> list[Row]:
    """Return all rows of planar descriptors, in the sizes of the paper on CUDA, and in smaller ones on a CPU."""
    is_cuda = device == "cuda"
    size = PlanarSize(batch_size=8 if quick else 64) if is_cuda else PlanarSize()
    num_queries, num_references = (2000, 5000) if quick else (4000, 45000)
    print(f"measuring on {device}; this takes minutes", file=sys.stderr)
    rows = pretraining_rows(size, device, repeats)
    rows += extraction_rows(size, 400 if quick else 4000, device, repeats)
    rows += neighbor_rows(num_queries, num_references, device, repeats)
    spatial_size = (243, 176, 293) if is_cuda and not quick else (48, 48, 48)
    rows += volume_rows(spatial_size, 4, num_references, device, repeats)
    return rows


def layers_rows(device: str, repeats: int, quick: bool) -> list[Row]:
    """Return all rows of layer decomposition, in the sizes of the paper on CUDA; on a CPU the network is smaller."""
    size = LayersSize(patch_size=64 if quick else 128)
    if device == "cpu":
        size = size._replace(features=(16, 32, 64, 128))
    print(f"measuring on {device}; this takes minutes", file=sys.stderr)
    rows = simulation_rows(size, device, repeats)
    if importlib.util.find_spec("itk"):
        rows += shape_rows(size, device, repeats)
    rows += stage_rows(size, device, repeats)
    rows += layer_training_rows(size, device, repeats)
    return rows


def _measure(
    make_rows: Callable[[str, int, bool], list[Row]],
    device: str,
    json: str | None,
    repeats: int,
    threads: int | None,
    quick: bool,
    unknown: Mapping[str, Any],
) -> None:
    """Check the options of a command, measure, print the rows and the machine, and write them."""
    try:
        if unknown:
            raise ValueError(f"options must be those that `--help` shows, got {sorted(unknown)}")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {device!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device must be one that PyTorch finds, got cuda on a machine without it")
        for name, value in {"repeats": repeats, "threads": 1 if threads is None else threads}.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
        check_flags(quick=quick)
        if json is not None and not Path(json).parent.is_dir():
            raise ValueError(f"json must lie in a folder that exists, got {json}")
    except (TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
    if threads is not None:
        torch.set_num_threads(threads)
    rows = make_rows(device, repeats, quick)
    result = to_json(rows, device)
    print(format_table(rows))
    print("; ".join(f"{name} {value}" for name, value in result["machine"].items()))
    if json is not None:
        Path(json).write_text(json_format.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command({"fnet": fnet, "context": context, "planar": planar, "layers": layers}, "device", "json")
