"""Preprocessing that takes its scale from an organ in each scan."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import RANDOM, is_scratch
from common.data.record import PREPROCESSING_FILE, load_record

__all__ = ["OrganPreprocessing", "load_organ_preprocessing", "make_organ_preprocessing"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OrganPreprocessing:
    """What a network's input looks like.

    Attributes:
        spacing: edges of a voxel in mm, see `VoxelSpacingd`.
        clip: lower and upper intensity, see `NormalizeByOrgand`.
        organ: how the organ is found where no mask is given, see `FindOrgand`.
        modality: of the scans, such as MRI.
        labels: names of the classes by their value.
    """

    spacing: list[float] | None
    clip: list[float] | None
    organ: str
    modality: str
    labels: dict[int, str]


def make_organ_preprocessing(
    like: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    clip: Sequence[float] | None = None,
    organ: str = "given",
    modality: str = "",
    labels: Mapping[int, str] | None = None,
) -> OrganPreprocessing:
    """Return the preprocessing of a training, which `SaveBest` stores beside the weights.

    Args:
        like: file of pretrained weights, beside which that of the pretraining is stored: it must be the same, since the
            weights expect it. `None`, `null` or `random`: nothing is compared.
        spacing: see `OrganPreprocessing`.
        clip: see `OrganPreprocessing`.
        organ: see `OrganPreprocessing`.
        modality: see `OrganPreprocessing`.
        labels: see `OrganPreprocessing`.

    Raises:
        FileNotFoundError: when there is none beside the pretrained weights.
        ValueError: when it differs from that of the pretraining.
    """
    wanted = OrganPreprocessing(
        spacing=None if spacing is None else [float(edge) for edge in spacing],
        clip=None if clip is None else [float(bound) for bound in clip],
        organ=organ,
        modality=modality,
        labels=dict(labels or {}),
    )
    if like != RANDOM and not is_scratch(like):
        stored = load_organ_preprocessing(str(like))
        for name in ("spacing", "clip", "organ"):
            expected, found = getattr(stored, name), getattr(wanted, name)
            if expected != found:
                raise ValueError(f"{name} must be that of the pretraining of {like}, {expected}, got {found}")
    logger.info("preprocessing: %s", wanted)
    return wanted


def load_organ_preprocessing(weights: str | Path) -> OrganPreprocessing:
    """Read what is stored beside weights.

    Args:
        weights: file of weights, beside which the preprocessing lies.

    Raises:
        FileNotFoundError: when the folder has none.
        ValueError: when the file is damaged.
    """
    return load_record(Path(weights).parent / PREPROCESSING_FILE, "preprocessing", _build)


def _build(stored: dict[str, Any]) -> OrganPreprocessing:
    labels = {int(value): str(name) for value, name in stored["labels"].items()}
    return dataclasses.replace(OrganPreprocessing(**stored), labels=labels)
