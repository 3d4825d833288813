"""Choose the scans to label next (active learning), by how they differ for a bundle's network from the labeled ones.

python -m tools.next_scan BUNDLE DATASET_DIR [--labels FOLDER] [--count 5] [--criterion k_medoids]
    [--override_files configs/small.yaml] [--name value]

The network is the one that learned without labels, as `models/pretrained` has it, or else the trained one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError
from tools._command import run_command


def next_scan(
    bundle: str,
    dataset_dir: str,
    *,
    labels: str | None = None,
    count: int = 5,
    criterion: str = "k_medoids",
    override_files: str = "",
    **options: Any,
) -> str:
    """Choose the scans to label next.

    Args:
        bundle: folder of the bundle, with its weights.
        dataset_dir: folder with a dataset.json, whose `training` scans are labeled and whose `unlabeled` ones are not;
            with `labels`, a folder of scans.
        labels: folder of labels; scans that have one of their own name are labeled.
        count: scans to name.
        criterion: `k_medoids` takes the scan with which all scans come nearest to a labeled one, `k_center` the scan
            that is farthest from all labeled ones.
        override_files: configs that the weights were made with, relative to the bundle, separated by commas.
        options: values that the configs had, by id.

    Returns:
        The scans in the order in which to label them.
    """
    from common.active_learning import CRITERIA, load_describer
    from common.cli import check_choice
    from common.cli.options import POSITIVE_INT
    from common.data import read_images

    check_choice("criterion", criterion, CRITERIA)
    POSITIVE_INT.check("count", count)
    files = [name for name in override_files.split(",") if name]
    describer = load_describer(bundle, files, options)
    images = read_images(dataset_dir) if labels is None else _split(dataset_dir, labels, describer.channels)
    labeled, unlabeled = images
    if not unlabeled:
        raise InputError(f"{dataset_dir}: must hold an unlabeled scan, got {len(labeled)}, all labeled; add scans")
    chosen = describer.choose(labeled, unlabeled, count, criterion)
    lines = [f"{len(labeled)} labeled and {len(unlabeled)} unlabeled scans; label next, by {criterion}:"]
    lines += [
        f"{place}. {scan} ({f'distance {distance:.2f}' if math.isfinite(distance) else 'the medoid of all'})"
        for place, (scan, distance) in enumerate(chosen, start=1)
    ]
    return "\n".join(lines)


def _split(images: str, labels: str, channels: int) -> tuple[list[Any], list[Any]]:
    """Return the scans of a folder that have a label of their name in another one, and those that have none."""
    from common.data import case_id, list_images

    if not Path(labels).is_dir():
        raise MissingFileError(f"{labels}: labels must be a folder, got none; make it, or leave out --labels")
    names = {case_id(file) for file in Path(labels).iterdir()}
    scans = [case["image"] for case in list_images(images, channels=channels)]
    return [scan for scan in scans if case_id(scan) in names], [scan for scan in scans if case_id(scan) not in names]


if __name__ == "__main__":
    run_command(next_scan)
