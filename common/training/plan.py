"""Plan of a run, read off its config: the cases that it reads, the files that it writes, the memory that it needs."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.bundle.utils import ID_SEP_KEY

from common.cli import has_weights, keep_going
from common.data import (
    LABEL_TABLES,
    REFUSED,
    Header,
    Item,
    case_id,
    check_header,
    image_files,
    load_record,
    map_threads,
    segmentation_files,
)
from common.data.container import PICTURE_SUFFIX

from .whole_outputs import keep_whole_cases

__all__ = ["WORKFLOWS", "RunPlan", "case_files", "components", "plan_run", "workflow_of"]

# run ids; the config of an evaluation has that of a training, too
WORKFLOWS = ("evaluation", "inference", "pretraining", "training")

_SECTIONS = {"evaluation": ["validate"], "inference": [""], "pretraining": ["train", "validate"]}
_HANDLERS = {"inference": ["handlers", "postprocessing"], "evaluation": ["validate"]}
_FLOAT, _LABEL = 4, 1  # bytes
_COMPRESSION = 20  # of a label map, or more
_SHARE = 0.25  # bytes of a probability, of which most are near 0 or 1
_PICTURE = 500_000  # bytes
_OTHERS = 20_000_000  # bytes, of tables, curves and logs


@dataclass
class RunPlan:
    """What a run reads, writes and needs, as far as its config and the headers of its scans tell.

    Attributes:
        workflow: one of `WORKFLOWS`.
        data: cases by the id of their data set in the config.
        files: that are written; a file that is written again and again stands for all of its kind.
        disk: bytes that the files take more than today.
        memory: bytes of the volumes that are held at the same time, by device.
        spacing: edges of a voxel in mm to which scans are resampled, if they are.
    """

    workflow: str
    data: dict[str, list[Item]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    disk: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    spacing: float | list[float] | None = None

    @property
    def cases(self) -> list[Item]:
        """Cases of all data sets, but for those that are refused or kept, see `CaseLoader`."""
        return [case for data in self.data.values() for case in data if "outcome" not in case]

    @property
    def refused(self) -> list[Item]:
        """Cases that are refused, each with its `reason`; in an inference and an evaluation, the others are done."""
        return [case for data in self.data.values() for case in data if case.get("outcome") == REFUSED]


def plan_run(config: ConfigParser) -> RunPlan:
    """Read the data list and the headers of a run, and find out what it writes and needs.

    Raises:
        FileNotFoundError, ValueError: when the data list or a header is refused.
    """
    content = config.get()
    plan = RunPlan(workflow_of(content))
    with keep_going():
        plan.data = {id: config.get_parsed_content(_join(id, "data")) for id in _data_sets(content, plan.workflow)}
    with keep_going():
        if "skip_existing" in content and config.get_parsed_content("skip_existing"):
            notes = _component(config, "handlers", "NoteOrigins")
            series = config.get_parsed_content("series")
            keep_whole_cases(plan.cases, lambda case: case_files(config, plan.workflow, case), notes, series)
        plan.files = [*dict.fromkeys(_files(config, plan.workflow, plan.cases))]
    headers = _Headers(config, plan)
    with keep_going():
        plan.spacing = headers.spacing
        plan.memory = _memory(config, plan, headers)
    with keep_going():
        plan.disk = _disk(config, plan, headers)
    return plan


def workflow_of(content: Mapping[str, Any]) -> str:
    """Return the workflow of a config."""
    return next(name for name in WORKFLOWS if name in content)


# ---- cases ---------------------------------------------------------------------------------------


def _data_sets(content: Mapping[str, Any], workflow: str) -> Iterator[str]:
    """Yield the ids of the data sets of a workflow; `validate` stands for cases that a loader makes one of itself."""
    for section in _SECTIONS.get(workflow, _SECTIONS["pretraining"]):
        parts = content.get(section, {}) if section else {"dataset": content["dataset"]}
        for name, part in parts.items():
            if isinstance(part, Mapping) and {"_target_", "data", "transform"} <= {*part}:
                yield _join(section, name)
        if isinstance(parts.get("data"), str):
            yield section


def _join(*keys: str) -> str:
    return ID_SEP_KEY.join(filter(None, keys))


# ---- files ---------------------------------------------------------------------------------------


def case_files(config: ConfigParser, workflow: str, case: Item) -> list[Path]:
    """Return the files that a run writes for one case alone."""
    others = {*_files(config, workflow, [])}
    return [file for file in dict.fromkeys(_files(config, workflow, [case])) if file not in others]


def _files(config: ConfigParser, workflow: str, cases: Sequence[Item]) -> Iterator[Path]:
    """Yield the files that the handlers and the postprocessing of a run write."""
    for section in _HANDLERS.get(workflow, ["train", "validate", "tasks"]):
        for id, part in components(config.get(section), section):
            if not (part.get("_disabled_") and config.get_parsed_content(_join(id, "_disabled_"))):
                yield from _files_of(config, id, part, cases)


def _component(config: ConfigParser, section: str, kind: str) -> Any:
    """Return the component of a kind in a section of a config."""
    parts = components(config.get(section), section)
    return config.get_parsed_content(next(id for id, part in parts if str(part["_target_"]).endswith(f".{kind}")))


def components(part: Any, id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the components in a part of a config, each with its id."""
    if isinstance(part, Mapping) and "_target_" in part:
        yield id, part
    entries = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    for key, value in entries:
        yield from components(value, _join(id, str(key)))


