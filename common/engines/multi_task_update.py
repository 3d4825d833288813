"""One iteration of multi-task learning (S-MTL).

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer

from common.losses import TaskWeight
from common.utils import check_flags

from .prepare_patches import PreparePatches

__all__ = ["MultiTaskUpdate"]


class MultiTaskUpdate:
    """Segment labeled patches, reconstruct unlabeled ones, and step on `segmentation + gamma * reconstruction`.

    It is the `iteration_update` of MONAI's trainer, whose network is a `MultiTaskFNet`, whose loss function is that of
    the segmentation, and whose batches are mappings with `labeled` and `unlabeled`. Without `unlabeled`, an iteration
    is one of F-Net alone. It leaves in the engine's output `image`, `label`, `pred`, `original` and `reconstruction`
    (a list, one for each level), `loss`, `segmentation_loss`, `reconstruction_loss` and `gamma`.

    Args:
        reconstruction_loss: takes the list of reconstructions and that of their originals.
        task_weight: gives gamma.
        levels: those of the network.
        alternate: step twice, F-Net on its loss and then the autoencoders on theirs, each with an optimizer of its own,
            so that the shared weights move in turn.
        autoencoder_optimizer: second optimizer; its learning rate follows that of the trainer's.

    Raises:
        TypeError: when `alternate` is text.
        ValueError: when it is true and there is no second optimizer.
    """

    def __init__(
        self,
        reconstruction_loss: nn.Module,
        task_weight: TaskWeight,
        levels: Sequence[int],
        alternate: bool = False,
        autoencoder_optimizer: Optimizer | None = None,
    ) -> None:
        check_flags(alternate=alternate)
        if alternate and autoencoder_optimizer is None:
            raise ValueError("autoencoder_optimizer must be an optimizer when alternate is true, got None")
        self.reconstruction_loss = reconstruction_loss
        self.task_weight = task_weight
        self.levels = tuple(levels)
        self.alternate = alternate
        self.autoencoder_optimizer = autoencoder_optimizer
        self.prepare_unlabeled = PreparePatches(reconstruct=True)

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output of the iteration."""
        where = (engine.state.device, engine.non_blocking)
        image, label, context, _ = engine.prepare_batch(batchdata["labeled"], *where, **engine.to_kwargs)
        originals: list[torch.Tensor] = []
        if "unlabeled" in batchdata:
            _, patches, _, _ = self.prepare_unlabeled(batchdata["unlabeled"], *where, **engine.to_kwargs)
            originals = [patches[level] for level in self.levels]
        output = engine.state.output = {"image": image, "label": label, "original": originals}

        engine.network.train()
        if originals and not self.alternate:
            output["pred"], *output["reconstruction"] = engine.inferer(
                image, engine.network, *context, unlabeled=originals
            )
            segmentation_loss = self._segmentation_loss(engine)
            self._step(engine, engine.optimizer, segmentation_loss + self._reconstruction_loss(engine))
        else:
            output["pred"] = engine.inferer(image, engine.network, *context)
            self._step(engine, engine.optimizer, self._segmentation_loss(engine))
        if originals and self.alternate:
            output["reconstruction"] = engine.inferer(
                originals[0], lambda *patches: engine.network(unlabeled=patches), *originals[1:]
            )
            self._step(engine, self._following(engine.optimizer), self._reconstruction_loss(engine))
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _segmentation_loss(self, engine: SupervisedTrainer) -> torch.Tensor:
        output = engine.state.output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss = engine.loss_function(output["pred"], output["label"])
        output["segmentation_loss"] = loss.detach()
        return loss

    def _reconstruction_loss(self, engine: SupervisedTrainer) -> torch.Tensor:
        """Return the loss times gamma."""
        output = engine.state.output
        loss = self.reconstruction_loss(output["reconstruction"], output["original"])
        output["reconstruction_loss"] = loss.detach()
        output["gamma"] = self.task_weight.update(output["segmentation_loss"], output["reconstruction_loss"])
        return output["gamma"] * loss

    def _step(self, engine: SupervisedTrainer, optimizer: Optimizer, loss: torch.Tensor) -> None:
        output = engine.state.output
        output["loss"] = output.get("loss", 0) + loss.detach()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        optimizer.zero_grad()
        loss.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        optimizer.step()

    def _following(self, optimizer: Optimizer) -> Optimizer:
        """Return the second optimizer, at the learning rate of the first."""
        follower: Any = self.autoencoder_optimizer
        for group in follower.param_groups:
            group["lr"] = optimizer.param_groups[0]["lr"]
        return follower
