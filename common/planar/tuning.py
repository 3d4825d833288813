"""Tuning of how votes are counted, on cases with labels: neighbors are found once, and counted in many ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from common.cli import InputError

from .atlas import Neighborhood, PlanarAtlas

__all__ = ["VOTE_OPTIONS", "VoteTuner"]

VOTE_OPTIONS: Mapping[str, Sequence[float]] = {
    "fusion_weight": (0.0, 0.25, 0.5, 1.0),
    "smoothing": (0.5, 1.0, 1.5, 2.0),
    "num_neighbors": (3, 5, 9, 15, 21),
    "background_weight": (1.0, 1.5, 2.0, 3.0),
}


class VoteTuner:
    """Scores of an atlas on cases with labels, for any values of the options by which votes are counted.

    Args:
        atlas: with its options; none of them is changed.
        values: to try of each option; the options of `VOTE_OPTIONS`.
    """

    def __init__(self, atlas: PlanarAtlas, values: Mapping[str, Sequence[float]] = VOTE_OPTIONS) -> None:
        self.atlas = atlas
        self.values = {name: sorted({*values[name], getattr(atlas, name)}) for name in values}
        self.cases: list[tuple[Neighborhood, torch.Tensor]] = []

    def add(self, image: torch.Tensor, label: torch.Tensor) -> None:
        """Find the neighbors of a case.

        Args:
            image: normalized intensities of shape `(C, H, W, D)`.
            label: classes of shape `(1, H, W, D)`, negative where they are open.
        """
        most = {name: max(values) for name, values in self.values.items() if name in ("num_neighbors", "fusion_weight")}
        with _options(self.atlas, most):
            (found,) = self.atlas.search(torch.as_tensor(image).unsqueeze(0))
        self.cases.append((found, torch.as_tensor(label)[0].long()))

    def score(self, options: Mapping[str, float]) -> float:
        """Return the mean Dice of the organs that cases have, on the grid of the network, with some options."""
        with _options(self.atlas, options):
            found = [
                self._dice(self.atlas.count_votes(one).argmax(dim=0).cpu(), label.cpu()) for one, label in self.cases
            ]
        scores = [dice for dice in np.ravel(found) if not math.isnan(dice)]
        if not scores:
            raise InputError("label must hold an organ in one case at least, got none; look at the validation cases")
        return float(np.mean(scores))

    def tune(self) -> Iterable[tuple[dict[str, float], float]]:
        """Yield options and their score, beginning with those of the atlas; the best of all that was tried come last.

        Each option is varied alone, one after another, beside the best values of those before it.
        """
        best = {name: getattr(self.atlas, name) for name in self.values}
        highest = self.score(best)
        yield dict(best), highest
        for name, values in self.values.items():
            for value in values:
                if value == best[name]:
                    continue
                options = {**best, name: value}
                score = self.score(options)
                yield options, score
                if score > highest:
                    highest, best = score, options
        yield dict(best), highest

    def _dice(self, found: torch.Tensor, label: torch.Tensor) -> list[float]:
        """Return the Dice of each organ of one case, NaN where the label has none of it."""
        is_known = label >= 0
        scores = []
        for value in range(1, self.atlas.num_classes):
            one, two = (found == value) & is_known, label == value
            size = int(two.sum())
            scores.append(2 * int((one & two).sum()) / (int(one.sum()) + size) if size else math.nan)
        return scores


@contextmanager
def _options(atlas: PlanarAtlas, options: Mapping[str, float]) -> Iterator[None]:
    """Give an atlas other options for a while."""
    before = {name: getattr(atlas, name) for name in options}
    vars(atlas).update(options)
    try:
        yield
    finally:
        vars(atlas).update(before)