def _files_of(config: ConfigParser, id: str, part: Mapping[str, Any], cases: Sequence[Item]) -> Iterator[Path]:
    """Yield the files that a component writes."""

    def argument(name: str, default: Any = None) -> Any:
        return config.get_parsed_content(_join(id, name)) if name in part else default

    kind = str(part["_target_"]).rpartition(".")[2]
    names = [(case.get("case_id") or case_id(case["image"]), _is_picture(case)) for case in cases]
    if kind == "TrainingHandlers":
        checkpoint = part.get("checkpoint", "training.ckpt")
        files = ["history.csv", "learning_curve.png", "tensorboard"]
        files += [] if str(checkpoint).startswith("@") else [checkpoint]
        yield from (Path(argument("save_dir")) / file for file in files)
    elif kind in ("SaveBest", "SaveLast"):
        path = Path(argument("path"))
        yield from (path, path.with_name("record.json"))
    elif kind == "SaveSnapshots" and argument("interval"):
        path = Path(argument("path"))
        yield path.with_stem(f"{path.stem}_{argument('interval'):04d}")
    elif kind == "SaveScores":
        yield Path(argument("save_dir")) / f"{argument('metric')}_raw.csv"
    elif kind == "SaveClinicalMetrics":
        yield Path(argument("save_dir")) / "clinical_raw.csv"
    elif kind == "InferenceReport":
        yield from (Path(argument("path")).with_suffix(suffix) for suffix in (".json", ".csv", ".html"))
    elif kind == "OverlayPictures":
        for name, is_picture in names[: argument("max_cases", len(names))]:
            yield Path(argument("save_dir")) / f"{name}{'_overlay.png' if is_picture else '.png'}"
    elif kind == "SaveSegmentationd":
        postfix = argument("output_postfix", "seg")
        if "labels" in part:
            yield from (Path(argument("output_dir")) / name for name in LABEL_TABLES)
        for name, is_picture in names:
            formats = argument("formats", ("nifti",))
            files = [f"{name}_{postfix}.nii.gz"]
            if postfix == "seg":
                files = [*segmentation_files(name, formats, is_picture).values()]
            yield from (Path(argument("output_dir")) / file for file in files)
    elif kind in ("SaveProbabilitiesd", "SaveConfidenced"):
        what = "probabilities" if kind == "SaveProbabilitiesd" else "confidence"
        yield from (Path(argument("output_dir")) / f"{name}_{what}.nii.gz" for name, _ in names)
    elif kind not in ("LoadWeights", "SaveSnapshots") and "path" in part:
        yield Path(argument("path"))


