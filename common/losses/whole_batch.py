"""The loss of a minibatch that is spread over several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["WholeBatchLoss"]


class WholeBatchLoss(nn.Module):
    """A loss of the minibatches of all processes, as if they were one.

    A Dice loss over a minibatch is not the mean of those of its parts. Each process computes it from the predictions of
    all, and has the gradient of its own, times the number of processes: `DistributedDataParallel` takes the mean.

    Args:
        loss: takes predictions and targets, tensors whose first axis is the minibatch or lists of them. The processes'
            must have the same shapes.
    """

    def __init__(self, loss: Callable[[Any, Any], torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Any, target: Any) -> torch.Tensor:
        """Return the scalar loss, the same in all processes."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.loss(input, target)
        loss = self.loss(_gather(input), _gather(target))
        others = dist.get_world_size() - 1
        return loss + others * (loss - loss.detach())


def _gather(item: torch.Tensor | Sequence[torch.Tensor]) -> Any:
    """Return the tensors of all processes as one; only that of this process has a gradient."""
    if not isinstance(item, torch.Tensor):
        return [_gather(part) for part in item]
    own = item.contiguous() if item.is_floating_point() else item.long()  # no backend has all types of whole numbers
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.detach())
    parts[dist.get_rank()] = own
    return torch.cat(parts)
