"""App of MONAI Label, which serves the bundles in its folder `model`; tools/label.sh puts it there.

It imports nothing of this repository, so that it runs where only MONAI Label and the bundles' packages are installed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
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
        return {name: BundleInferTask(folder, self.conf) for name, folder in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {name: FewLabelsTrainTask(folder, self.conf) for name, folder in self.bundles.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        describer = functools.cache(functools.partial(_load_describer, next(iter(self.bundles.values()))))
        choosers = {criterion: NextScan(describer, criterion) for criterion in ("k_medoids", "k_center")}
        return {"random": Random(), "first": First(), **choosers}


class FewLabelsTrainTask(BundleTrainTask):
    """Train a bundle with the first label that there is, and with the scans that have none.

    The weights go on with the preprocessing that they have learned with. A single labeled scan is trained and validated
    with. Where a bundle learns from scans without labels, those of the server are its. Schedules are as long as the
    training.
    """

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        # the name that a client is offered is empty: sent back, all of the config would run, each training twice
        return super().__call__({**request, "run_id": request.get("run_id") or "run"}, datastore)

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        self.images = [{"image": datastore.get_image_uri(id)} for id in datastore.list_images()]
        return super()._fetch_datalist(request, datastore)

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: dict[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        training, validation = super()._partition_datalist(datalist, request, shuffle)
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
        if "preprocessing_like" in config:
            overrides["preprocessing_like"] = weights
        elif "from_weights" in config.get("record", {}):
            overrides["record#from_weights"] = weights
        elif "fitted" in config:  # of a bundle that an earlier version has exported
            overrides["fitted#like"] = weights
        if "unlabeled_dataset" in config["train"]:
            overrides["train#unlabeled_dataset#data"] = self.images
        return overrides


def _load_describer(folder: str) -> Any:
    """Return what describes scans by the network of an exported bundle."""
    sys.path.insert(0, folder)
    unload_module("scripts")  # of another bundle
    try:
        return importlib.import_module("scripts.active_learning").load_describer(folder)
    finally:
        sys.path.remove(folder)
