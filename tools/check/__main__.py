"""Check a run before it is started: its options, data, weights, memory and disk. Nothing is trained or written.

    python -m tools.check fnet_wtacae_stl training --dataset_dir /data/ct --num_labeled 8
    python -m tools.check fnet_wtacae_stl inference --dataset_dir /data/new --output_dir /data/segmented --deep

All that is wrong is told, each in one sentence. The exit status is 0 when the run would start, and 1 when it would not
or would leave out cases, as an inference and an evaluation do with those that are refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common.cli import check_choice, check_flags
from tools._command import find_bundle, run_command

WORKFLOWS = ("pretraining", "training", "evaluation", "inference")


def check(
    bundle: str,
    workflow: str,
    *,
    dataset_dir: str,
    config_file: str = "",
    deep: bool = False,
    report: str = "",
    verbose: bool = False,
    **options: Any,
) -> None:
    """Check a run before it is started.

    Args:
        bundle: name of one of this repository's, or a folder.
        workflow: pretraining, training, evaluation or inference.
        dataset_dir: folder with dataset.json or, for inference, of scans.
        config_file: configs of the run, separated by commas: paths, or names such as train.yaml of those of the bundle;
            if not given, those that README names.
        deep: read the voxels of every scan and label, too, which takes as long as reading them.
        report: JSON file for all that was found.
        verbose: name every case.
        options: of the run, by name.
    """
    check_choice("workflow", workflow, WORKFLOWS)
    check_flags(deep=deep, verbose=verbose)
    root = find_bundle(bundle, "configs")
    from .examine import examine, find_configs
    from .summary import summarize

    findings = examine(root, workflow, find_configs(root, workflow, config_file), dataset_dir, deep, options)
    if report:
        from common.data import write_atomically

        text = json.dumps(findings.as_dict(), indent=1, default=str) + "\n"
        write_atomically(Path(report), lambda path: path.write_text(text, encoding="utf-8"))
    print("\n".join(summarize(findings, verbose)))
    if findings.problems or findings.refused:
        sys.exit(1)


if __name__ == "__main__":
    run_command(check)
