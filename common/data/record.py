"""Record of what belongs to weights: the classes that they tell apart, and the input that they expect."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import ensure_tuple

from common.cli import CONFIG, InputError, MissingFileError, has_weights

from .checks import is_ct
from .files import hash_file, write_atomically
from .header import check_header, warn_once
from .pseudo_labels import read_teachers_scans
from .reader import Paths, case_id, fingerprint
from .volumes import volume_ranges

__all__ = [
    "Record",
    "body_channel",
    "check_channels",
    "check_same",
    "check_voxel_size",
    "check_weights",
    "find_record",
    "is_same",
    "join_learned",
    "load_record",
    "load_learned",
    "make_record",
]

logger = logging.getLogger(__name__)

_FILE = "record.json"
_UNLIKE = 1.5  # times smaller or larger, of voxels that nothing resamples
_ABSURD = 8.0  # likewise, of others: as if they were in other units
_PRETRAINED = "pretrained"  # folder of what a pretraining leaves
_CHECKSUMS = "SHA256SUMS"  # of an exported bundle
_FORMER_FILES = ("preprocessing.json", "classes.json")  # of versions up to 0.1, with a part of the fields


@dataclass(frozen=True)
class Record:
    """Record of what weights were trained for; a number that a method has no use for is None.

    Attributes:
        labels: names of the classes by their value, background (0) included; empty after a pretraining.
        modality: name of each channel of an image, such as CT or FLAIR.
        spacing: edge of a voxel in mm, or the edges along the three axes, of which 0 keeps the scan's.
        clip: lower and upper intensity, in the units of the scan; of several channels a list of such pairs. None in
            place of a pair, or of all: percentiles of each scan.
        air: intensity at or below which a voxel lies outside the body, in the channel of `body_channel`.
        normalization: see `ClipAndNormalize`.
        organ: how the organ is found where no mask is given, such as `brain`.
        fitted_on: number of cases to which the numbers were fitted.
        voxel_sizes: smallest and largest edges of a voxel in mm, along the patient's axes, of the training scans.
        volumes_ml: smallest and largest volume of each class in the labels of the training that show it, by its name.
        learned_from: checksum of the voxels of each training scan, by its name; also of those from whose labels the
            weights had learned that the training began with, and its teachers.
        settings: options of the training, by name.
        weights: SHA-256 of each file of weights to which the record belongs, by its name.
    """

    labels: dict[int, str] = field(default_factory=dict)
    modality: list[str] = field(default_factory=lambda: [""])
    spacing: float | list[float] | None = None
    clip: list[float] | list[list[float] | None] | None = None
    air: float | None = None
    normalization: str | None = None
    organ: str | None = None
    fitted_on: int | None = None
    voxel_sizes: list[list[float]] | None = None
    volumes_ml: dict[str, list[float]] = field(default_factory=dict)
    labeled: list[Mapping[str, Any]] = field(default_factory=list, compare=False)  # cases of the training with a label
    learned_from: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict, compare=False)
    scans: dict[str, Paths] = field(default_factory=dict, compare=False)  # of the training, by name

    def option(self, name: str, default: Any) -> Any:
        """Return the value that an option had in the training, or a default where the record does not tell."""
        return self.settings.get(name, default)

    def save_beside(self, weights: str | Path) -> None:
        """Write `record.json` into the folder of a file of weights, for this file and others of the same training."""
        weights = Path(weights)
        content = dataclasses.asdict(self)
        content["volumes_ml"] |= volume_ranges(content.pop("labeled"), self.labels)
        own = {name: fingerprint(scan) for name, scan in content.pop("scans").items()}
        content["learned_from"] = join_learned(own, content["learned_from"])
        content = json.loads(json.dumps(content, default=str))
        path = weights.with_name(_FILE)
        content["weights"] = _weights_of_same(content, path)
        if weights.is_file():
            content["weights"][weights.name] = hash_file(weights)
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(path, lambda path: path.write_text(text, encoding="utf-8"))
        for name in _FORMER_FILES:  # of weights that were replaced
            path.with_name(name).unlink(missing_ok=True)


def join_learned(*parts: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of several trainings by the names of their scans, each scan once, the first ones in front.

    Other scans of the same name, as of another data set, have a number behind it.
    """
    joined: dict[str, str] = {}
    for name, checksum in (item for part in parts for item in part.items()):
        if checksum not in joined.values():
            names = (name, *(f"{name} ({number})" for number in range(2, len(joined) + 3)))
            joined[next(free for free in names if free not in joined)] = checksum
    return joined


def load_learned(*weights: str | Path | None) -> dict[str, str]:
    """Return the checksums of the scans from whose labels weights have learned, by name, see `Record`.

    A pretraining has learned from images alone, and an evaluation on these is none on labels that were seen.

    Args:
        weights: files; None, `null` and `random`, and those without a record, have learned from none.
    """
    paths = [str(path) for path in weights if has_weights(path) and find_record(Path(str(path)).parent) is not None]
    return join_learned(*(record.learned_from for record in map(load_record, paths) if record.labels))


