"""Reports of what became of every case: of an inference, as JSON, CSV and a page, and of an evaluation, as JSON."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from common.cli import CONFIG, package_versions
from common.cli.command_line import written_command
from common.data import Record, case_name, hash_file, is_main_process, write_atomically

from .measures import LabelMeasures, measure_labels
from .original import original_image, source_of
from .pictures import intensity_unit
from .report_page import make_report_page

__all__ = ["EvaluationReport", "InferenceReport"]

logger = logging.getLogger(__name__)

_LARGEST_SHARE = 0.5  # of the scan, above which a label is implausible
_UNLIKE = 2.0  # times smaller or larger than in all of the training
_COLUMNS = ("case", "image", "outcome", "reason", "label", "volume_ml", "mean_intensity", "std_intensity")
_PLACES = ("longest_diameter_mm", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "cut_off_at", "num_components")


class InferenceReport:
    """Write what an inference has found: `report.json`, `report.csv` and `report.html`.

    The JSON file has a mapping for each case: its name, the file of its `image`, its `outcome` (`segmented`, or what
    kept it from being so, with the `reason`), `LabelMeasures` of each of its `labels` by name, `warnings` and the file
    of its `picture`; and the bundle, the checksum of the weights, the scans that these have learned from (see
    `Record`), the options and the versions with which it was made. The CSV file has a row for each case and label, and
    one for a case that was not segmented. The page shows the pictures, too, and needs no other file.

    A label that is empty, fills most of the scan or is much smaller or larger than in the training is warned of, there
    and in the log. Cases that were not segmented are those of the engine's state, in `refused`: mappings with `case`,
    `outcome` and `reason`; of those whose outputs were kept, also with what was found in them, see `NoteOrigins`. The
    engine's state has `labels` and `warnings` of each case by its name, as `findings`. The processes of a distributed
    run write one report, in the order of their cases.

    Args:
        path: JSON file; the others lie beside it.
        labels: names of the labels by their value, background (0) included.
        record: of the weights; without it, no size is compared and no unit is told.
        weights: file whose checksum is told.
        settings: options of the run by name, as far as results depend on them.
        bundle_root: folder of the bundle, whose name and version are told.
    """

    def __init__(
        self,
        path: str | Path,
        labels: Mapping[int, str],
        record: Record | None = None,
        weights: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        bundle_root: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.names = {value: name for value, name in labels.items() if value}
        self.record = record or Record()
        self.weights = weights
        self.settings = {name: value for name, value in (settings or {}).items() if name != CONFIG}
        self.bundle_root = bundle_root
        self.cases: list[dict[str, Any]] = []
        self.made_with: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.cases = []
        engine.state.findings = {}
        self.made_with = {
            **_describe_run(self.weights, self.settings, self.bundle_root),
            "learned_from": [*self.record.learned_from.values()] if self.record.labels else [],  # and no names
            "intensities": {"channel": self.record.modality[0], "unit": intensity_unit(self.record.modality)},
        }

    def _collect(self, engine: Engine) -> None:
        for output in engine.state.output:
            prediction, meta = output["pred"], output["pred"].meta
            label_map, image = prediction.cpu().numpy()[0], original_image(output)[0].numpy()
            is_oriented = bool(meta.get("is_oriented", True))
            measures = measure_labels(label_map, prediction.affine.cpu().numpy(), self.names, image, is_oriented)
            source, found = source_of(meta), {self.names[value]: measured for value, measured in measures.items()}
            milliliters = abs(float(prediction.affine[:3, :3].det())) * label_map.size / 1000
            warnings = self._judge(found, milliliters)
            for warning in warnings:
                logger.warning("%s: %s", source, warning)
            given = [*filter(None, str(meta.get("warnings", "")).split("\n"))]
            labels = {name: _to_plain(asdict(measured)) for name, measured in found.items()}
            findings: dict[str, Any] = {"labels": labels, "warnings": [*given, *warnings]}
            engine.state.findings[case_name(meta)] = findings
            self.cases.append(_row(case_name(meta), "segmented", image=source, **findings))

    def _judge(self, found: Mapping[str, LabelMeasures], scan_ml: float) -> list[str]:
        """Return warnings of what is implausible.

        Args:
            found: measures by the name of the label.
            scan_ml: volume of the scan.
        """
        if not any(measured.num_components for measured in found.values()):
            return ["nothing was segmented"]
        warnings = []
        for name, measured in found.items():
            volume, (low, high) = measured.volume_ml, self.record.volumes_ml.get(name, (0.0, math.inf))
            if not measured.num_components:
                warnings.append(f"{name} is empty")
            elif volume > _LARGEST_SHARE * scan_ml:
                warnings.append(f"{name} fills {volume / scan_ml:.0%} of the scan")
            elif volume > _UNLIKE * high:
                warnings.append(f"{name} has {volume:.3g} ml, where it has {high:.3g} ml at most in the training")
            elif volume < low / _UNLIKE and not measured.cut_off_at:
                warnings.append(f"{name} has {volume:.3g} ml, where it has {low:.3g} ml at least in the training")
        return warnings

    def _write(self, engine: Engine) -> None:
        pictures = getattr(engine.state, "pictures", {})
        for case in self.cases:
            case["picture"] = pictures[case["case"]].name if case["case"] in pictures else None
        left_out = [_row(**case) for case in getattr(engine.state, "refused", [])]
        names = {case["case"] for case in left_out}
        done = [case for case in self.cases if case["case"] not in names]
        rows = string_list_all_gather([json.dumps(case) for case in done])
        if not is_main_process():
            return
        cases = [json.loads(row) for row in rows if row]  # a process may have none
        if left_out:
            cases = sorted([*cases, *_to_plain(left_out)], key=lambda case: str(case["image"]))
        report = {**_to_plain(self.made_with), "cases": cases}
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))
        write_atomically(self.path.with_suffix(".csv"), lambda path: _write_table(path, cases))
        page = make_report_page(report, self.names, self.path.parent)
        written = write_atomically(self.path.with_suffix(".html"), lambda path: path.write_text(page, encoding="utf-8"))
        segmented = sum(case["outcome"] == "segmented" for case in cases)
        logger.info("segmented %d of %d case(s); report: %s", segmented, len(cases), written)


class EvaluationReport:
    """Write what became of every case of an evaluation, as `report.json`.

    The file has a mapping for each case: its name, the file of its `image`, its `outcome` (`segmented`, or what kept it
    from being so, with the `reason`), its `scores` by metric and class, null where there is none, and the file of its
    `picture`; and the bundle, the checksum of the weights, the options and the versions with which it was made. The
    processes of a distributed run write one report.

    Scores are those that each `SaveScores` before this handler has written.

    Args:
        path: JSON file.
        weights: see `InferenceReport`, also for `settings` and `bundle_root`.
    """

    def __init__(
        self,
        path: str | Path,
        weights: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        bundle_root: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.weights = weights
        self.settings = dict(settings or {})
        self.bundle_root = bundle_root
        self.cases: list[dict[str, Any]] = []
        self.made_with: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.cases = []
        self.made_with = _describe_run(self.weights, self.settings, self.bundle_root)

    def _collect(self, engine: Engine) -> None:
        for output in engine.state.output:
            meta = output["image"].meta
            self.cases.append(_scored_row(case_name(meta), source_of(meta), "segmented"))

    def _write(self, engine: Engine) -> None:
        pictures = getattr(engine.state, "pictures", {})
        for case in self.cases:
            case["picture"] = pictures[case["case"]].name if case["case"] in pictures else None
        left_out = [_scored_row(**row) for row in getattr(engine.state, "refused", [])]
        names = {case["case"] for case in left_out}
        done = string_list_all_gather([json.dumps(case) for case in self.cases if case["case"] not in names])
        if not is_main_process():
            return
        cases = [json.loads(row) for row in done if row]  # a process may have none
        for case in cases:
            tables = getattr(engine.state, "scores", {}).items()
            case["scores"] = {metric: rows[case["image"]] for metric, rows in tables}
        if left_out:
            cases = sorted([*cases, *left_out], key=lambda case: str(case["image"]))
        text = json.dumps(_to_plain({**self.made_with, "cases": cases}), indent=1, allow_nan=False) + "\n"
        written = write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))
        logger.info("scored %d of %d case(s); report: %s", len(cases) - len(left_out), len(cases), written)


def _describe_run(
    weights: str | Path | None, settings: Mapping[str, Any], bundle_root: str | Path | None
) -> dict[str, Any]:
    """Return what a report says of the run that made it, see `InferenceReport`."""
    return {
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "bundle": _read_bundle(bundle_root),
        "weights": _read_weights(weights),
        "options": settings,
        "command": written_command(),
        "versions": package_versions(),
    }


def _scored_row(case: str, image: str, outcome: str, reason: str = "") -> dict[str, Any]:
    """Return what the report of an evaluation says of a case."""
    return {"case": case, "image": image, "outcome": outcome, "reason": reason, "scores": {}, "picture": None}


def _row(case: str, outcome: str, reason: str = "", **more: Any) -> dict[str, Any]:
    """Return what the report says of a case."""
    defaults: dict[str, Any] = {"image": None, "labels": {}, "warnings": [], "picture": None}
    return {"case": case, "outcome": outcome, "reason": reason, **defaults, **more}


def _to_plain(value: Any) -> Any:
    """Return a value as every parser of JSON reads it: no number that is not finite, and text for what is unknown."""
    if isinstance(value, Mapping):
        return {str(name): _to_plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _read_bundle(root: str | Path | None) -> dict[str, Any] | None:
    """Return the name and the version of a bundle, if its folder tells them."""
    path = Path(root or ".") / "configs" / "metadata.json"
    if root is None or not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: content.get(name) for name in ("name", "version")}


def _read_weights(path: str | Path | None) -> dict[str, str] | None:
    """Return the name and the checksum of a file of weights, if there is one."""
    if path is None or not Path(path).is_file():
        return None
    return {"file": Path(path).name, "sha256": hash_file(Path(path))}


def _write_table(path: Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Write one row for each case and label, see `InferenceReport`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *_PLACES, "warnings"], extrasaction="ignore")
        writer.writeheader()
        for case in cases:
            known = {**case, "warnings": "; ".join(case["warnings"])}
            for name, measured in case["labels"].items() or [("", {})]:
                centroid = measured.get("centroid_ras_mm") or [None, None, None]
                places = dict(zip(("centroid_r_mm", "centroid_a_mm", "centroid_s_mm"), centroid, strict=True))
                sides = {"cut_off_at": " ".join(measured.get("cut_off_at", []))}
                writer.writerow({**known, "label": name, **measured, **places, **sides})
