"""App of MONAI Label, which serves the bundles in its folder `model`; tools/label.sh puts it there.

It imports nothing of this repository, so that it runs where only MONAI Label and the bundles' packages are installed.
"""

from __future__ import annotations

import csv
import datetime
import functools
import importlib
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import monailabel
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.class_utils import unload_module
from monailabel.utils.others.generic import get_bundle_models
from strategy import NextScan
from validation import ValidationScans, write_json

logger = logging.getLogger(__name__)


class BundleApp(MONAILabelApp):
    """Serve the bundles that `--conf models` names; the first one describes the scans for the choice of the next."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles = get_bundle_models(app_dir, conf)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"Self-supervised bundles ({monailabel.__version__})",
            description="Segmentation with few labels",
            version=monailabel.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {name: PlainInferTask(folder, self.conf) for name, folder in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return the trainings of the bundles but for those, such as ensembles, that have none."""
        tasks = {name: FewLabelsTrainTask(folder, self.conf) for name, folder in self.bundles.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Strategy]:
        describer = functools.cache(functools.partial(_load_describer, next(iter(self.bundles.values()))))
        choosers = {criterion: NextScan(describer, criterion) for criterion in ("k_medoids", "k_center")}
        return {"random": Random(), "first": First(), **choosers}

    def info(self) -> dict[str, Any]:
        """Return what clients show; of the trainings the latest comes first, which is the one that Slicer shows."""
        info = super().info()
        stats = info["train_stats"]
        info["train_stats"] = dict(sorted(stats.items(), key=lambda item: -item[1].get("start_ts", 0)))
        return info


class PlainInferTask(BundleInferTask):
    """Segment with options that a client has sent: numbers and texts, of which nothing is evaluated."""

    def pre_transforms(self, data: Any = None) -> Any:
        """Return the preprocessing with the options of a request."""
        for name in getattr(self, "displayable_configs", ()):
            if not _is_plain(data[name]):
                raise ValueError(f"{name} must be a number or a text without $, @ or % in front, got {data[name]!r}")
        return super().pre_transforms(data)


class FewLabelsTrainTask(BundleTrainTask):
    """Train a bundle with the first label that there is, and with the scans that have none.

    The weights go on with the preprocessing that they have learned with. One or two labeled scans are trained and
    validated with; of more, those that are held out stay the same, see `ValidationScans`. Where a bundle learns from
    scans without labels, those of the server are its. Schedules are as long as the training.
    """

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        # the name that a client is offered is empty: sent back, all of the config would run, each training twice
        result = super().__call__({**request, "run_id": request.get("run_id") or "run"}, datastore)
        seconds = int(time.time() - self.started["start_ts"])
        write_json(self._stats_file, {**self.started, "total_time": str(datetime.timedelta(seconds=seconds))})
        return result

    def stats(self) -> dict[str, Any]:
        """Return how far the latest training is: epochs, and the best mean Dice of its validations, from 0 to 1."""
        if not self._stats_file.is_file():
            return {}
        stats = json.loads(self._stats_file.read_text(encoding="utf-8"))
        history = self._stats_file.with_name("history.csv")
        rows: list[dict[str, str]] = []
        if history.is_file() and history.stat().st_mtime >= stats["start_ts"]:  # not of the training before
            with history.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        scores = [float(row["mean_dice"]) for row in rows if row.get("mean_dice")]
        best = max(filter(math.isfinite, scores), default=0.0)
        return {**stats, "epoch": int(rows[-1]["epoch"]) if rows else 0, "best_metric": best}

    @property
    def _stats_file(self) -> Path:
        return Path(self.bundle_path, "models", "train_stats.json")

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        self.images = [{"image": datastore.get_image_uri(id)} for id in datastore.list_images()]
        return super()._fetch_datalist(request, datastore)

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: dict[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        cases = {Path(case["image"]).name: case for case in datalist}
        scans = ValidationScans(Path(self.bundle_path).parents[1] / "validation.json")
        names = scans.split([*cases], max(request.get("val_split", 0.2), 0))
        training, validation = ([cases[name] for name in part] for part in names)
        if training and validation:
            return training, validation
        logger.warning("%d labeled scan(s): the validation is on what is trained with", len(datalist))
        return datalist, datalist

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        weights = str(Path(self.bundle_path, "models", "model.pt"))
        config = self.bundle_config.config
        if "max_epochs" in config:
            overrides["max_epochs"] = overrides[self.const.key_train_trainer_max_epochs()]
            overrides["resume"] = False  # it starts from the served weights, whatever was interrupted
        else:  # an epoch takes in one scan, and there are as many as scans
            overrides[self.const.key_train_trainer_max_epochs()] = len(overrides[self.const.key_train_dataset_data()])
        total = overrides[self.const.key_train_trainer_max_epochs()]
        self.started = {"total_epochs": total, "start_ts": time.time()}
        write_json(self._stats_file, self.started)
        if "preprocessing_like" in config:
            overrides["preprocessing_like"] = weights
        elif "from_weights" in config.get("record", {}):
            overrides["record#from_weights"] = weights
        elif "fitted" in config:  # of a bundle that an earlier version has exported
            overrides["fitted#like"] = weights
        if "unlabeled_dataset" in config["train"]:
            overrides["train#unlabeled_dataset#data"] = self.images
        return overrides


def _is_plain(value: Any) -> bool:
    """Tell whether MONAI takes a value as it is: it evaluates text with a sign in front, and makes objects of dicts."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, bool | int | float)


def _load_describer(folder: str) -> Any:
    """Return what describes scans by the network of an exported bundle."""
    sys.path.insert(0, folder)
    unload_module("scripts")  # of another bundle
    try:
        return importlib.import_module("scripts.active_learning").load_describer(folder)
    finally:
        sys.path.remove(folder)
