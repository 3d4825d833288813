"""Segment tumors by a threshold alone, the baseline of all methods without masks.

python -m tools.experiments.threshold DATASET_DIR --output_dir DIR [--organ brain] [--clip -40,160] [--side above]
    [--channel FLAIR]

Three thresholds inside the organ: Otsu's, which sees no mask; and the percentile of the organ, and the multiple of its
median, that are best on the training scans with their masks. The latter two bound what a threshold can do.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cli import InputError
from tools._command import run_command

_PERCENTILES = np.arange(50, 100, 0.5)
_MULTIPLES = np.arange(0.05, 3.0, 0.05)
_NUM_BINS = 256


class _Scan(NamedTuple):
    """Intensities and tumor of a scan.

    Attributes:
        values: of the voxels of the organ, turned so that the tumor is above.
        label: which of these are tumor; then one more for each voxel of the tumor outside of the organ.
    """

    values: np.ndarray
    label: np.ndarray


def threshold(
    dataset_dir: str,
    output_dir: str,
    *,
    organ: str = "given",
    clip: Sequence[float] | None = None,
    side: str = "above",
    channel: str | None = None,
) -> str:
    """Segment the test scans by three thresholds, and score them.

    Args:
        dataset_dir: folder with a dataset.json.
        output_dir: folder for `otsu.csv`, `percentile.csv` and `multiple.csv`, with the Dice of each test scan.
        organ: how the organ is found where no mask is listed: `brain`, `body` or `given`; in the first channel.
        clip: lower and upper intensity, separated by commas; the lower one is where there is nothing.
        side: of the threshold on which the tumor is, `above` or `below`.
        channel: to which the thresholds apply, by its name in dataset.json; the only one if not given.

    Returns:
        Mean and median Dice of each threshold.
    """
    from monai.transforms import Compose, Lambdad, Orientationd

    from common.cli import check_choice
    from common.cli.options import NUMBER
    from common.data import case_id, read_cases, write_atomically
    from common.layers import ORGAN_FINDERS, FindOrgand, NormalizeByOrgand
    from common.transforms import LoadVolumesd

    check_choice("organ", organ, [*ORGAN_FINDERS, "given"])
    check_choice("side", side, ["above", "below"])
    if clip is not None:
        NUMBER.list.check("clip", clip)
        if len(clip) != 2:
            raise InputError(f"clip must be two intensities, got {list(clip)}")
    cases = read_cases(dataset_dir, num_folds=2)
    names = cases.modality
    if channel is None and len(names) > 1:
        raise InputError(f"channel must be one of {', '.join(names)}, got none; pass --channel {names[0]}")
    if channel is not None:
        check_choice("channel", channel, names)
    index = 0 if channel is None else names.index(channel)
    keys = ["image", "label", "organ"]
    load = Compose(
        [
            LoadVolumesd(keys, channels=len(names), allow_missing_keys=True),
            Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
            FindOrgand("image", method=organ),
            Lambdad("image", lambda image: image[index : index + 1]),
            NormalizeByOrgand("image", clip=clip),
        ]
    )
    sign = 1.0 if side == "above" else -1.0

    def read(case: Mapping[str, str]) -> _Scan:
        item = load(dict(case))
        inside, label = (np.asarray(item[key]) > 0 for key in ("organ", "label"))
        outside = label[label & ~inside]
        return _Scan(sign * np.asarray(item["image"])[inside], np.concatenate((label[inside], outside)))

    training = [read(case) for case in [*cases.labeled("training"), *cases.validation]]
    percentile = _best(training, _PERCENTILES, np.percentile)
    multiple = _best(training, sign * _MULTIPLES, lambda values, multiple: multiple)  # the median is 1
    test = [(case_id(case["image"]), read(case)) for case in cases.labeled("test")]
    rules: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
        "otsu": ("Otsu's threshold", _otsu),
        "percentile": (
            f"percentile {percentile if side == 'above' else 100 - percentile:g}",
            lambda values: np.percentile(values, percentile),
        ),
        "multiple": (f"{abs(multiple):.2f} of the median", lambda values: multiple),
    }
    lines = []
    for name, (title, rule) in rules.items():
        scores = [_dice(scan, rule(scan.values)) for _, scan in test]
        rows = zip([case for case, _ in test], scores, strict=True)
        write_atomically(Path(output_dir) / f"{name}.csv", partial(_write, rows=rows))
        lines.append(f"{title}: mean Dice {np.mean(scores):.3f}, median {np.median(scores):.3f}, n {len(scores)}")
    return "\n".join(lines)


def _best(scans: Sequence[_Scan], candidates: np.ndarray, rule: Callable[..., Any]) -> float:
    """Return the candidate whose mean Dice is highest."""
    scores = [np.mean([_dice(scan, rule(scan.values, candidate)) for scan in scans]) for candidate in candidates]
    return float(candidates[int(np.argmax(scores))])


def _otsu(values: np.ndarray) -> float:
    """Return Otsu's threshold as the upper edge of a bin, so that none is split."""
    from skimage.filters import threshold_otsu

    if values.min() == values.max():
        return float(values.max())  # nothing is above it
    counts, edges = np.histogram(values, bins=_NUM_BINS)
    return float(threshold_otsu(hist=(counts, edges[1:])))


def _dice(scan: _Scan, bound: float) -> float:
    import torch
    from monai.metrics import compute_dice

    found = np.pad(scan.values > bound, (0, len(scan.label) - len(scan.values)))
    masks = (torch.from_numpy(mask)[None, None] for mask in (found, scan.label))
    return float(compute_dice(*masks, ignore_empty=False))


def _write(path: Path, rows: Iterable[tuple[str, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "mean"])
        writer.writerows([case, f"{score:.6f}"] for case, score in rows)


if __name__ == "__main__":
    run_command(threshold)
