"""Make pseudo-labels of scans without a mask from what teachers think of them; `tools.self_training` runs all of it.

    python -m tools.pseudo_labels --dataset_dir DIR --teachers "['OUT_1','OUT_2']" --output_dir PSEUDO

Each teacher is the `output_dir` of an inference with `--save_probabilities True` on the same scans. What it leaves,
`pseudo_labels.json` and two files for each scan, is what a training takes as `--pseudo_labels PSEUDO`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common.cli import InputError, MissingFileError, check_each
from common.cli.options import FRACTION, NON_NEGATIVE, POSITIVE
from common.data import (
    Cases,
    Item,
    PseudoLabel,
    case_id,
    image_files,
    read_cases,
    read_volume,
    write_atomically,
    write_pseudo_labels,
)
from common.data.record import join_learned
from common.self_training import (
    Segmentation,
    class_thresholds,
    describe_segmentation,
    find_implausible,
    pool_probabilities,
    steadiness_weights,
)
from tools._command import run_command

__all__ = ["make_pseudo_labels"]

_PROBABILITIES = "_probabilities.nii.gz"
_STEPS = 255  # of a confidence
_CERTAIN = 0.99  # confidence
_SAMPLE = 20_000  # voxels of a class and scan, by which its threshold is found


def make_pseudo_labels(
    dataset_dir: str,
    teachers: Any,
    output_dir: str,
    *,
    num_labeled: int | None = None,
    fold: int = 0,
    num_folds: int = 5,
    num_validation: int | None = None,
    weights: list[float] | None = None,
    keep: float = 1.0,
    limit: float = 3.5,
) -> None:
    """Combine the probabilities of teachers into pseudo-labels.

    Args:
        dataset_dir: folder with dataset.json.
        teachers: folders of their segmentations, each with the probabilities of the same scans.
        output_dir: folder of the pseudo-labels, new or of an earlier run.
        num_labeled: training cases whose labels are used, as in the training.
        fold: likewise.
        num_folds: likewise.
        num_validation: likewise.
        weights: how much each teacher counts; if not given, in each class the more, the more alike the volumes are that
            it finds, see `steadiness_weights`.
        keep: share of the voxels of each class that are learned from, the surest ones; all of them if not given.
        limit: robust standard deviations, beyond which a scan is implausible and left out.
    """
    teachers = [teachers] if isinstance(teachers, str) else [str(teacher) for teacher in teachers]
    check_each(FRACTION, keep=keep)
    check_each(POSITIVE, limit=limit)
    check_each(NON_NEGATIVE.list.or_null, weights=weights)
    cases = read_cases(dataset_dir, fold, num_folds, num_labeled, num_validation)
    scans = _find_scans(cases, teachers)
    output = Path(output_dir)
    segmentations, samples = {}, []
    exponents = _weigh(list(scans.values()), cases.labels) if weights is None else weights
    for name, (_, files) in scans.items():
        label, confidence, segmentations[name] = _combine(files, exponents, len(cases.labels))
        _write(output / f"{name}.nii.gz", label, files[0])
        _write(output / f"{name}_confidence.nii.gz", confidence, files[0])
        samples.append(_sample(label, confidence))
        print(f"{name}: {_tell(segmentations[name], cases.labels)}", flush=True)
    thresholds = class_thresholds([c for _, c in samples], [label for label, _ in samples], len(cases.labels), keep)
    left_out = find_implausible(segmentations, _describe_labeled(cases), cases.labels, limit)
    entries = []
    for name, (case, files) in scans.items():
        if name not in left_out and not _apply(output, name, thresholds, files[0]):
            left_out[name] = "no voxel is sure enough"
        entries.append(_entry(Path(dataset_dir), case, name, left_out.get(name, ""), segmentations[name]))
    write_pseudo_labels(output, cases.labels, entries, join_learned(*map(_read_learned, teachers)))
    for name, reason in left_out.items():
        print(f"{name}: left out, {reason}", flush=True)
    shown = ", ".join(f"{cases.labels[value]} {threshold:.2f}" for value, threshold in enumerate(thresholds))
    print(f"{output}: {len(scans) - len(left_out)} of {len(scans)} scans; confidence from {shown}", flush=True)


def _find_scans(cases: Cases, teachers: Sequence[str]) -> dict[str, tuple[Item, list[Path]]]:
    """Return the unlabeled scans that the teachers have segmented, by name, each with the file of every teacher."""
    if not teachers:
        raise InputError("teachers must name at least one folder, got none; run an inference with --save_probabilities")
    names = [
        {file.name.removesuffix(_PROBABILITIES) for file in Path(teacher).glob(f"*{_PROBABILITIES}")}
        for teacher in teachers
    ]
    for teacher, found in zip(teachers, names, strict=True):
        if not found:
            raise MissingFileError(
                f"{teacher}: must hold probabilities, got none; run its inference with --save_probabilities True"
            )
        if found != names[0]:
            odd = min(found ^ names[0])
            raise InputError(
                f"{teacher}: must hold the scans of {teachers[0]}, got a difference in {odd}; run it again"
            )
    known = {case.get("case_id") or case_id(case["image"]): case for case in cases.unlabeled}
    for name in sorted(names[0] - known.keys()):
        raise InputError(
            f"{teachers[0]}: scans must be unlabeled ones of dataset.json, got {name}; let the teachers segment those"
        )
    return {
        name: (case, [Path(teacher) / f"{name}{_PROBABILITIES}" for teacher in teachers])
        for name, case in known.items()
        if name in names[0]
    }


def _read_learned(teacher: str) -> dict[str, str]:
    """Return the checksums of the scans that a teacher has learned from, as the report of its inference tells them."""
    path = Path(teacher) / "report.json"
    try:
        learned = json.loads(path.read_text(encoding="utf-8")).get("learned_from", []) if path.is_file() else []
        return {str(checksum): str(checksum) for checksum in learned}  # a report names no patient of the training
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path}: must be the report of an inference, got {error!r:.200}; run it again") from None


def _weigh(scans: Sequence[tuple[Item, Sequence[Path]]], labels: Mapping[int, str]) -> Sequence[float | np.ndarray]:
    """Return how much each teacher counts in each class, and tell it where there are several."""
    num_teachers = len(scans[0][1])
    if num_teachers == 1:
        return [1.0]
    volumes: list[list[dict[int, float]]] = [[] for _ in range(num_teachers)]
    for _, files in scans:
        for number, file in enumerate(files):
            probabilities, affine = _read(file, len(labels))
            volumes[number].append(describe_segmentation(probabilities.argmax(axis=0), affine).volumes)
    weights = steadiness_weights(volumes, len(labels))
    for number, weight in enumerate(weights):
        shares = ", ".join(f"{labels[value]} {share:.2f}" for value, share in enumerate(weight))
        print(f"teacher {number + 1}: {shares}", flush=True)
    return [*weights]


def _combine(
    files: Sequence[Path], weights: Sequence[float | np.ndarray], num_classes: int
) -> tuple[np.ndarray, np.ndarray, Segmentation]:
    """Return the classes of a scan, the confidence in them, and their description."""
    read = [_read(file, num_classes) for file in files]
    probabilities = [teacher for teacher, _ in read]
    pooled = pool_probabilities(probabilities, weights)
    label = pooled.argmax(axis=0).astype(np.uint8 if num_classes <= 256 else np.int16)
    agreement = _mean_dice([teacher.argmax(axis=0) for teacher in probabilities])
    return label, pooled.max(axis=0), describe_segmentation(label, read[0][1], agreement)


def _read(file: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the classes and the affine matrix of their grid."""
    voxels, header, _ = read_volume(file)
    if len(voxels) != num_classes:
        raise InputError(
            f"{file}: must have the probabilities of {num_classes} classes, got {len(voxels)}; take a teacher "
            "that was trained on this data set"
        )
    return voxels.astype(np.float32), header.affine


