"""Report of an inference: the volumes of what was segmented, and warnings, as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from common.data import is_main_process, write_atomically

__all__ = ["InferenceReport"]

logger = logging.getLogger(__name__)

_LARGEST_SHARE = 0.5  # of the scan, above which a label is implausible


class InferenceReport:
    """Write a JSON file with the volume of every label in every case, and warn of what is implausible.

    The processes of a distributed run write one file, in the order of their cases.

    Args:
        path: JSON file.
        labels: names of the labels by their value, background (0) included.
    """

    def __init__(self, path: str | Path, labels: Mapping[int, str]) -> None:
        self.path = Path(path)
        self.names = {value: name for value, name in labels.items() if value}
        self.cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.cases = []

    def _collect(self, engine: Engine) -> None:
        for output in engine.state.output:
            prediction = output["pred"]
            milliliters = abs(np.linalg.det(np.asarray(prediction.affine)[:3, :3])) / 1000
            counts = np.bincount(np.asarray(prediction.cpu()).ravel(), minlength=max(self.names) + 1)
            volumes = {name: round(float(counts[value] * milliliters), 3) for value, name in self.names.items()}
            shares = {name: counts[value] / counts.sum() for value, name in self.names.items()}
            warnings = [
                f"{name} fills {share:.0%} of the scan" for name, share in shares.items() if share > _LARGEST_SHARE
            ]
            if counts[1:].sum() == 0:
                warnings.append("nothing was segmented")
            source = str(prediction.meta["filename_or_obj"])
            for warning in warnings:
                logger.warning("%s: %s", source, warning)
            warnings = [*filter(None, str(prediction.meta.get("warnings", "")).split("; ")), *warnings]
            self.cases.append({"image": source, "status": "segmented", "volumes_ml": volumes, "warnings": warnings})

    def _write(self, engine: Engine) -> None:
        rows = string_list_all_gather([json.dumps(case) for case in self.cases])
        cases = [json.loads(row) for row in rows if row]  # a process may have none
        if others := getattr(engine.state, "refused", []):
            cases = sorted([*cases, *others], key=lambda case: case["image"])
        if is_main_process():
            text = json.dumps({"cases": cases}, indent=1) + "\n"
            write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))
            segmented = sum(case.get("status") == "segmented" for case in cases)
            logger.info("segmented %d of %d case(s); report: %s", segmented, len(cases), self.path)
