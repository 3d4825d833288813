"""Trainers of nnU-Net that end after some time. They import nnU-Net, which only its own environment has.

Source: F. Isensee, P. Jaeger, S. Kohl, J. Petersen, K. Maier-Hein, *nnU-Net: a self-configuring method for deep
learning-based biomedical image segmentation*, Nature Methods 2021 (https://doi.org/10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)

from common.training import has_bfloat16

__all__ = ["QuickTrainer", "TimedTrainer"]

_EXPONENT = 0.9  # of nnU-Net's polynomial schedule


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, whose polynomial schedule runs over CPU time or steps in place of 1,000 epochs of 250 steps.

    Nothing is validated meanwhile, as nnU-Net's choice of weights is that of the last step.

    Attributes:
        seconds: CPU time of the steps, of all threads; the step that passes it is the last one.
        max_steps: number of steps in its place, if it is not None.
        steps: how many were made.
    """

    seconds: float
    max_steps: int | None
    steps: int

    def run_training(self) -> None:
        self.on_train_start()
        self.network.train()
        began, self.steps = time.process_time(), 0
        while (share := self._share(began)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - share) ** _EXPONENT
            self.train_step(next(self.dataloader_train))
            self.steps += 1

    def _share(self, began: float) -> float:
        """Return how much of the training is done."""
        if self.max_steps is not None:
            return self.steps / self.max_steps
        return (time.process_time() - began) / self.seconds


class QuickTrainer(TimedTrainer, nnUNetTrainerNoMirroring):
    """Trainer for few steps: AdamW in place of a momentum of 0.99, bfloat16 where there is, and no mirroring."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        self.initial_lr = 1e-3  # as in nnUNetTrainerAdam1en3
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, amsgrad=True
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def train_step(self, batch: dict) -> dict:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=has_bfloat16(self.device)):
            outputs = self.network(batch["data"].to(self.device))
        loss = self.loss([output.float() for output in outputs], [target.to(self.device) for target in batch["target"]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.item()}
