"""A last validation, whenever a training ends."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator

__all__ = ["ValidateAtEnd"]


class ValidateAtEnd:
    """Run an evaluator after the last epoch, unless that epoch was validated already.

    Otherwise a training shorter than the validation interval would leave no weights.

    Args:
        validator: evaluator to run.
    """

    def __init__(self, validator: Evaluator) -> None:
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)
