"""How scans reach a network that learns to take simulated tumors off them, or to find them beside labeled ones.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

from common.transforms import LAYERS, RandTumorLayers

__all__ = ["PrepareJointLabels", "PrepareLayers"]


class PrepareLayers(PrepareBatch):
    """Put tumors into the scans of a batch where the network is, and take the layers as the target.

    A batch is one of `PatchLoader`, with donors. Or it is one of `ParallelLoader`: `normal`, and `real` scans with
    tumors that nobody has marked, whose target is the scan itself: its mask is -1 and its opacity 1, see
    `LayerDecompositionLoss`.

    Args:
        simulation: draws the tumors.
    """

    def __init__(self, simulation: RandTumorLayers) -> None:
        self.simulation = simulation

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans of shape `(B, 1, H, W, D)` and layers of shape `(B, 5, H, W, D)`, see `LAYERS`."""
        target = _simulate(self.simulation, batchdata.get("normal", batchdata), device, non_blocking)
        if "real" in batchdata:
            scans = batchdata["real"]["image"].to(target, non_blocking=non_blocking)
            layers = target.new_zeros((len(scans), *target.shape[1:]))
            layers[:, LAYERS.index("mask")] = -1
            layers[:, LAYERS.index("alpha")] = 1
            layers[:, -1:] = scans
            target = torch.cat((target, layers))
        return target[:, -1:].clone(), target


class PrepareJointLabels(PrepareBatch):
    """Put tumors into normal scans, and take their masks as labels beside those of labeled scans.

    A batch is one of `ParallelLoader`: `labeled`, and `normal` with donors. Not in the paper, whose fine-tuning sees
    labeled scans only.

    Args:
        simulation: draws the tumors.
        labels: names of the classes.

    Raises:
        ValueError: when there are other classes than background and one kind of tumor, which no simulation has.
    """

    def __init__(self, simulation: RandTumorLayers, labels: Mapping[int, str]) -> None:
        if len(labels) != 2:
            raise ValueError(f"labels must be background and a tumor beside simulations, got {dict(labels)}")
        self.simulation = simulation

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scans and their labels, both of shape `(B, 1, H, W, D)`; the labeled ones come first."""
        layers = _simulate(self.simulation, batchdata["normal"], device, non_blocking)
        image, label = (batchdata["labeled"][key].to(layers.device) for key in ("image", "label"))
        mask = layers[:, LAYERS.index("mask")].gt(0.5).unsqueeze(1).to(label)
        return torch.cat((image, layers[:, -1:])), torch.cat((label, mask))


def _simulate(
    simulation: RandTumorLayers, normal: Mapping[str, Any], device: str | torch.device | None, non_blocking: bool
) -> torch.Tensor:
    """Return the layers of a batch of normal scans, simulated on a device."""
    tensors = {key: normal[key].to(device=device, non_blocking=non_blocking) for key in ("image", "organ", "donor")}
    return simulation.make_batch({**normal, **tensors})
