"""Training of an atlas: the iteration that adds labeled volumes, and the checkpoint by which none is described twice.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from common.cli import check_flags
from common.data import check_classes, find_classes, is_main_process, write_atomically
from common.training import load_weights
from common.training.checkpoint import Conditions, finish_training, forget_training

from .atlas import PlanarAtlas

__all__ = ["AtlasCheckpoint", "AtlasUpdate"]

logger = logging.getLogger(__name__)


class AtlasUpdate:
    """Iteration of a training that adds labeled volumes to an atlas; nothing is optimized.

    It is the `iteration_update` of MONAI's `SupervisedTrainer`, whose network is a `PlanarAtlas`. Batches have `image`
    of shape `(B, C, H, W, D)` and `label` of shape `(B, 1 or 2, H, W, D)`; a volume is known by its file, and replaces
    what the atlas has of that. The numbers of volumes and of voxels of the atlas are left among the engine's metrics.
    After the last iteration, the atlas must have voxels of every class.

    Args:
        labels: names of the classes; one that no label has is warned of, see `check_classes`.
    """

    def __init__(self, labels: Mapping[int, str] | None = None) -> None:
        self.labels = labels
        self.found: set[int] = set()

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output of the iteration: the batch."""
        atlas: PlanarAtlas = getattr(engine.network, "module", engine.network)
        for case in decollate_batch(dict(batchdata)):
            image, label = (case[key].to(engine.state.device) for key in ("image", "label"))
            atlas.add(image, label, str(image.meta["filename_or_obj"]))
            self.found |= find_classes(label)
        engine.state.metrics.update(atlas_volumes=len(atlas.volume_ids), atlas_voxels=len(atlas.labels))
        if engine.state.iteration == engine.state.max_epochs * engine.state.epoch_length:
            if self.labels is not None:
                check_classes(self.found, self.labels, engine.state.iteration)
            atlas.check_classes()
        engine.state.output = {"image": batchdata["image"], "label": batchdata["label"]}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


class AtlasCheckpoint:
    """Checkpoint of an atlas, written after every epoch, from which volumes are taken over that are described already.

    An interrupted training goes on, and one with one more labeled volume describes only that. Image, label, choice of
    voxels and descriptor are compared, so that what is taken over is the same to the last bit.

    Args:
        path: file of the checkpoint, removed when the training ends, see `ResumableCheckpoint`.
        model_path: file of the atlas that an earlier training has left.
        network: `PlanarAtlas`.
        resume: take over volumes; otherwise describe all.
        settings: see `ResumableCheckpoint`, also for `data`.
    """

    def __init__(
        self,
        path: str | Path,
        model_path: str | Path,
        network: PlanarAtlas,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        check_flags(resume=resume)
        self.conditions = Conditions(settings, data)
        self.path = Path(path)
        self.model_path = Path(model_path)
        self.network = network
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.COMPLETED, self._forget)
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def _load(self, engine: Engine) -> None:
        if not self.resume and is_main_process():
            forget_training(self.path)
        for path in (self.model_path, self.path):
            if self.resume and path.is_file():
                number = self.network.recall(load_weights(path, has_record=False))
                logger.info("%s: %d described volumes are known", path, number)

    def _forget(self, engine: Engine) -> None:
        self.network.recalled.clear()

    def _save(self, engine: Engine) -> None:
        weights = self.network.state_dict()
        write_atomically(self.path, lambda path: torch.save(weights, path))

    def _finish(self, engine: Engine) -> None:
        finish_training(self.path, self.conditions, engine.state.epoch)
