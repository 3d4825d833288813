"""Compare ways to weigh teachers of a self-training, on scans whose labels are known.

    python -m monai.bundle run inference ... --dataset_dir SCANS --output_dir TEACHER_1 --save_probabilities True
    python -m tools.experiments.pooling DATASET_DIR "['TEACHER_1','TEACHER_2']" --weights "[[1,0.1],[0.5,0.1]]"

The scans are labeled ones that no teacher has learned from, such as the validation cases of a fold. The weights that
`steadiness_weights` tells without a label are compared with fixed ones, and with each teacher alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import InputError, check_each
from common.cli.options import NON_NEGATIVE, POSITIVE
from common.self_training import describe_segmentation, pool_probabilities, steadiness_weights
from tools._command import run_command

_PROBABILITIES = "_probabilities.nii.gz"


def pooling(
    dataset_dir: str,
    teachers: Any,
    *,
    weights: Any = (),
    powers: Any = (1.0, 2.0, 3.0),
) -> str:
    """Score what teachers make together of labeled scans.

    Args:
        dataset_dir: folder with dataset.json.
        teachers: folders of their inferences with `--save_probabilities True`, of the same scans.
        weights: lists of one number for each teacher.
        powers: of the standard deviations of volumes, by whose inverse teachers count; 2 is the variance.

    Returns:
        Table of the mean Dice of each class.
    """
    from common.data import case_id, read_dataset_file, read_volume

    check_each(POSITIVE.list, powers=list(powers))
    for given in weights:
        check_each(NON_NEGATIVE.list, weights=given)
    listed = read_dataset_file(Path(dataset_dir).expanduser().absolute() / "dataset.json")
    labels = {
        case.item.get("case_id") or case_id(case.item["image"]): case.item["label"]
        for case in [*listed.training, *listed.validation, *listed.test]
        if "label" in case.item
    }
    found_by = [
        {file.name.removesuffix(_PROBABILITIES) for file in Path(folder).glob(f"*{_PROBABILITIES}")}
        for folder in teachers
    ]
    names = [name for name in labels if all(name in found for found in found_by)]
    if not names:
        raise InputError(
            f"{teachers[0]}: must hold probabilities of labeled scans of all teachers, got none; run their inferences "
            "on the same scans with --save_probabilities True"
        )
    volumes: list[list[Mapping[int, float]]] = [[] for _ in teachers]
    for name in names:
        for number, folder in enumerate(teachers):
            probabilities, header, _ = read_volume(Path(folder) / f"{name}{_PROBABILITIES}")
            volumes[number].append(describe_segmentation(probabilities.argmax(axis=0), header.affine).volumes)
    ways: dict[str, Sequence[float | np.ndarray]] = {
        Path(folder).name: np.eye(len(teachers))[number] for number, folder in enumerate(teachers)
    }
    ways |= {f"weights {', '.join(map(str, given))}": given for given in weights}
    ways |= {
        f"spread to the power -{power:g}": list(steadiness_weights(volumes, len(listed.labels), power))
        for power in powers
    }
    scores: dict[str, list[list[float]]] = {way: [] for way in ways}
    for name in names:
        known = [read_volume(Path(folder) / f"{name}{_PROBABILITIES}")[0] for folder in teachers]
        label = read_volume(labels[name])[0][0]
        for way, exponents in ways.items():
            found = pool_probabilities(known, exponents).argmax(axis=0)
            scores[way].append([_dice(found == value, label == value) for value in listed.labels if value])
    classes = [name for value, name in listed.labels.items() if value]
    rows = [["teachers", *classes, "mean"], ["---"] * (len(classes) + 2)]
    for way, found in scores.items():
        means = np.nanmean(found, axis=0)
        rows.append([way, *(f"{mean:.3f}" for mean in (*means, np.nanmean(means)))])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nMean Dice over {len(names)} scans."


def _dice(found: np.ndarray, label: np.ndarray) -> float:
    """Return the Dice of two masks; NaN where the second is empty."""
    return float(2 * (found & label).sum() / (found.sum() + label.sum())) if label.any() else float("nan")


if __name__ == "__main__":
    run_command(pooling)
