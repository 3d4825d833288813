"""Image of a case as it is in its file, for handlers that measure or draw it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from monai.data import MetaTensor

from common.data import LoadVolume

__all__ = ["original_image", "source_of"]

_KEY = "original"


def original_image(output: MutableMapping[str, Any]) -> MetaTensor:
    """Return the image of a case as its file has it, of shape `(C, H, W, D)`; of one in several files, the first.

    It is read once, and kept for the other handlers of the iteration.

    Args:
        output: of an evaluator for one case, with `pred`, whose metadata name the file.
    """
    if _KEY not in output:
        meta = output["pred"].meta
        output[_KEY] = LoadVolume(allow_2d=True, series=meta.get("series") or None)(source_of(meta))
    return output[_KEY]


def source_of(meta: Mapping[str, Any]) -> str:
    """Return the path of the file of an image, from its metadata."""
    return str(meta["filename_or_obj"])
