"""Where does the time of an inference go? The stages of one scan's segmentation.

    python -m tools.experiments.scan_stages SCAN BUNDLE [--ckpt_dir DIR]

Each step of the preprocessing and postprocessing, and the network, with its seconds on a clock, the largest first.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from common.cli import InputError, MissingFileError
from tools._command import find_bundle, run_command

__all__ = ["scan_stages"]


def scan_stages(scan: str, bundle: str, *, ckpt_dir: str | None = None) -> None:
    """Segment a scan with a bundle, and print what its stages take.

    Args:
        scan: a volume, or a folder of volumes.
        bundle: name or folder of a bundle.
        ckpt_dir: folder of the weights; those that the bundle is shipped with if not given.
    """
    if not Path(scan).exists():
        raise MissingFileError(f"scan must exist, got {scan}")
    began = time.perf_counter()
    from monai.bundle import ConfigWorkflow
    from monai.utils.profiling import WorkflowProfiler

    root = find_bundle(bundle, "configs/inference.yaml")
    weights = Path(ckpt_dir) if ckpt_dir else next((path.parent for path in root.glob("models/*/model.pt")), None)
    if weights is None:
        raise InputError(f"ckpt_dir must be given for {root.name}, which is shipped without weights")
    with TemporaryDirectory() as output:
        options = {"bundle_root": str(root), "dataset_dir": scan, "ckpt_dir": str(weights), "output_dir": output}
        workflow = ConfigWorkflow(str(root / "configs" / "inference.yaml"), workflow_type="inference", **options)
        workflow.initialize()
        evaluator = workflow.parser.get_parsed_content("evaluator")
        started = time.perf_counter()
        with WorkflowProfiler() as profiler:
            evaluator.inferer = profiler.profile_callable("network")(evaluator.inferer)
            workflow.run()
        ended = time.perf_counter()
        workflow.finalize()
    print(f"{started - began:6.2f} s start\n{ended - started:6.2f} s all that follows, of which")
    taken = {name: sum(call.time for call in calls) / 1e9 for name, calls in profiler.get_results().items()}
    for name, seconds in sorted(taken.items(), key=lambda item: -item[1]):
        if seconds >= 0.005 and name != "Compose.__call__":
            print(f"{seconds:6.2f} s {name.removesuffix('.__call__')}")


if __name__ == "__main__":
    run_command(scan_stages)