def _is_picture(case: Item) -> bool:
    return image_files(case)[0].lower().endswith(PICTURE_SUFFIX)


# ---- needs ---------------------------------------------------------------------------------------


class _Headers:
    """Headers of the scans of a run, read in threads, and the grids on which the volumes are held.

    Args:
        config: of the run.
        plan: of the run, with its cases.
    """

    def __init__(self, config: ConfigParser, plan: RunPlan) -> None:
        content = config.get()
        series = config.get_parsed_content("series") if "series" in content else None
        paths = [*dict.fromkeys(image_files(case)[0] for case in plan.cases)]
        found = map_threads(lambda path: check_header(path, allow_2d=True, series=series), paths)
        self.headers: dict[str, Header] = {
            path: header for path, header in zip(paths, found, strict=True) if header is not None
        }
        self.spacing: float | list[float] | None = None
        with keep_going():
            self.spacing = _spacing(config, list(self.headers.values()))
        box = config.get_parsed_content("field_of_view") if "field_of_view" in content else None
        self.box = math.inf if box is None or not isinstance(self.spacing, float) else math.prod(box) / self.spacing**3

    def voxels(self, case: Item, is_resampled: bool = True) -> float:
        """Return the number of voxels of a scan; a crop to the body, which the header does not tell, is left out."""
        header = self.headers.get(image_files(case)[0])
        if header is None:
            return 0
        count = float(math.prod(header.shape))
        if self.spacing is None or not is_resampled:
            return count
        edges = np.broadcast_to(np.array(self.spacing, dtype=float), 3)
        ratio = np.where(edges > 0, np.array(header.spacing) / np.where(edges > 0, edges, 1), 1)
        return min(count * float(ratio.prod()), self.box)

    def channels(self, case: Item) -> int:
        """Return the number of channels of a scan."""
        files = image_files(case)
        header = self.headers.get(files[0])
        return len(files) if len(files) > 1 or header is None else header.channels


def _spacing(config: ConfigParser, headers: Sequence[Header]) -> float | list[float] | None:
    """Return the edges of a voxel in mm to which scans are resampled, in a training without reading any voxel."""
    content = config.get()
    record = content.get("record", {})
    if not isinstance(record, Mapping) or str(record.get("_target_")).endswith("load_record"):
        return config.get_parsed_content("record").spacing
    spacing = config.get_parsed_content("spacing") if "spacing" in content else None
    if spacing is not None or not str(record.get("_target_")).endswith("fit_preprocessing"):
        return float(spacing) if isinstance(spacing, int) else spacing
    weights = config.get_parsed_content("record::from_weights") if "from_weights" in record else None
    if has_weights(weights) and Path(str(weights)).is_file():
        return load_record(str(weights)).spacing
    return float(np.median([header.spacing for header in headers], axis=0).max()) if headers else None


def _memory(config: ConfigParser, plan: RunPlan, headers: _Headers) -> dict[str, int]:
    """Return the bytes of the volumes that are held, and of the largest case while it is segmented, by device."""
    content = config.get()
    memory = {"cpu": 0.0}
    for id, data in plan.data.items():
        holders = [id]
        if id.startswith("validate") and any(".held_out(" in str(part) for part in content["validate"].values()):
            holders.append("train::dataset")  # whose loader makes another data set of these cases
        for holder in holders:
            part = config.get(holder)
            device = str(config.get_parsed_content("device")) if "device" in part else "cpu"
            estimate = _memory_of(config, holder, part)
            held = sum(headers.voxels(case) * estimate(headers.channels(case), "label" in case) for case in data)
            memory[device] = memory.get(device, 0.0) + held
    if "cache" in content:  # beyond its room, scans are read from disk
        cache = config.get_parsed_content("cache")
        memory = {device: min(size, cache.room(device)) for device, size in memory.items()}
    if any(id.startswith("validate") or id == "dataset" for id in plan.data) and "labels" in content:
        num_classes = len(config.get_parsed_content("labels"))
        memory["cpu"] += max(
            (
                _FLOAT * (headers.channels(case) + num_classes) * max(headers.voxels(case), headers.voxels(case, False))
                for case in plan.cases
            ),
            default=0,
        )
    return {device: round(size) for device, size in memory.items() if size}


