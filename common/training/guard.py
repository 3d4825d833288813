"""Stop where going on would do harm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

__all__ = ["StopOnNonFiniteLoss"]


class StopOnNonFiniteLoss:
    """End the training at the first loss that is NaN or infinite, before it reaches the weights.

    Raises:
        FloatingPointError: naming the epoch and the cases of the minibatch.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        loss = engine.state.output["loss"]
        if not torch.isfinite(loss):
            cases = list(_cases(engine.state.batch)) or "unknown"
            raise FloatingPointError(
                f"loss must be finite, got {loss.item()} in epoch {engine.state.epoch}; lower the learning rate, or "
                f"look at these cases: {cases}. The last good checkpoint was kept."
            )


def _cases(batch: Any) -> Iterator[str]:
    """Yield the files of a minibatch, or of several that have names."""
    if isinstance(batch, dict):
        yield from batch.get("case", [])
        for part in batch.values():
            yield from _cases(part)
