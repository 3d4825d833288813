"""What does it cost to label a part of the slices? A copy of a data set in which only every k-th slice is labeled.

    python -m tools.experiments.sparse_labels --dataset_dir DIR --output_dir SPARSE --every 4

The copy has links to the scans, labels of the training cases whose other slices are not labeled, and a `dataset.json`
with `ignore`. A study on it, beside the same study on all slices, tells the cost.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common.cli import InputError
from common.data import read_dataset_file, write_atomically, write_datalist
from tools._command import run_command

__all__ = ["label_slices", "sparsify"]

IGNORE = 255


def label_slices(label: np.ndarray, every: int, axis: int = 2) -> np.ndarray:
    """Return a label map in which every k-th slice that shows a class is labeled, and `IGNORE` fills the others.

    The first of them lies in the middle of the first `every` slices with a class, so that all are within the organs.

    Args:
        label: classes of shape `(H, W, D)`.
        every: number of slices of which one is labeled.
        axis: to which the slices are perpendicular.
    """
    others = tuple(other for other in range(label.ndim) if other != axis)
    shown = np.flatnonzero(label.any(axis=others))
    kept = shown[(every - 1) // 2 :: every] if len(shown) else shown
    is_kept = np.isin(np.arange(label.shape[axis]), kept)
    return np.where(np.expand_dims(is_kept, others), label, IGNORE).astype(np.uint8)


def sparsify(dataset_dir: str, output_dir: str, *, every: int = 4, axis: int = 2) -> None:
    """Write a copy of a data set in which a part of the slices of the training cases is labeled.

    Args:
        dataset_dir: folder with dataset.json; labels are NIfTI.
        output_dir: folder of the copy.
        every: number of slices of which one is labeled.
        axis: of the label files, to which the slices are perpendicular.
    """
    if every < 1:
        raise InputError(f"every must be 1 or more, got {every}; 4 labels a quarter of the slices")
    source, target = Path(dataset_dir).expanduser().absolute(), Path(output_dir)
    listed = read_dataset_file(source / "dataset.json")
    if max(listed.labels) >= IGNORE:
        raise InputError(
            f"{dataset_dir}: must have fewer than {IGNORE} classes, got {len(listed.labels)}; renumber them"
        )
    content: dict[str, Any] = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    for case in [*content.get("training", []), *content.get("test", []), *content.get("unlabeled", [])]:
        for name in [case] if isinstance(case, str) else [case[key] for key in ("image", "label") if key in case]:
            for file in [name] if isinstance(name, str) else name:
                _link(source / file, target / file)
    for case in content.get("training", []):
        path = target / case["label"]
        volume = nib.Nifti1Image.from_filename(path)
        sparse = label_slices(np.asarray(volume.dataobj), every, axis)
        path.unlink()  # the link
        write_atomically(path, partial(_save, sparse, volume.header))
    write_datalist(target, {**content, "name": f"{listed.name}, every {every} slices", "ignore": IGNORE})
    print(f"{target}: {len(content.get('training', []))} cases, of which one of {every} slices is labeled")


def _save(label: np.ndarray, header: nib.Nifti1Header, path: Path) -> None:
    image = nib.Nifti1Image(label, None, header)
    image.set_data_dtype(label.dtype)
    nib.save(image, path)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        target.symlink_to(source)


if __name__ == "__main__":
    run_command(sparsify)