def _weights_of_same(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the checksums that a stored record of the same content has, of the files that are still there."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict) or {**stored, "weights": {}} != {**content, "weights": {}}:
        return {}
    return {name: sum for name, sum in stored["weights"].items() if path.with_name(name).is_file()}


def check_weights(weights: str | Path) -> None:
    """Refuse weights that were altered, or beside which an altered record lies, or that of another training.

    The record has their checksum; for a record of an earlier version, `SHA256SUMS` of an export decides, and for the
    weights of an export whether the record is theirs. A file under another name is taken.
    """
    weights = Path(weights)
    record = find_record(weights.parent)
    known = [*load_record(weights).weights.values()] if record is not None else []
    sums, exported = _read_checksums(weights.parent)
    owner: Path | None = record
    if not known and weights.name in exported:
        owner, known = sums, [exported[weights.name]]
    if not known:
        return
    found = hash_file(weights)
    if found not in known:
        raise InputError(
            f"{weights}: weights must be those that {owner} belongs to, got others or altered ones; copy both files "
            "again, or train again"
        )
    if record is None or found != exported.get(weights.name):  # who trains in an exported bundle makes a new record
        return
    if hash_file(record) != exported.get(record.name, hash_file(record)):
        raise InputError(
            f"{record}: the record must be that of the export, as {sums} has it, got an altered one; copy it again, "
            "or export the weights again"
        )


def _read_checksums(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return where an exported bundle has its checksums, and those of the files in its folder of weights, by name."""
    folder = folder.absolute()
    path = folder.parent / _CHECKSUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    stated = [line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2]
    return path, {Path(name).name: sum for sum, name in stated if Path(name).parent.name == folder.name}


def make_record(
    from_weights: str | Path | None = None,
    labels: Mapping[int, str] | None = None,
    modality: Sequence[str] = ("",),
    settings: Mapping[str, Any] | None = None,
    data: Sequence[Mapping[str, Any]] = (),
    init_from: str | Path | None = None,
    **numbers: Any,
) -> Record:
    """Return the record of a training whose preprocessing is known beforehand.

    Args:
        from_weights: file of pretrained weights, whose numbers must be the same, since the weights expect them. `None`,
            `null` or `random`: nothing is compared.
        labels: names of the classes by their value, background included; none for a pretraining.
        modality: see `Record`, also for `settings`.
        data: training cases, each with `image`, whose voxel sizes and checksums are kept.
        init_from: file of further weights with which the training begins, where `from_weights` gives numbers alone.
        numbers: other fields of `Record`, such as `spacing`.

    Raises:
        FileNotFoundError: when the pretrained weights have no record.
        ValueError: when a number or the channels differ from theirs, or there is no class besides the background.
    """
    if labels is not None and len(labels) < 2:
        raise InputError(
            f"labels must name the background and at least one class, got {dict(labels)}; name them in dataset.json"
        )
    numbers = {name: _plain(value) for name, value in numbers.items()}
    if has_weights(from_weights):
        stored = load_record(str(from_weights))
        check_channels(stored, modality, str(from_weights))
        check_same(stored, numbers, str(from_weights))
    options = {name: _without_folder(value) for name, value in (settings or {}).items() if name != CONFIG}
    scans = {case.get("case_id") or case_id(case["image"]): case["image"] for case in data}
    headers = [check_header(ensure_tuple(scan)[0], allow_2d=True) for scan in scans.values()]
    sizes = np.array([_voxel_size(header.affine) for header in headers])
    for scan, size in zip(scans.values(), sizes, strict=True):
        usual = np.sort(sizes, axis=0)[(len(sizes) - 1) // 2]
        if ((size < usual / _ABSURD) | (size > usual * _ABSURD)).any():
            texts = (" x ".join(f"{edge:.3g}" for edge in edges) for edges in (size, usual))
            warn_once(
                "{}: voxels of {} mm are unlike those of the other scans, {} mm; look at its units".format(
                    ensure_tuple(scan)[0], *texts
                )
            )
    return Record(
        labels=dict(labels or {}),
        modality=[*modality],
        voxel_sizes=[sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()] if len(sizes) else None,
        learned_from=join_learned(load_learned(from_weights, init_from), read_teachers_scans(data)),
        settings=options,
        labeled=[case for case in data if "label" in case] if labels else [],
        scans=scans,
        **numbers,
    )


def check_voxel_size(record: Record, affine: np.ndarray, path: str | Path) -> str | None:
    """Return a warning when the voxels of a scan are unlike those of the training.

    Where they are resampled, only those that are many times smaller or larger are, as if in other units.

    Args:
        record: of the weights.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        path: of the scan, for the warning.
    """
    if record.voxel_sizes is None:
        return None
    spacing = record.spacing or 0
    kept = np.array([not edge for edge in (spacing if isinstance(spacing, list) else 3 * [spacing])])
    sizes, (low, high) = _voxel_size(affine), np.array(record.voxel_sizes)
    factor = np.where(kept, _UNLIKE, _ABSURD)
    if not ((sizes < low / factor) | (sizes > high * factor)).any():
        return None
    texts = (" x ".join(f"{edge:.3g}" for edge in edges) for edges in (sizes, low, high))
    sentence = "{}: voxels of {} mm are unlike those of the training, {} to {} mm; resample the scan, or mend its units"
    return sentence.format(path, *texts)


def _voxel_size(affine: np.ndarray) -> np.ndarray:
    """Return the edges of a voxel in mm along the patient's axes."""
    axes = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    sizes = np.empty(3)
    sizes[axes] = np.linalg.norm(affine[:3, :3], axis=0)
    return sizes


def check_same(record: Record, numbers: Mapping[str, Any], weights: str) -> None:
    """Refuse numbers, by the name of their field, that are not those of the record of `weights`, a file."""
    for name, value in numbers.items():
        stored = getattr(record, name)
        if not is_same(value, stored):
            raise InputError(
                f"{name} must be that of the pretraining of {weights}, {stored}, got {value}; leave "
                "the option out, or pretrain again with it"
            )


def check_channels(record: Record, modality: Sequence[str], weights: str) -> None:
    """Refuse to go on from weights whose record has another number of channels, or the same ones in another order."""
    wanted, found = [*modality], record.modality
    if len(wanted) != len(found):
        raise InputError(
            f"{weights}: weights must be trained on images of {_count_channels(wanted)}, got "
            f"{_count_channels(found)}; train on such images, or leave these weights out (--pretrained null)"
        )
    if wanted != found and sorted(wanted) == sorted(found):
        raise InputError(
            f"{weights}: weights must be trained on the channels {', '.join(wanted)} in this order, got "
            f"{', '.join(found)}; list them in dataset.json in that order, or leave these weights out (--pretrained "
            "null)"
        )
    if wanted != found and all([*wanted, *found]):
        logger.warning("%s: pretrained on %s, not on %s", weights, _count_channels(found), _count_channels(wanted))


def body_channel(modality: Sequence[str]) -> int:
    """Return the index of the channel in which air is told from the body: the first CT, or the first of all."""
    return next((channel for channel, name in enumerate(modality) if is_ct(name)), 0)


def load_record(weights: str | Path) -> Record:
    """Read the record beside a file of weights: `record.json`, or what an earlier version left.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is damaged.
    """
    path = find_record(Path(weights).parent)
    if path is None:
        if not Path(weights).is_file():
            is_pretraining = Path(weights).parent.name == _PRETRAINED
            remedy = (
                "pretrain first, or pass --pretrained null to train from scratch" if is_pretraining else "train first"
            )
            raise MissingFileError(f"{weights}: weights must exist; {remedy}")
        missing = Path(weights).with_name(_FILE)
        raise MissingFileError(f"{missing}: the record of the weights must lie beside them; train first")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        labels = {int(value): str(name) for value, name in stored["labels"].items()}
        modality = stored.get("modality", "")
        names = [modality] if isinstance(modality, str) else [str(name) for name in modality]
        record = Record(**{**stored, "labels": labels, "modality": names})
        _check_numbers(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must hold the record of the weights, got {error!r:.200}; train again") from None
    return record


def find_record(folder: str | Path) -> Path | None:
    """Return the file of the record in a folder of weights, if there is one."""
    return next((path for name in (_FILE, *_FORMER_FILES) if (path := Path(folder) / name).is_file()), None)


def _check_numbers(record: Record) -> None:
    if record.clip is not None:
        pairs: list[Any] = record.clip if record.clip and isinstance(record.clip[0], list | None) else [record.clip]
        if len(pairs) not in (1, len(record.modality)):
            raise ValueError(f"{len(pairs)} pairs in clip for {_count_channels(record.modality)}")
        for low, high in (pair for pair in pairs if pair is not None):
            if not low < high:
                raise ValueError(f"clip {low} to {high}")
    spacing = record.spacing if isinstance(record.spacing, list) else [record.spacing]
    if any(edge is not None and not 0 <= edge < math.inf for edge in spacing) or record.spacing == 0:
        raise ValueError(f"spacing {record.spacing}")


def is_same(value: Any, stored: Any) -> bool:
    """Tell whether two values of a record are alike, numbers but for their rounding."""
    if isinstance(value, list) and isinstance(stored, list):
        return len(value) == len(stored) and all(is_same(*pair) for pair in zip(value, stored, strict=True))
    if isinstance(value, int | float) and isinstance(stored, int | float):
        return math.isclose(value, stored, rel_tol=1e-5)
    return value == stored


def _count_channels(modality: Sequence[str]) -> str:
    names = ", ".join(filter(None, modality))
    return f"{len(modality)} channel{'' if len(modality) == 1 else 's'}{f' ({names})' if names else ''}"


def _without_folder(value: Any) -> Any:
    """Return the name of a file alone: a record travels with its weights, and its folders stay."""
    return Path(value).name if isinstance(value, str) and "/" in value else value


def _plain(value: Any) -> Any:
    """Return numbers as JSON holds them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) if isinstance(item, Sequence) else float(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
