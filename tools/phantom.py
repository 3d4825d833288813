"""Write a data set of synthetic abdomen-like CT volumes, for trying everything without a download.

python -m tools.phantom OUTPUT_DIR [--num_training 12] [--num_test 4] [--num_unlabeled 16] [--size 64] [--seed 0]
"""

from __future__ import annotations

from typing import Any

from common.data.phantom import write_phantoms
from tools._command import run_command


def phantom(
    output_dir: str,
    num_training: int = 12,
    num_test: int = 4,
    num_unlabeled: int = 16,
    size: int = 64,
    seed: int = 0,
    **unknown: Any,
) -> str:
    """Write phantoms and their dataset.json.

    Args:
        output_dir: folder to make; it may exist when it is empty.
        num_training: cases with labels.
        num_test: cases with labels.
        num_unlabeled: images only.
        size: voxels along the longest axis.
        seed: another one gives other patients.
        unknown: refused.

    Returns:
        What was written.

    Raises:
        ValueError: when the folder holds something, or an option is unknown or out of range.
    """
    options = {"num_training": num_training, "num_test": num_test, "num_unlabeled": num_unlabeled}
    if unknown:
        raise ValueError(f"options must be among {[*options, 'size', 'seed']}, got {sorted(unknown)}")
    for name, value in {**options, "size": size, "seed": seed}.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    folder = write_phantoms(output_dir, **options, size=size, seed=seed)
    return f"{folder}: {num_training} training, {num_test} test and {num_unlabeled} unlabeled phantoms"


if __name__ == "__main__":
    run_command(phantom, "output_dir")