def _mean_dice(segmentations: Sequence[np.ndarray]) -> float:
    """Return the mean Dice of the classes between the first segmentation and each other one."""
    scores = []
    for other in segmentations[1:]:
        for value in np.setdiff1d(np.union1d(segmentations[0], other), [0]):
            one, two = segmentations[0] == value, other == value
            scores.append(2 * (one & two).sum() / (one.sum() + two.sum()))
    return float(np.mean(scores)) if scores else 1.0


def _sample(label: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and confidences of voxels that are evenly spread, of each class at most `_SAMPLE`.

    Of the background only those count that could be something else: by far the most are air or far away.
    """
    is_contested = (label > 0) | (confidence < _CERTAIN)
    kept = [np.flatnonzero((label == value) & is_contested) for value in np.unique(label)]
    places = np.concatenate([where[:: max(len(where) // _SAMPLE, 1)] for where in kept])
    return label.ravel()[places], confidence.ravel()[places]


def _describe_labeled(cases: Cases) -> list[Segmentation]:
    described = []
    for case in cases.training:
        if case.keys().isdisjoint(("classes", "ignore")):  # others do not show all of it
            voxels, header, _ = read_volume(case["label"])
            described.append(describe_segmentation(voxels[0], header.affine))
    return described


def _apply(output: Path, name: str, thresholds: np.ndarray, like: Path) -> bool:
    """Take what is not sure enough out of the confidence of a scan, and tell whether anything is left."""
    label = read_volume(output / f"{name}.nii.gz")[0][0].astype(int)
    confidence = read_volume(output / f"{name}_confidence.nii.gz")[0][0].astype(np.float32)
    confidence[confidence < thresholds[label] - 0.5 / _STEPS] = 0
    _write(output / f"{name}_confidence.nii.gz", confidence, like)
    return bool((confidence[label > 0] > 0).any())


def _write(path: Path, volume: np.ndarray, like: Path) -> None:
    """Write classes, or confidences in steps of 1/255, on the grid of another file."""
    is_confidence = volume.dtype.kind == "f"
    array = np.rint(volume * _STEPS).astype(np.uint8) if is_confidence else volume
    image = nib.Nifti1Image(array, None, nib.Nifti1Image.from_filename(like).header)
    image.set_data_dtype(array.dtype)
    image.header.set_slope_inter(1 / _STEPS if is_confidence else 1, 0)
    write_atomically(path, lambda temporary: nib.save(image, temporary))


def _entry(dataset_dir: Path, case: Item, name: str, left_out: str, found: Segmentation) -> PseudoLabel:
    files = [Path(file).relative_to(dataset_dir.expanduser().absolute()).as_posix() for file in image_files(case)]
    image: Any = files[0] if isinstance(case["image"], str) else files
    return PseudoLabel(image, f"{name}.nii.gz", f"{name}_confidence.nii.gz", left_out, asdict(found))


def _tell(found: Segmentation, labels: Mapping[int, str]) -> str:
    volumes = ", ".join(f"{labels[value]} {volume:.3g} ml" for value, volume in found.volumes.items())
    return f"{volumes or 'nothing found'}; agreement {found.agreement:.2f}"


if __name__ == "__main__":
    run_command(make_pseudo_labels)
