"""List the unlabeled scans of a fold, for an inference on just these.

    python -m tools.unlabeled --dataset_dir DIR --output_dir OUT --num_labeled 1
    python -m monai.bundle run inference --config_file configs/inference.yaml --dataset_dir OUT/scans.json

They are those of `unlabeled` in `dataset.json`, and then the training cases whose labels stay unused.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.cli import InputError, check_each
from common.cli.options import POSITIVE_INT
from common.data import read_cases, write_atomically
from tools._command import run_command

__all__ = ["list_unlabeled"]


def list_unlabeled(
    dataset_dir: str,
    output_dir: str,
    *,
    num_unlabeled: int | None = None,
    num_labeled: int | None = None,
    fold: int = 0,
    num_folds: int = 5,
    num_validation: int | None = None,
) -> None:
    """Write `scans.json`, a list of unlabeled scans.

    Args:
        dataset_dir: folder with dataset.json.
        output_dir: folder of the list.
        num_unlabeled: scans at most; all if not given.
        num_labeled: training cases whose labels are used, as in a training.
        fold: likewise.
        num_folds: likewise.
        num_validation: likewise.
    """
    check_each(POSITIVE_INT.or_null, num_unlabeled=num_unlabeled)
    scans = read_cases(dataset_dir, fold, num_folds, num_labeled, num_validation).unlabeled[:num_unlabeled]
    if not scans:
        raise InputError(
            f"{dataset_dir}: must have unlabeled scans, got none; list scans as unlabeled in dataset.json, or pass "
            "a smaller --num_labeled"
        )
    text = json.dumps(scans, indent=1) + "\n"
    path = write_atomically(Path(output_dir) / "scans.json", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"{path}: {len(scans)} scans")


if __name__ == "__main__":
    run_command(list_unlabeled)
