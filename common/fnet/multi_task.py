"""F-Net and winner-take-all autoencoders trained together, with the convolutions they share (S-MTL).

Source: C. Sital et al., arXiv 2020 (https://arxiv.org/abs/2003.07923)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer

from common.cli import InputError, check_each, check_flags
from common.cli.options import INT, NON_NEGATIVE, POSITIVE_INT
from common.training import MovingAverage, PrepareTask

from .autoencoder import WTAAutoencoder
from .network import FNet
from .patches import PatchReconstruction

__all__ = ["MultiTaskFNet", "MultiTaskUpdate", "TaskWeight"]


class MultiTaskFNet(nn.Module):
    """F-Net, and for some of its levels an autoencoder whose encoder has the very convolutions of F-Net's pathway.

    The decoders are the autoencoders' own, and so are the batch norms unless they are tied: labeled and unlabeled
    patches differ in where they lie, and so do the statistics of their features.

    Args:
        network: F-Net; inference needs nothing else.
        levels: levels of F-Net that share their convolutions, in increasing order; the paper's are 0 and 1.
        num_winners: activations that an autoencoder keeps of each map and sample.
        tie_norm: share the batch norms, too. The paper does not give it.

    Attributes:
        fnet: the network.
        autoencoders: one `WTAAutoencoder` for each of `levels`.
    """

    def __init__(
        self, network: FNet, levels: Sequence[int] = (0, 1), num_winners: int = 5, tie_norm: bool = False
    ) -> None:
        super().__init__()
        check_flags(tie_norm=tie_norm)
        check_each(INT.list, levels=levels)
        existing = list(range(network.geometry.num_levels))
        if not levels or list(levels) != [level for level in existing if level in levels]:
            raise InputError(f"shared_levels must be some of {existing}, each once and in order, got {list(levels)}")
        self.levels = tuple(levels)
        self.fnet = network
        self.autoencoders = nn.ModuleList()
        for level in self.levels:
            pathway = network.pathway(level)
            features, kernel_size = pathway[0].conv.out_channels, network.geometry.kernel_size
            autoencoder: Any = WTAAutoencoder(network.in_channels, features, kernel_size, num_winners)
            for block, shared in zip(autoencoder.encoder, pathway, strict=True):
                block.conv = shared.conv
                if tie_norm:
                    block.adn = shared.adn
            self.autoencoders.append(autoencoder)

    def forward(
        self,
        image: torch.Tensor | None = None,
        context: list[torch.Tensor] | None = None,
        unlabeled: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor | list[torch.Tensor]:
        """Segment patches, reconstruct others, or both in one pass.

        Args:
            image: see `FNet`; None to reconstruct only.
            context: see `FNet`.
            unlabeled: patch of each of `levels`, of shape `(B, C, H, W, D)`; none to segment only.

        Returns:
            The logits when there is nothing to reconstruct; otherwise a list: the logits, if there are patches to
            segment, and then the reconstruction of each level.
        """
        if not unlabeled:
            return self.fnet(image, context)
        if len(unlabeled) != len(self.levels):
            raise InputError(
                f"unlabeled must be one patch for each of the levels {self.levels}, got {len(unlabeled)} patches"
            )
        reconstructions = [autoencoder(patch) for autoencoder, patch in zip(self.autoencoders, unlabeled, strict=True)]
        return reconstructions if image is None else [self.fnet(image, context), *reconstructions]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load all weights, or those of an F-Net: what training leaves for inference, and MONAI Label goes on from.

        The latter leave the decoders, and batch norms that are not tied, as they are.
        """
        if state_dict.keys() == self.fnet.state_dict().keys():
            return self.fnet.load_state_dict(state_dict, strict, assign)
        return super().load_state_dict(state_dict, strict, assign)


class TaskWeight:
    """Weight gamma of the second of two losses: a number, or one that makes both equally large.

    Over the first iterations gamma is the ratio of the losses' moving averages; then it keeps the value it has. The
    processes of a distributed run average their losses first, so that all have the same gamma. The paper says that
    gamma equalizes the magnitudes of the losses, not how.

    Args:
        gamma: a number, or `balance`.
        num_iterations: over which the losses are balanced.

    Attributes:
        value: gamma; 1 before the first iteration of a balance.
    """

    def __init__(self, gamma: float | str = "balance", num_iterations: int = 100) -> None:
        if gamma != "balance" and not NON_NEGATIVE.fits(gamma):
            raise InputError(f"gamma must be a number from 0, or balance, got {gamma!r}")
        check_each(POSITIVE_INT, num_iterations=num_iterations)
        self.value = 1.0 if gamma == "balance" else float(gamma)
        self.remaining = num_iterations if gamma == "balance" else 0
        self.averages = (MovingAverage(), MovingAverage())

    def update(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """Take in the scalar losses of the main and of the other task in an iteration, and return gamma."""
        if self.remaining > 0:
            self.remaining -= 1
            losses = torch.stack([first.detach(), second.detach()]).double()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(losses)  # of sums the ratio is the same as of means
            means = [average.update(loss) for average, loss in zip(self.averages, losses.tolist(), strict=True)]
            self.value = means[0] / max(means[1], 1e-12)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        averages = [average.value for average in self.averages]
        return {"value": self.value, "remaining": self.remaining, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.remaining = state["value"], state["remaining"]
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.value = value


class MultiTaskUpdate:
    """Iteration of multi-task learning: segment labeled patches, reconstruct unlabeled ones, step on a weighted sum.

    The sum is `segmentation + gamma * reconstruction`. This is the `iteration_update` of MONAI's trainer, whose network
    is a `MultiTaskFNet`, whose loss function is that of the segmentation, and whose batches are mappings with `labeled`
    and `unlabeled`. Without `unlabeled`, an iteration is one of F-Net alone. The engine's output gets `image`, `label`,
    `pred`, `original` and `reconstruction` (a list, one for each level), `loss`, `segmentation_loss`,
    `reconstruction_loss` and `gamma`.

    Args:
        reconstruction_loss: takes the list of reconstructions and that of their originals.
        task_weight: gives gamma.
        levels: those of the network.
        alternate: step twice, F-Net on its loss and then the autoencoders on theirs, each with an optimizer of its own,
            so that the shared weights move in turn.
        autoencoder_optimizer: second optimizer; its learning rate follows that of the trainer's.
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
            raise InputError("autoencoder_optimizer must be an optimizer when alternate is true, got None")
        self.reconstruction_loss = reconstruction_loss
        self.task_weight = task_weight
        self.levels = tuple(levels)
        self.alternate = alternate
        self.autoencoder_optimizer = autoencoder_optimizer
        self.prepare_unlabeled = PrepareTask(PatchReconstruction())

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
