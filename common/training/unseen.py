"""Guard of an evaluation against scans that the weights have seen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from common.cli import InputError
from common.data import Cases, Item, Record, fingerprint, is_main_process

__all__ = ["RefuseLearnedCases", "refuse_learned_scans", "warn_of_learned_validation"]

logger = logging.getLogger(__name__)


class RefuseLearnedCases:
    """Guard that refuses a scan that the weights were trained on, when it is read and before it is segmented.

    A `CaseEvaluator` leaves it out, with the reason, and scores the others. Scans are told by the checksum of their
    voxels, whatever their files are called. A case that serves both for
    training and for validation, since there is no other one with a label, is only warned of.

    Args:
        record: of the weights.
        split: cases that are evaluated; among those of the `training`, none is refused.
        cases: of the data set.
    """

    def __init__(self, record: Record, split: str, cases: Cases) -> None:
        self.names = {checksum: name for name, checksum in record.learned_from.items()} if split != "training" else {}
        shared = [case for case in cases.validation if case in cases.training] if split == "validation" else []
        self.shared = {str(ensure_tuple(case["image"])[0]) for case in shared}

    def attach(self, engine: Engine) -> None:
        # in the turn of each scan: to look ahead is to read all of them twice, 2 s for a CT of 40 MB
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        meta = engine.state.batch["image"].meta
        files, checksums = ensure_tuple(meta["filename_or_obj"]), ensure_tuple(meta["fingerprint"])
        for path, checksum in zip(files, checksums, strict=True):
            self.check(path, checksum)

    def check(self, path: str, checksum: str) -> None:
        """Refuse a scan, or warn of it, by the checksum of its voxels."""
        if checksum in self.names and path in self.shared:
            logger.warning(
                "%s: serves for training and for validation, so that its score tells nothing of new scans; label "
                "another one",
                path,
            )
        elif checksum in self.names:
            raise InputError(
                f"{path}: must not be among the scans that the weights were trained on ({self.names[checksum]}), "
                "since its score would tell nothing of new scans; take it out of the data list, or pass --split "
                "training"
            )


def refuse_learned_scans(record: Record, data: Sequence[Item]) -> None:
    """Refuse scans that weights have learned from, with or without labels, by the checksum of their voxels.

    Args:
        record: of the weights.
        data: cases, each with `image`.

    Raises:
        ValueError: at the first scan that is among them.
    """
    names = {checksum: name for name, checksum in record.learned_from.items()}
    for case in data:
        if (name := names.get(fingerprint(case["image"]))) is not None:
            path = ensure_tuple(case["image"])[0]
            raise InputError(
                f"{path}: must not be among the scans that the weights were trained on ({name}), since its score would "
                "tell nothing of new scans; take it out of the data list, or pass another --split"
            )


def warn_of_learned_validation(record: Record, data: Sequence[Item]) -> None:
    """Warn of validation cases that the weights with which a training begins, or its teachers, have learned from.

    Their voxels are looked at only where there are such weights.

    Args:
        record: of the training, before it is saved.
        data: validation cases, each with `image`.
    """
    names = {checksum: name for name, checksum in record.learned_from.items()}
    for case in data if names and is_main_process() else ():
        if (name := names.get(fingerprint(case["image"]))) is not None:
            logger.warning(
                "%s: the weights with which the training begins, or its teachers, have learned from this validation "
                "case (%s), so that its score is too good to choose the best weights by; pass the --fold of their "
                "training, or label another one",
                ensure_tuple(case["image"])[0],
                name,
            )
