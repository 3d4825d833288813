"""Nearest neighbors of described voxels: the space in which they are sought, and an exact search with little memory.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision).
The paper searches among descriptors as they are, with a vantage point forest, which is approximate; here the search is
exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from common.cli import InputError

__all__ = ["NORMALIZATIONS", "FeatureSpace", "nearest_neighbors"]

NORMALIZATIONS = ("none", "l2", "standardize")

_CPU_QUERIES = 256  # whose candidates are sought at once

_GPU_QUERIES = 2048

_NUM_RANKED = 64  # queries whose candidates are ranked at once: what a cache holds

_NUM_REFERENCES = 16384  # ranked at once, where too many are equally near

_NUM_PRODUCTS = 2**26  # held at once: 256 MB

_NUM_SPARE = 32  # candidates beyond the wanted ones, among which rounding errors are sorted out


class FeatureSpace:
    """Space in which neighbors are sought: normalized descriptors, and the weighted position beside them.

    Args:
        descriptors: of the atlas, of shape `(M, F)`.
        normalization: of descriptors: `none`, `l2` to unit length, or `standardize`, which gives each of the numbers
            mean 0 and standard deviation 1 in the atlas.
        position_weight: factor of the coordinates, which run from -1 to 1; 0 leaves them out.
    """

    def __init__(self, descriptors: torch.Tensor, normalization: str = "none", position_weight: float = 0.0) -> None:
        self.normalization = normalization
        self.position_weight = position_weight
        if normalization == "standardize":
            std, self.mean = torch.std_mean(descriptors.float(), dim=0, correction=0)
            self.std = std.where(std > 0, 1)

    def __call__(self, descriptors: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Return what is compared, in single precision, of shape `(N, F)` or `(N, F + 3)`.

        Args:
            descriptors: of shape `(N, F)`.
            centers: coordinates of shape `(N, 3)`.
        """
        features = descriptors.float()
        if self.normalization == "l2":
            features = F.normalize(features)
        elif self.normalization == "standardize":
            features = (features - self.mean) / self.std
        return torch.cat((features, self.position_weight * centers), dim=1) if self.position_weight else features


def nearest_neighbors(
    queries: torch.Tensor, references: torch.Tensor, num_neighbors: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest references of each query, nearest first; of equally distant ones, the first come first.

    Candidates come from matrix products, and are ranked by distances that have no rounding error to speak of. Where a
    reference outside the candidates could be as near, by the bound of the products' error, all references within that
    bound are ranked.

    Args:
        queries: tensor of shape `(N, F)`.
        references: tensor of shape `(M, F)`, on the same device.
        num_neighbors: references to find for each query.

    Returns:
        Squared Euclidean distances, in float64, and indices of references, both of shape `(N, num_neighbors)`.

    Raises:
        ValueError: when there are fewer references, or a number is not finite.
    """
    if not 1 <= num_neighbors <= len(references):
        raise InputError(
            f"num_neighbors must be from 1 to the number of references {len(references)}, got {num_neighbors}"
        )
    for name, rows in (("queries", queries), ("references", references)):
        if not rows.isfinite().all():
            raise InputError(f"{name} must be finite, got NaN or Inf")
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        search = _Search(references.detach().float().contiguous(), num_neighbors)
        parts = (
            queries.detach().float().contiguous().split(_CPU_QUERIES if queries.device.type == "cpu" else _GPU_QUERIES)
        )
        found = [search(part) for part in parts if len(part)]
        if not found:
            empty = queries.new_empty((0, num_neighbors))
            return empty.double(), empty.long()
        distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, indices


def _rounding_of_factors() -> float:
    """Return how far the product of two factors may be off where they are rounded before: to TF32, or to bfloat16."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch was told in its newer way, which this one does not understand
        precision = "medium"
    return {"highest": 0.0, "high": 2.0**-10}.get(precision, 2.0**-7)


class _Search:
    """Search among references of shape `(M, F)` in float32."""

    def __init__(self, references: torch.Tensor, num_neighbors: int) -> None:
        self.references = references
        self.num_neighbors = num_neighbors
        self.num_candidates = min(num_neighbors + _NUM_SPARE, len(references))
        self.squares = references.square().sum(dim=1)

    def __call__(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return squared distances and indices for queries of shape `(N, F)`."""
        rough, candidates = self._candidates(queries)
        candidates = candidates.sort(dim=1).values  # ranked stably, so that the first of equals come first
        parts = zip(queries.split(_NUM_RANKED), candidates.split(_NUM_RANKED), strict=True)
        ranked = [self._rank(*part) for part in parts]
        distances, indices = (torch.cat(part) for part in zip(*ranked, strict=True))
        if self.num_candidates < len(self.references):
            reach = distances[:, -1] + self._error(queries)
            is_doubtful = rough.amax(dim=1) <= reach
            if is_doubtful.any():
                distances[is_doubtful], indices[is_doubtful] = self._rank_all(queries[is_doubtful], reach[is_doubtful])
        return distances, indices

    def _candidates(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest references by products, with errors of rounding, in any order."""
        width = max(1, _NUM_PRODUCTS // len(queries))
        rough = queries.new_empty((len(queries), 0))
        indices = rough.long()
        for first in range(0, len(self.references), width):
            products = self._products(queries, slice(first, first + width))
            nearest = products.topk(min(self.num_candidates, products.shape[1]), largest=False, sorted=False)
            rough = torch.cat((rough, nearest.values), dim=1)
            indices = torch.cat((indices, nearest.indices + first), dim=1)
            rough, places = rough.topk(min(self.num_candidates, rough.shape[1]), largest=False, sorted=False)
            indices = indices.gather(1, places)
        return rough, indices

    def _products(self, queries: torch.Tensor, part: slice) -> torch.Tensor:
        """Return squared distances as sums of products."""
        products = torch.addmm(self.squares[part], queries, self.references[part].T, alpha=-2)
        return products.add_(queries.square().sum(dim=1, keepdim=True))

    def _error(self, queries: torch.Tensor) -> torch.Tensor:
        """Return how far a sum of products may be off for each query, in any order of summation."""
        norms = (queries.double().norm(dim=1) + self.squares.max().double().sqrt()) ** 2
        return norms * ((queries.shape[1] + 8) * 2.0**-24 + _rounding_of_factors())

    def _rank(self, queries: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest of some references, of which `candidates` has a row of indices for each query."""
        differences = self.references[candidates].double() - queries.double().unsqueeze(1)
        distances, order = differences.square_().sum(dim=2).sort(dim=1, stable=True)
        return distances[:, : self.num_neighbors], candidates.gather(1, order[:, : self.num_neighbors])

    def _rank_all(self, queries: torch.Tensor, reach: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nearest of all references whose sum of products is within reach; equal queries are done once."""
        queries, inverse = queries.unique(dim=0, return_inverse=True)
        reach = reach.new_zeros(len(queries)).scatter_reduce(0, inverse, reach, "amax")
        found = []
        num_rows = max(1, _NUM_PRODUCTS // 4 // len(self.references))
        for some, reaches in zip(queries.split(num_rows), reach.split(num_rows), strict=True):
            is_near = self._products(some, slice(None)) <= reaches.unsqueeze(1)
            for query, row in zip(some.unsqueeze(1), is_near, strict=True):
                parts = [self._rank(query, part)[1] for part in row.nonzero().T.split(_NUM_REFERENCES, dim=1)]
                found.append(self._rank(query, torch.cat(parts, dim=1)))
        distances, indices = (torch.cat(part)[inverse] for part in zip(*found, strict=True))
        return distances, indices