def _memory_of(config: ConfigParser, id: str, part: Any) -> Callable[[int, bool], float]:
    """Return what tells the bytes that a data set holds of a voxel with so many channels, and perhaps a label.

    The class of the data set says it; one that says nothing holds none.
    """
    kind = str(part.get("_target_", ""))
    content = config.get()
    channels = config.get_parsed_content("in_channels") if "in_channels" in content else None
    if kind == "common.data.ScanDataset" and part.get("cache"):
        return lambda found, has_label: _FLOAT * (channels or found) + _LABEL * has_label
    estimate: Any = getattr(locate(kind), "bytes_per_voxel", None)
    if estimate is None:
        return lambda found, has_label: 0.0
    _, _, *names = inspect.signature(estimate).parameters
    arguments = {name: _build_apart(config, _join(id, name)) for name in names if name in part}
    return lambda found, has_label: estimate(channels or found, has_label, **arguments)


def _build_apart(config: ConfigParser, id: str) -> Any:
    """Return a component, such as a network, whose initial weights take nothing of the chance of the run."""
    known = {"cases": config.get_parsed_content("cases")} if "cases" in config.get() else {}
    with torch.random.fork_rng(devices=[]):
        return ConfigParser({**config.get(), **known}).get_parsed_content(id)


def _disk(config: ConfigParser, plan: RunPlan, headers: _Headers) -> int:
    """Return the bytes of what is written, beside those of older files that it replaces."""
    content = config.get()
    size = float(_OTHERS)
    if "module" in content and plan.workflow in ("pretraining", "training"):
        weights = _weight_bytes(_build_apart(config, "network_def"))
        checkpoint = weights * (3 if content.get("optimizer") else 1)  # Adam keeps two numbers of each
        older = sum(file.stat().st_size for file in plan.files if file.is_file())
        size += max(2 * (weights + checkpoint) - older, 0)  # twice, since each is whole before it replaces another
    else:
        size += _PICTURE * sum(file.suffix == ".png" for file in plan.files)
    if plan.workflow == "inference":
        num_classes = len(config.get_parsed_content("labels"))
        count = max(sum(map(len, plan.data.values())), 1)
        kinds = Counter(_kind_of_result(file) for file in plan.files)
        voxels = sum(headers.voxels(case, is_resampled=False) for data in plan.data.values() for case in data) / count
        bytes_per_voxel = {
            "map": _LABEL / _COMPRESSION,
            "bits": 1 / 8,
            "number": _FLOAT,
            "numbers": _FLOAT * num_classes,
        }
        size += voxels * sum(kinds[kind] * per_voxel for kind, per_voxel in bytes_per_voxel.items())
    return round(size)


def _kind_of_result(file: Path) -> str:
    """Return what of each voxel a file of an inference holds."""
    if file.name.endswith("_seg.dcm"):
        return "bits"
    if file.name.endswith(("_seg.nii.gz", ".seg.nrrd", "_rtstruct.dcm")):
        return "map"
    if file.name.endswith(("_confidence.nii.gz", "_probabilities.nii.gz")):
        return "share" if file.name.endswith("_confidence.nii.gz") else "shares"
    return "numbers" if file.name.endswith(".nii.gz") else ""


def _weight_bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
