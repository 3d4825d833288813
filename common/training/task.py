"""Pretext tasks: what a network is shown of a minibatch, what it shall tell, and how wrong it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from monai.engines import PrepareBatch
from torch import nn

__all__ = ["BatchMaker", "PrepareTask", "PretextTask"]

Move = Callable[[torch.Tensor], torch.Tensor]


class BatchMaker(Protocol):
    """Task of any kind: it makes its input and its target."""

    def make_batch(self, batch: Mapping[str, Any], move: Move) -> tuple[Any, ...]: ...


class PretextTask:
    """Pretext task, whose target is made of the images themselves; a method has one subclass for each of its tasks.

    Args:
        network: that learns it.
        loss: of its output and the target.
        selection_loss: by which the weights of an epoch are chosen, on scans that are held out; `loss` if not given.
        handlers: of this task alone, such as its picture.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Any, Any], torch.Tensor],
        selection_loss: Callable[[Any, Any], torch.Tensor] | None = None,
        handlers: Sequence[Any] = (),
    ) -> None:
        self.network = network
        self.loss = loss
        self.selection_loss = loss if selection_loss is None else selection_loss
        self.handlers = list(handlers)

    def make_batch(self, batch: Mapping[str, Any], move: Move) -> tuple[Any, ...]:
        """Return what the network is shown, what it shall tell and, if it takes several tensors, a tuple of the others.

        Without a task of its own, these are the `image` and the `label` of the minibatch.

        Args:
            batch: of a loader.
            move: brings a tensor to the device of the network.
        """
        return move(batch["image"]), move(batch["label"])


class PrepareTask(PrepareBatch):
    """Minibatches for MONAI's engines, made by a task where the network is.

    Args:
        task: such as a `PretextTask`.
    """

    def __init__(self, task: BatchMaker) -> None:
        self.task = task

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return input and target and, where the network takes further tensors, these and no named arguments."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, non_blocking=non_blocking, **kwargs)

        image, target, *others = self.task.make_batch(batchdata, move)
        return (image, target, *others, {}) if others else (image, target)
