"""Write phantoms, synthetic abdomen-like CT volumes, as a data set for trying everything without a download.

python -m tools.phantom OUTPUT_DIR [--num_training 12] [--num_test 4] [--num_unlabeled 16] [--size 64] [--seed 0]
    [--num_channels 2] [--native] [--lesions [--num_normal 16]]
"""

from __future__ import annotations

from functools import partial
from typing import Any

from common.cli import InputError
from tools._command import run_command


def phantom(
    output_dir: str,
    *,
    num_training: int = 12,
    num_test: int = 4,
    num_unlabeled: int = 16,
    size: int = 64,
    seed: int = 0,
    num_channels: int = 1,
    native: bool = False,
    lesions: bool = False,
    num_normal: int | None = None,
) -> str:
    """Write phantoms and their dataset.json.

    Args:
        output_dir: folder to make; it may exist when it is empty.
        num_training: cases with labels.
        num_test: cases with labels.
        num_unlabeled: images only.
        size: voxels along the longest axis.
        seed: another one gives other patients.
        num_channels: 2: with a second channel, a PET in a file of its own, in which alone the left kidney shows; with
            `lesions`, in which alone the lesions show.
        native: CT without contrast medium, so that organs hardly differ from what surrounds them.
        lesions: with one to three lesions in the liver, which are the label, and the liver as the organ of every case.
        num_normal: with `lesions`, cases without one; 16 if not given.
    """
    from common.cli import check_flags, check_whole_numbers
    from common.data import write_lesion_phantoms, write_phantoms

    options: dict[str, Any] = {"num_training": num_training, "num_test": num_test, "num_unlabeled": num_unlabeled}
    check_flags(lesions=lesions, native=native)
    if num_normal is not None and not lesions:
        raise InputError(f"num_normal must be given with lesions only, got {num_normal}; pass --lesions")
    if native and lesions:
        raise InputError("native must be given without lesions, got both; leave out one of them")
    if lesions:
        options["num_normal"] = 16 if num_normal is None else num_normal
    check_whole_numbers(**options, size=size, seed=seed, num_channels=num_channels)
    write = write_lesion_phantoms if lesions else partial(write_phantoms, native=native)
    folder = write(output_dir, **options, size=size, seed=seed, num_channels=num_channels)
    normal = f", and {options['num_normal']} without lesions" if lesions else ""
    return f"{folder}: {num_training} training, {num_test} test and {num_unlabeled} unlabeled phantoms{normal}"


if __name__ == "__main__":
    run_command(phantom)
