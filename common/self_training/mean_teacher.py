"""Mean teacher: a network learns to see in perturbed scans, labeled or not, what the average of its own weights sees.

Source: A. Tarvainen, H. Valpola, *Mean teachers are better role models*, NeurIPS 2017
(https://arxiv.org/abs/1703.01780), sections 2 and 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from common.cli import InputError, check_each
from common.cli.options import NON_NEGATIVE, POSITIVE_INT
from common.data.files import process_rank
from common.training import WeightAveraging

__all__ = ["MeanTeacherUpdate", "perturb"]

_STEEPNESS = 5.0  # of the ramp, exp(-5 (1 - t)^2)


class MeanTeacherUpdate:
    """Iteration whose loss is that of the labels plus a weight times the consistency with the averaged network.

    It is the `iteration_update` of MONAI's trainer. The student sees perturbed intensities, the teacher the scan as it
    is; the consistency is the mean squared difference of their probabilities, over all patches of the minibatch. Its
    weight grows over the first steps as `exp(-5 (1 - t / ramp_up) ** 2)`. The engine's output gets `consistency_loss`.

    Args:
        averaging: that makes the teacher; its `weight_averaging` must be on.
        weight: of the consistency; with 0 the training is the supervised one.
        ramp_up: steps until the weight is reached.
        softmax: make probabilities of logits by a softmax over the channels; otherwise by a sigmoid of each.
        noise: standard deviation of the noise that perturbs an intensity, in units of the scan's standard deviation.
        scale: largest relative change of contrast, and of brightness in the same units.
        seed: of all chance, beside the number of the step.
    """

    def __init__(
        self,
        averaging: WeightAveraging,
        weight: float = 1.0,
        ramp_up: int = 400,
        softmax: bool = True,
        noise: float = 0.1,
        scale: float = 0.2,
        seed: int = 0,
    ) -> None:
        check_each(NON_NEGATIVE, weight=weight, noise=noise, scale=scale)
        check_each(POSITIVE_INT, ramp_up=ramp_up)
        if averaging.average is None:
            raise InputError("weight_averaging must be a number for a mean teacher, got null; pass 0.99")
        self.averaging = averaging
        self.weight = weight
        self.ramp_up = ramp_up
        self.softmax = softmax
        self.noise = noise
        self.scale = scale
        self.seed = seed

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output of the iteration."""
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        image, label, *others = batch
        context = others[0] if others else ()  # of a network that sees several resolutions, a list of patches
        output = engine.state.output = {"image": image, "label": label}
        engine.network.train()
        coarser = [patch for patches in context for patch in patches]
        seen, *seen_coarser = self._perturb([image, *coarser], engine.state.iteration)
        output["pred"] = engine.inferer(seen, engine.network, *([seen_coarser] if context else []))
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss = engine.loss_function(output["pred"], label)
        output["consistency_loss"] = torch.zeros_like(loss)
        if self.weight:
            with torch.no_grad():
                target = self._probabilities(engine.inferer(image, self.averaging.network, *context))
            consistency = (self._probabilities(output["pred"]) - target).square().mean()
            output["consistency_loss"] = consistency.detach()
            loss = loss + self.weight * self._ramp(engine.state.iteration) * consistency
        output["loss"] = loss
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine.optimizer.zero_grad()
        loss.backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _perturb(self, images: list[torch.Tensor], iteration: int) -> list[torch.Tensor]:
        if not self.weight:
            return images
        chance = np.random.SeedSequence((self.seed, iteration, process_rank()[0])).generate_state(1, np.uint64)
        generator = torch.Generator(images[0].device).manual_seed(int(chance[0] >> 1))
        return perturb(images, self.noise, self.scale, generator)

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float().softmax(dim=1) if self.softmax else logits.float().sigmoid()

    def _ramp(self, iteration: int) -> float:
        share = min(iteration / self.ramp_up, 1.0)
        return math.exp(-_STEEPNESS * (1 - share) ** 2)


def perturb(
    images: list[torch.Tensor], noise: float, scale: float, generator: torch.Generator | None = None
) -> list[torch.Tensor]:
    """Return images whose contrast, brightness and noise are changed at random, each sample's in all of them alike.

    Args:
        images: tensors of shape `(B, C, *spatial_size)` that show the same samples, such as at several resolutions.
        noise: standard deviation of the noise, which is of each voxel.
        scale: largest relative change of contrast, and largest change of brightness.
        generator: of all chance, on the device of the images.
    """
    first = images[0]
    shape = (len(first), first.shape[1], *[1] * (first.ndim - 2))
    contrast, brightness = scale * (2 * torch.rand((2, *shape), generator=generator, device=first.device) - 1)
    return [
        (1 + contrast) * image + brightness + noise * torch.randn(image.shape, generator=generator, device=image.device)
        for image in images
    ]
