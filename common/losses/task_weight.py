"""The weight between the losses of two tasks.

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from common.utils import MovingAverage

__all__ = ["TaskWeight"]


class TaskWeight:
    """The factor gamma of the second of two losses: a number, or one that makes both equally large.

    Over the first iterations gamma is the ratio of the losses' moving averages; then it keeps the value it has. The
    processes of a distributed run average their losses first, so that all have the same gamma. The paper says that
    gamma equalizes the magnitudes of the losses, not how.

    Args:
        gamma: a number, or `balance`.
        num_iterations: over which the losses are balanced.
        coefficient: weight of the past in the moving averages.

    Attributes:
        value: gamma; 1 before the first iteration of a balance.

    Raises:
        ValueError: when gamma is neither a number from 0 nor `balance`, or another argument is out of range.
    """

    def __init__(self, gamma: float | str = "balance", num_iterations: int = 100, coefficient: float = 0.93) -> None:
        is_number = isinstance(gamma, (int, float)) and not isinstance(gamma, bool)
        if gamma != "balance" and not (is_number and 0 <= float(gamma) < math.inf):
            raise ValueError(f"gamma must be a number from 0, or balance, got {gamma!r}")
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
        self.value = 1.0 if gamma == "balance" else float(gamma)
        self.remaining = num_iterations if gamma == "balance" else 0
        self.averages = (MovingAverage(coefficient), MovingAverage(coefficient))

    def update(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """Take in the losses of an iteration and return gamma.

        Args:
            first: scalar loss of the main task.
            second: scalar loss of the other task.
        """
        if self.remaining > 0:
            self.remaining -= 1
            losses = torch.stack([first.detach(), second.detach()]).double()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(losses)  # of sums the ratio is the same as of means
            means = [average.update(loss) for average, loss in zip(self.averages, losses.tolist(), strict=True)]
            self.value = means[0] / max(means[1], 1e-12)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "remaining": self.remaining,
            "averages": [average.value for average in self.averages],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.remaining = state["value"], state["remaining"]
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.value = value
