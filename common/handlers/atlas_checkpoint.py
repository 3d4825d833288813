"""An atlas is not described twice."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from ignite.engine import Engine, Events

from common.atlas import PlanarAtlas
from common.networks import load_weights
from common.utils import check_flags, is_main_process, write_atomically

__all__ = ["AtlasCheckpoint"]

logger = logging.getLogger(__name__)


class AtlasCheckpoint:
    """Write the atlas after every epoch, and take over volumes that it, or an earlier atlas, has described already.

    So an interrupted training goes on, and one with one more labeled volume describes only that. What is taken over is
    the same to the last bit: image, label, choice of voxels and descriptor are compared.

    Args:
        path: file of the checkpoint, removed when the training ends.
        model_path: file of the atlas that an earlier training has left.
        network: `PlanarAtlas`.
        resume: take over volumes; otherwise describe all.

    Raises:
        TypeError: when `resume` is text.
        ValueError: when a file is damaged.
    """

    def __init__(self, path: str | Path, model_path: str | Path, network: PlanarAtlas, resume: bool = True) -> None:
        check_flags(resume=resume)
        self.path = Path(path)
        self.model_path = Path(model_path)
        self.network = network
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.COMPLETED, self._forget)
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
            engine.add_event_handler(Events.COMPLETED, self._remove)

    def _load(self, engine: Engine) -> None:
        for path in (self.model_path, self.path):
            if self.resume and path.is_file():
                number = self.network.recall(load_weights(path))
                logger.info("%s: %d described volumes are known", path, number)

    def _forget(self, engine: Engine) -> None:
        self.network.recalled.clear()

    def _save(self, engine: Engine) -> None:
        weights = self.network.state_dict()
        write_atomically(self.path, lambda path: torch.save(weights, path))

    def _remove(self, engine: Engine) -> None:
        self.path.unlink(missing_ok=True)
