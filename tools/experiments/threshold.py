"""Segment tumors by a threshold alone: what any method without masks must beat.

python -m tools.experiments.threshold DATASET_DIR --output_dir DIR [--organ brain] [--clip -40,160] [--side above]

Three thresholds inside the organ: Otsu's, which sees no mask; and the percentile of the organ, and the multiple of its
median, that are best on the training scans with their masks. The latter two bound what a threshold can do.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose, LoadImaged, Orientationd

from common.cli import check_choice, check_options
from common.data import case_id, read_cases, write_atomically
from common.layers import ORGAN_FINDERS, FindOrgand, NormalizeByOrgand
from common.transforms import CheckVolumed
from tools._command import run_command

_PERCENTILES = np.arange(50, 100, 0.5)
_MULTIPLES = np.arange(0.05, 3.0, 0.05)
_BINS = 256


def threshold(
    dataset_dir: str,
    output_dir: str,
    *more: Any,
    organ: str = "given",
    clip: Sequence[float] | None = None,
    side: str = "above",
    **unknown: Any,
) -> str:
    """Score three thresholds on the test scans.

    Args:
        dataset_dir: folder with a dataset.json.
        output_dir: folder for `otsu.csv`, `percentile.csv` and `multiple.csv`, with the Dice of each test scan.
        more: refused.
        organ: how the organ is found where no mask is listed: `brain`, `body` or `given`.
        clip: lower and upper intensity, separated by commas; the lower one is where there is nothing.
        side: of the threshold on which the tumor is, `above` or `below`.
        unknown: refused.

    Returns:
        Mean and median Dice of each threshold.

    Raises:
        ValueError: when there are no labels, or an option is unknown or makes no sense.
    """
    if more or unknown:
        raise ValueError(f"options must be those that `--help` shows, got {sorted(unknown) or more}")
    check_choice("organ", organ, [*ORGAN_FINDERS, "given"])
    check_choice("side", side, ["above", "below"])
    check_options(lists_of_numbers_or_null={"clip": clip})
    if clip is not None and len(clip) != 2:
        raise ValueError(f"clip must be two intensities, got {list(clip)}")
    cases = read_cases(dataset_dir, num_folds=2)
    keys = ["image", "label", "organ"]
    load = Compose(
        [
            LoadImaged(
                ["image", "label", "organ"], image_only=True, ensure_channel_first=True, allow_missing_keys=True
            ),
            CheckVolumed(label_key="label"),
            Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
            FindOrgand("image", method=organ),
            NormalizeByOrgand("image", clip=clip),
        ]
    )
    sign = 1.0 if side == "above" else -1.0

    def read(case: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the intensities inside the organ, turned so that the tumor is above, and where it is; and its size."""
        item = load(dict(case))
        inside = np.asarray(item["organ"]) > 0
        label = np.asarray(item["label"]) > 0
        return sign * np.asarray(item["image"])[inside], label[inside], int(label.sum())

    training = [read(case) for case in [*cases.labeled("training"), *cases.validation]]
    percentile = _best(training, _PERCENTILES, _at_percentile)
    multiple = _best(training, sign * _MULTIPLES, _at_multiple)
    test = {case["image"]: read(case) for case in cases.labeled("test")}
    rules: dict[str, tuple[str, Callable[[np.ndarray], float]]] = {
        "otsu": ("Otsu's threshold", _otsu),
        "percentile": (
            f"percentile {percentile if side == 'above' else 100 - percentile:g}",
            lambda values: _at_percentile(values, percentile),
        ),
        "multiple": (f"{abs(multiple):.2f} of the median", lambda values: multiple),
    }
    lines = []
    for name, (title, rule) in rules.items():
        scores = {image: _dice(scan, rule(scan[0])) for image, scan in test.items()}
        write_atomically(Path(output_dir) / f"{name}.csv", partial(_write, scores=scores))
        values = list(scores.values())
        lines.append(f"{title}: mean Dice {np.mean(values):.3f}, median {np.median(values):.3f}, n {len(values)}")
    return "\n".join(lines)


def _best(scans: Sequence[tuple], candidates: np.ndarray, rule: Callable[[np.ndarray, float], float]) -> float:
    """Return the candidate whose mean Dice is highest."""
    scores = [np.mean([_dice(scan, rule(scan[0], candidate)) for scan in scans]) for candidate in candidates]
    return float(candidates[int(np.argmax(scores))])


def _at_percentile(values: np.ndarray, percentile: float) -> float:
    return float(np.percentile(values, percentile))


def _at_multiple(values: np.ndarray, multiple: float) -> float:
    return multiple  # the median is 1


def _otsu(values: np.ndarray) -> float:
    """Return the bound between two groups of values whose means differ most for their sizes (Otsu 1979)."""
    if values.min() == values.max():
        return float(values.max())  # nothing is above it
    counts, edges = np.histogram(values, bins=_BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centers)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _dice(scan: tuple[np.ndarray, np.ndarray, int], bound: float) -> float:
    values, label, size = scan
    found = values > bound
    total = int(found.sum()) + size
    return 2 * int((found & label).sum()) / total if total else 1.0


def _write(path: Path, scores: Mapping[str, float]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "mean"])
        writer.writerows([case_id(image), f"{score:.6f}"] for image, score in scores.items())


if __name__ == "__main__":
    run_command(threshold, "dataset_dir", "output_dir", "organ", "side")
