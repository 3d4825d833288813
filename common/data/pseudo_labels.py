"""Folder of pseudo-labels: what teachers made of scans without a mask, with how far each voxel can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError

from .dataset_file import Item, image_files
from .files import write_atomically

__all__ = ["PseudoLabel", "read_pseudo_labels", "read_teachers_scans", "write_pseudo_labels"]

_FILE = "pseudo_labels.json"


@dataclass(frozen=True)
class PseudoLabel:
    """Pseudo-label of a scan.

    Attributes:
        image: file of the scan, or those of its channels, relative to the folder of the data set.
        label: file of the classes, relative to the folder of pseudo-labels.
        confidence: likewise, of how far each voxel can be trusted, from 0 to 1.
        left_out: why nothing is learned from it; empty when something is.
        details: numbers that tell more, such as the volume of each class in ml.
    """

    image: str | list[str]
    label: str
    confidence: str
    left_out: str = ""
    details: Mapping[str, Any] | None = None


def write_pseudo_labels(
    folder: str | Path,
    labels: Mapping[int, str],
    entries: Iterable[PseudoLabel],
    learned_from: Mapping[str, str] | None = None,
) -> Path:
    """Write `pseudo_labels.json` beside the files that it lists, and return its path.

    Args:
        folder: of the pseudo-labels.
        labels: names of the classes by their value, background included.
        entries: one for each scan.
        learned_from: checksums of the scans that the teachers have learned from, by name.
    """
    content = {
        "labels": {str(value): name for value, name in labels.items()},
        "cases": [asdict(entry) for entry in entries],
        "learned_from": dict(learned_from or {}),
    }
    text = json.dumps(content, indent=1) + "\n"
    return write_atomically(Path(folder) / _FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read_pseudo_labels(
    folder: str | Path,
    dataset_dir: Path,
    labels: Mapping[int, str],
    unlabeled: Sequence[Item],
    others: Mapping[str, Sequence[Item]],
) -> list[Item]:
    """Return the scans of a folder of pseudo-labels from which something is learned, in the order of `unlabeled`.

    Args:
        folder: with `pseudo_labels.json`.
        dataset_dir: folder of the data set.
        labels: names of the classes by their value, which must be those of the pseudo-labels.
        unlabeled: scans that may have a pseudo-label.
        others: labeled, validation and test cases, by the name of their list, which may not.

    Returns:
        For each scan its `image`, `label` and `confidence`.

    Raises:
        FileNotFoundError: when the folder has no `pseudo_labels.json`, or lacks a file that it lists.
        ValueError: when that is damaged, or has other classes or scans.
    """
    path = Path(folder).expanduser().absolute() / _FILE
    if not path.is_file():
        raise MissingFileError(f"{path}: must exist, got no such file; `python -m tools.self_training` makes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [PseudoLabel(**entry) for entry in content["cases"]]
        named = {int(value): name for value, name in content["labels"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must hold pseudo-labels, got {error!r:.200}; make them again") from None
    if named != dict(labels):
        raise InputError(f"{path}: pseudo-labels must have the classes {dict(labels)}, got {named}; make them again")
    of_image = {_key(entry.image, dataset_dir): entry for entry in entries}
    for name, cases in others.items():
        wrong = [case for case in cases if _key(case["image"], Path()) in of_image]
        if wrong:
            raise InputError(
                f"{path}: pseudo-labels must be of unlabeled scans, got {image_files(wrong[0])[0]}, a {name} case; "
                "make them with the same fold, seed and num_labeled"
            )
    known = {_key(case["image"], Path()): case for case in unlabeled}
    for key in of_image.keys() - known.keys():
        raise InputError(
            f"{path}: pseudo-labels must be of scans that dataset.json lists, got {key[0]}; list it as unlabeled, or "
            "make the pseudo-labels again"
        )
    found = []
    for key, case in known.items():
        entry = of_image.get(key)
        if entry is None or entry.left_out:
            continue
        files = {"label": path.parent / entry.label, "confidence": path.parent / entry.confidence}
        for file in files.values():
            if not file.is_file():
                raise MissingFileError(f"{file}: must exist, got no such file; make the pseudo-labels again")
        found.append({**case, **{name: str(file) for name, file in files.items()}})
    return found


def read_teachers_scans(data: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the checksums of the scans from which the teachers of pseudo-labels have learned, by name.

    Args:
        data: training cases; those with pseudo-labels have a `confidence`.
    """
    folders = dict.fromkeys(Path(case["label"]).with_name(_FILE) for case in data if "confidence" in case)
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in folders if path.is_file()]
    return {name: checksum for content in contents for name, checksum in content.get("learned_from", {}).items()}


def _key(image: str | Sequence[str], folder: Path) -> tuple[str, ...]:
    return tuple(str(folder / file) for file in image_files({"image": image}))
