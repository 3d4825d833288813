"""What does the segmentation of one whole scan cost, from file to file, in time and memory?

    python -m tools.experiments.whole_scan SCAN [--size 512,512,300] [--bundles NAME,NAME] [--repeats 3] [--device cpu]

The scan is resampled to a size that a hospital's scanner gives, and each bundle that is shipped with weights segments
it as a user would, in a process of its own; so does `tools.experiments.usual_scan`, for comparison. A line for each has
the seconds on a clock and of the processor, with all that comes before and after the network (Python's start, reading,
resampling, writing), and the largest memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from common.cli import BundleError, InputError, check_choice
from common.cli.options import POSITIVE_INT
from tools._command import all_bundles, find_bundle, run_command

__all__ = ["Costs", "measure_command", "measure_inference", "resample_scan"]


@dataclass
class Costs:
    """Costs of an inference.

    Attributes:
        seconds: on a clock.
        busy: seconds of the processor.
        peak: largest resident memory in bytes.
    """

    seconds: float
    busy: float
    peak: int


def whole_scan(
    scan: str, *, size: str = "512,512,300", bundles: str = "", repeats: int = 3, device: str = "cpu"
) -> None:
    """Segment one scan with each bundle and, if no bundles are named, as is usual in MONAI, and tell time and memory.

    Args:
        scan: a volume of the anatomy that the weights know.
        size: voxels along the axes to which it is resampled, separated by commas.
        bundles: names, separated by commas; all with weights in their folder if not given.
        repeats: inferences of each, of which the median is told.
        device: `cpu` or `cuda`.
    """
    POSITIVE_INT.check("repeats", repeats)
    check_choice("device", device, ("cpu", "cuda"))
    edges = [int(edge) if edge.isdigit() else 0 for edge in str(size).strip("()").replace(" ", "").split(",")]
    if len(edges) != 3 or min(edges) < 1:
        raise InputError(f"size must be three numbers of voxels, separated by commas, got {size}")
    names = [name for name in bundles.split(",") if name]
    roots = [find_bundle(name, "configs/inference.yaml") for name in names] or all_bundles()
    weights = {root: path.parent for root in roots for path in root.glob("models/*/model.pt")}
    if names and (missing := [root.name for root in roots if root not in weights]):
        raise InputError(f"bundles must be shipped with weights, {missing[0]} is not; name others")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        resample_scan(Path(scan), folder / "scans" / "scan.nii.gz", edges)
        for root, models in weights.items():
            places = (root, folder / "scans", models, folder / root.name)
            runs = [measure_inference(*places, device) for _ in range(repeats)]
            print(f"{root.name}, {_summarize(runs)}", flush=True)
        if not names:
            arguments = [str(folder / "scans" / "scan.nii.gz"), str(folder / "usual"), "--device", device]
            command = [sys.executable, "-m", "tools.experiments.usual_scan", *arguments]
            print(f"as usual in MONAI, {_summarize([measure_command(command) for _ in range(repeats)])}", flush=True)


def resample_scan(scan: Path, path: Path, size: Sequence[int]) -> None:
    """Write a volume with other voxels over the same room.

    Args:
        scan: a volume.
        path: file to write, of 16-bit integers.
        size: voxels along the three axes.
    """
    import nibabel as nib
    from monai.transforms import Resize

    from common.data import LoadVolume

    resized = Resize(size, mode="trilinear")(LoadVolume()(scan))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(resized[0].numpy().round().astype("int16"), resized.affine.numpy()), path)


def measure_inference(bundle: Path, scans: Path, weights: Path, output: Path, device: str = "cpu") -> Costs:
    """Segment scans in a process of its own, and return what it costs.

    Args:
        bundle: its folder.
        scans: folder of the scans.
        weights: folder of the weights.
        output: folder for the segmentations.
        device: `cpu` or `cuda`.

    Raises:
        BundleError: when the inference fails.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    options = {"config_file": bundle / "configs" / "inference.yaml", "bundle_root": bundle, "device": device}
    for name, value in (options | {"dataset_dir": scans, "ckpt_dir": weights, "output_dir": output}).items():
        command += [f"--{name}", str(value)]
    try:
        return measure_command(command)
    except BundleError as error:
        raise BundleError(f"{bundle.name}: the inference failed: {error}") from error


def measure_command(command: Sequence[str]) -> Costs:
    """Run a command, and return what it costs.

    Args:
        command: program and arguments.

    Raises:
        BundleError: when it fails, with the end of what it wrote on stderr.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        message = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BundleError(message.decode(errors="replace")[-2000:])
    unit = 1 if sys.platform == "darwin" else 1024
    return Costs(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def _summarize(runs: Sequence[Costs]) -> str:
    seconds, busy = (statistics.median(getattr(run, name) for run in runs) for name in ("seconds", "busy"))
    spread = f"{min(run.seconds for run in runs):.1f} to {max(run.seconds for run in runs):.1f}"
    peak = max(run.peak for run in runs) / 1e9
    return f"{seconds:.1f} s ({spread}, n = {len(runs)}), of the processor {busy:.1f} s, at most {peak:.2f} GB"


if __name__ == "__main__":
    run_command(whole_scan)
