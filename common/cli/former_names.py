"""Names that components had before the library had one folder for each paper, accepted with a word of warning."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pydoc import locate
from typing import Any

__all__ = ["update_names"]

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parents[1]
_RENAMED = {
    "CombinedLoader": "ParallelLoader",
    "DeviceCacheDataset": "ResidentVolumes",
    "DistributedSampler": "ShareSampler",
    "GrayValueDifference": "GreyValueDifference",
    "InvertLabelMapd": "RestoreLabelMapd",
    "InvertProbabilitiesd": "RestoreProbabilitiesd",
    "MetricsLogger": "TrainingRecord",
    "PatchAugmentation": "RandAffineGrid",
}
_NEW = {old: new for new, old in _RENAMED.items()}


def update_names(content: Any) -> bool:
    """Replace each `_target_` of a config that has moved by its present name, and tell whether there was one."""
    has_changed = False
    for component in _components(content):
        target = component["_target_"]
        if isinstance(target, str) and target.startswith(f"{_FOLDER.name}.") and locate(target) is None:
            name = target.rpartition(".")[2]
            found = _find(_NEW.get(name, name))
            if found is not None:
                logger.warning("%s is called %s now", target, found)
                component["_target_"] = found
                has_changed = True
    return has_changed


def _find(name: str) -> str | None:
    """Return where the library exports a name."""
    for folder in sorted(path.parent.name for path in _FOLDER.glob("*/__init__.py")):
        if hasattr(import_module(f"{_FOLDER.name}.{folder}"), name):
            return f"{_FOLDER.name}.{folder}.{name}"
    return None


def _components(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict) and "_target_" in content:
        yield content
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    for part in parts:
        yield from _components(part)
