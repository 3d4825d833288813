"""How well a network restores images that it has not seen.

Source: J. Dominic et al., arXiv 2022 (https://arxiv.org/abs/2210.07936), table 2
"""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from common.data import is_main_process, printable, write_atomically

__all__ = ["SaveRestorationErrors", "restoration_error"]

logger = logging.getLogger(__name__)

_COLUMNS = ("filename", "slice", "l2", "l2_corrupted")


def restoration_error(restored: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm of the difference of images, the mean over their channels.

    Args:
        restored: of shape `(B, C, H, W)`, in units of the standard deviation, to which images are normalized.
        original: of the same shape.

    Returns:
        Tensor of shape `(B,)`. The norm is over the pixels, so it grows with the square root of their number.
    """
    return (restored.float() - original.float()).flatten(2).norm(dim=2).mean(dim=1)


class SaveRestorationErrors:
    """Write `restoration_raw.csv`: a row for each image, with its error as it was restored and as it was corrupted.

    The evaluator's minibatches have `case` and `slice`, and its output `image` (corrupted), `pred` and `label`. The log
    has their means and standard deviations over all images, of all processes.

    Args:
        save_dir: folder for the file.
    """

    def __init__(self, save_dir: str | Path) -> None:
        self.save_dir = Path(save_dir)
        self.rows: list[list[Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.rows.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        errors = (restoration_error(output[key], output["label"]).tolist() for key in ("pred", "image"))
        self.rows += [[*row] for row in zip(batch["case"], batch["slice"].tolist(), *errors, strict=True)]

    def _write(self, engine: Engine) -> None:
        gathered = string_list_all_gather([json.dumps(row) for row in self.rows])
        if not is_main_process():
            return
        rows = sorted(json.loads(row) for row in {*gathered})  # processes may share images

        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                table = ([printable(name), index, f"{own:.6f}", f"{left:.6f}"] for name, index, own, left in rows)
                csv.writer(file).writerows([_COLUMNS, *table])

        path = write_atomically(self.save_dir / "restoration_raw.csv", write)
        errors = torch.tensor([row[2:] for row in rows], dtype=torch.float64)
        (own, left), (spread, spread_left) = errors.mean(0).tolist(), errors.std(0, correction=0).tolist()
        shown = f"L2 {own:.2f} ± {spread:.2f} over {len(rows)} images, left as they are {left:.2f} ± {spread_left:.2f}"
        logger.info("restoration: %s: %s", shown, path)
