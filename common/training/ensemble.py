"""Ensemble: several networks whose class probabilities are averaged, as one network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from common.cli import check_each, check_flags
from common.cli.options import POSITIVE_INT

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Network that gives the logits of the mean of its members' class probabilities.

    Whatever turns the logits of one member into probabilities, a softmax or a sigmoid, turns those of the ensemble into
    the mean, so that inferers take it for a single network. TorchScript compiles it where it compiles a member.

    Args:
        network: first member; the others are copies of it, until weights are loaded.
        num_members: number of members.
        sigmoid: the probabilities are sigmoids of each class; otherwise the softmax over the classes.

    Attributes:
        members: the networks.
    """

    def __init__(self, network: nn.Module, num_members: int, sigmoid: bool = False) -> None:
        super().__init__()
        check_each(POSITIVE_INT, num_members=num_members)
        check_flags(sigmoid=sigmoid)
        self.members = nn.ModuleList([network, *(copy.deepcopy(network) for _ in range(num_members - 1))])
        self.sigmoid = sigmoid

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits of the shape of a member's, `(B, num_classes, *spatial_size)`.

        Args:
            image: what a member takes, of shape `(B, C, *spatial_size)`.
        """
        return self.combine(torch.stack([member(image).float() for member in self.members]))

    def combine(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the mean probabilities.

        Args:
            logits: of the members, of shape `(num_members, B, num_classes, *spatial_size)`.
        """
        if self.sigmoid:
            return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)
        return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights of all members, or those of a single network into each of them."""
        if state_dict.keys() == self.members[0].state_dict().keys():
            state_dict = {
                f"members.{index}.{name}": value
                for index in range(len(self.members))
                for name, value in state_dict.items()
            }
        return super().load_state_dict(state_dict, strict, assign)
