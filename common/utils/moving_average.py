"""Averages that forget."""

from __future__ import annotations

__all__ = ["MovingAverage"]


class MovingAverage:
    """Exponential moving average that begins with its first value.

    Args:
        coefficient: weight of the past. The paper does not give it.
    """

    def __init__(self, coefficient: float = 0.93) -> None:
        if not 0 <= coefficient < 1:
            raise ValueError(f"coefficient must be in [0, 1), got {coefficient}")
        self.coefficient = coefficient
        self.value: float | None = None

    def update(self, value: float) -> float:
        """Take a value in and return the average."""
        past = value if self.value is None else self.value
        self.value = self.coefficient * past + (1 - self.coefficient) * value
        return self.value
