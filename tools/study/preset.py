"""Presets of a study: what a data set and a budget of time make of one.

A preset is a study file in `tools/study/presets` whose `{words}` stand for values that follow from the data and from
the minutes. The values:

- label counts 1, 2, 4, ... up to what every fold leaves; the folds are those of the data set, five at most;
- intensities and voxel sizes that suit its modality and the size of its scans, see `describe`;
- the length of the trainings, see `fit_budget`: every arm runs once for two epochs, with one label, and is timed.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from common.cli import InputError
from tools._command import find_bundle
from tools.study.conduct import jobs_of, read_record
from tools.study.leaks import check_leaks
from tools.study.plan import Job, Run, Study, check_known, plan_runs, read_study

__all__ = [
    "Cost",
    "Facts",
    "describe",
    "fill",
    "fit_budget",
    "list_presets",
    "make_plan",
    "plan_path",
    "read_facts",
    "time_arms",
]

_PRESETS = Path(__file__).with_name("presets")
MAX_FOLDS = 5
MAX_SCORED = 16  # held-out scans of a fold that are scored
LEAST_EPOCHS, MOST_EPOCHS = 8, 64  # of 25 steps: 200 to 1600, where few labels saturate
LEAST_FOLDS, LEAST_COUNTS = 3, 2
_TIMED_EPOCHS = 2
_MAX_VOXELS = 2e6  # of a scan that a network of small.yaml trains on: 128 x 128 x 128
_FIELD_MM = 309.0  # longest side of the atlas's field of view
_FIELD_VOXELS = 103  # along it
_SMALL_MM = 150.0  # side below which a scan is a crop already, and is taken whole


@dataclass(frozen=True)
class Facts:
    """What a study needs to know of a data set.

    Args:
        folds: numbers of its folds.
        num_left: labeled training cases that every fold leaves.
        num_scored: labeled cases that the largest fold holds out.
        num_unlabeled: scans without a label that every fold leaves.
        is_ct: whether a channel is a CT.
        extent: smallest extent of the labeled scans along the patient's axes, in mm.
        largest: volume of the largest labeled scan in mm^3.
        voxel: median over the scans of the smallest edge of a voxel in mm.
    """

    name: str
    folds: list[int]
    num_left: int
    num_scored: int
    num_unlabeled: int
    is_ct: bool
    extent: tuple[float, float, float]
    largest: float
    voxel: float


@dataclass(frozen=True)
class Cost:
    """Time of all arms with one label count in one draw: `fixed + epochs * epoch` seconds."""

    fixed: float
    epoch: float


def list_presets() -> list[str]:
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def plan_path(output_dir: str | Path) -> Path:
    """Return the study file that a preset leaves in its output folder."""
    return Path(output_dir) / "study.yaml"


def read_facts(dataset_dir: str | Path, needs_fold: bool = True) -> Facts:
    """Read `dataset.json` and the headers of its files.

    Args:
        dataset_dir: folder of the data set.
        needs_fold: refuse a data set of which nothing can be held out.

    Raises:
        FileNotFoundError: when the file or one that it lists is missing.
        ValueError: when nothing is left to train on where a fold is held out.
    """
    import numpy as np
    from nibabel.orientations import io_orientation

    from common.data import check_header, image_files, is_ct, read_cases, read_dataset_file

    path = Path(dataset_dir).expanduser().absolute() / "dataset.json"
    listed = read_dataset_file(path)
    patients = {case.patient or str(case.item["image"]) for case in listed.training}
    folds = [0] if listed.validation else list(range(len(listed.folds)))
    folds = folds or sorted({case.fold for case in listed.training if case.fold is not None})
    folds = folds or list(range(min(MAX_FOLDS, len(patients))))
    if needs_fold and len(patients) + bool(listed.validation) < 2:
        raise InputError(
            f"{path}: training must list labels of two patients or more, so that one can be held out, got "
            f"{len(patients)}; label another scan"
        )
    by_fold = [read_cases(dataset_dir, fold) for fold in folds]
    headers = [check_header(image_files(case.item)[0]) for case in (*listed.training, *listed.validation)]
    extents = np.empty((len(headers), 3))
    for row, header in zip(extents, headers, strict=True):
        row[io_orientation(header.affine)[:, 0].astype(int)] = np.multiply(header.shape, header.spacing)
    x, y, z = extents.min(axis=0).tolist()
    return Facts(
        name=listed.name,
        folds=folds,
        num_left=min(len(cases.training) for cases in by_fold),
        num_scored=max(len(cases.validation) for cases in by_fold),
        num_unlabeled=min(len(cases.unlabeled) for cases in by_fold),
        is_ct=any(map(is_ct, listed.modality)),
        extent=(x, y, z),
        largest=float(extents.prod(axis=1).max()),
        voxel=statistics.median(min(header.spacing) for header in headers),
    )


def describe(facts: Facts) -> dict[str, Any]:
    """Return what the data set makes of a preset's words.

    A CT keeps the bundles' thresholds in HU; other modalities have none. Networks see voxels of the scans' own size, or
    larger ones where a scan has more than 2 million. An atlas sees 103 voxels along the longest side of its field of
    view, which is what all scans show, 309 mm at most; scans of 150 mm or less are taken whole. Of a data set with
    labels alone, one training case stays unlabeled, for the arms that have teachers; where there is but one, these are
    left out.
    """
    most = facts.num_left if facts.num_unlabeled else max(1, facts.num_left - 1)
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    coarse = (facts.largest / _MAX_VOXELS) ** (1 / 3)
    is_crop = max(facts.extent) <= _SMALL_MM
    field = [round(min(_FIELD_MM, side), 1) for side in facts.extent]
    edge = max(field) / _FIELD_VOXELS
    return {
        "num_labeled": counts,
        "has_unlabeled": bool(facts.num_unlabeled) or facts.num_left > 1,
        "folds": facts.folds,
        "num_validation": min(MAX_SCORED, facts.num_scored),
        "air": -500 if facts.is_ct else None,
        "spacing": round(coarse, 2) if coarse > facts.voxel else None,
        "atlas_clip": [-160, 300] if facts.is_ct else None,
        "field_of_view": None if is_crop else field,
        "atlas_spacing": round(max(edge, facts.voxel), 2),
        "sampling": "nearest" if edge >= facts.voxel else "bilinear",
    }


def fit_budget(
    cost: Cost, seconds: float, counts: Sequence[int], folds: Sequence[int]
) -> tuple[list[int], list[int], int]:
    """Return label counts, folds and epochs of a training that fit a time.

    The trainings become as long as the time allows, 64 epochs at most. Where they would be shorter than 8 epochs, folds
    are left out, down to three, and then the largest label counts, down to two.

    Args:
        cost: of a run of every arm.
        seconds: of the whole study.
        counts: label counts wanted.
        folds: folds wanted.
    """
    least_counts, least_folds = min(LEAST_COUNTS, len(counts)), min(LEAST_FOLDS, len(folds))
    for num_counts in range(len(counts), least_counts - 1, -1):
        for num_folds in range(len(folds), least_folds - 1, -1):
            epochs = (seconds / (num_counts * num_folds) - cost.fixed) / max(cost.epoch, 1e-9)
            if epochs >= LEAST_EPOCHS:
                return [*counts[:num_counts]], [*folds[:num_folds]], int(min(epochs, MOST_EPOCHS))
    return [*counts[:least_counts]], [*folds[:least_folds]], LEAST_EPOCHS


def time_arms(runs: Sequence[Run]) -> Cost:
    """Return the cost of finished runs of every arm with one label count in one draw."""
    jobs = jobs_of(runs)
    seconds = sum(read_record(job.done_path)["seconds"] for job in jobs)
    epoch = sum(_epoch_seconds(job) for job in jobs)
    return Cost(max(0.0, seconds - _TIMED_EPOCHS * epoch), epoch)


def make_plan(
    preset: str,
    dataset_dir: str,
    output_dir: str,
    minutes: float,
    workers: int,
    run: Callable[[Study], bool],
) -> Path:
    """Write `study.yaml` of a preset into `output_dir`, and return its path.

    Args:
        preset: name of a file in `tools/study/presets`.
        minutes: of the whole study, of which the timing takes a part.
        workers: number of runs at a time.
        run: runs the study that times the arms, and tells whether all its jobs are finished.
    """
    from common.data import write_atomically

    facts = read_facts(dataset_dir)
    values = describe(facts) | {
        "name": f"{preset}: {facts.name}",
        "dataset_dir": str(Path(dataset_dir).expanduser().absolute()),
        "output_dir": str(Path(output_dir).absolute()),
    }
    timing = timing_study(preset, values)
    check_leaks(replace(timing, folds=facts.folds))
    if not run(timing):
        raise InputError(
            f"{timing.output_dir}: every arm must run once to be timed, got a failure; read the logs there"
        )
    runs = plan_runs(timing)
    cost = time_arms(runs)
    spent = sum(read_record(job.done_path)["seconds"] for job in jobs_of(runs))
    left = max(0.0, 60 * minutes - spent) * workers
    counts, folds, epochs = fit_budget(cost, left, values["num_labeled"], values["folds"])
    content = fill(preset, values | {"num_labeled": counts, "folds": folds, "epochs": epochs})
    note = (
        f"# Made by: python -m tools.study --preset {preset} --dataset_dir {dataset_dir} --minutes {minutes:g}\n"
        f"# All arms with one label count in one draw take {cost.fixed:.0f} s, and {cost.epoch:.2f} s per epoch.\n"
        f"# {len(counts)} label counts x {len(folds)} draws of {epochs} epochs take about "
        f"{len(counts) * len(folds) * (cost.fixed + epochs * cost.epoch) / workers / 60:.0f} min.\n"
    )
    text = note + yaml.safe_dump(content, sort_keys=False, width=110)
    return write_atomically(plan_path(output_dir), partial(Path.write_text, data=text, encoding="utf-8"))


def timing_study(preset: str, values: Mapping[str, Any]) -> Study:
    """Return the study that times every arm: two epochs, one label, the first fold."""
    folder = Path(values["output_dir"]) / "timing"
    first = {name: values[name][:1] for name in ("num_labeled", "folds")}
    content = fill(preset, {**values, **first, "output_dir": str(folder), "epochs": _TIMED_EPOCHS})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_study(folder / "study.yaml")


def _epoch_seconds(job: Job) -> float:
    """Return the seconds of the last epoch of a training whose length the preset sets; 0 of other jobs."""
    history = job.folder / "history.csv"
    if "max_epochs" not in job.options or job.run_id == "evaluation" or not history.is_file():
        return 0.0
    with history.open(encoding="utf-8", newline="") as file:
        return float([*csv.DictReader(file)][-1]["seconds"])


def fill(preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a preset with values in the place of its words, and bundles by their path.

    Arms with teachers are left out where no scan is without a label.
    """
    check_known(preset, list_presets(), "preset")

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(item) for key, item in value.items()}
        if isinstance(value, list):
            return [put(item) for item in value]
        is_word = isinstance(value, str) and value.startswith("{") and value.endswith("}")
        return values.get(value[1:-1], value) if is_word else value

    content = put(yaml.safe_load((_PRESETS / f"{preset}.yaml").read_text(encoding="utf-8")))
    if not values["has_unlabeled"]:
        content["arms"] = {name: arm for name, arm in content["arms"].items() if "teachers" not in arm}
    for entry in (content, *content["arms"].values(), *content.get("pretrainings", {}).values()):
        if "bundle" in entry:
            entry["bundle"] = str(find_bundle(Path(entry["bundle"]).name))
    return content
