"""Registration of a volume with one of the atlas by their descriptors, and the labels that it carries over.

Each point of a grid is moved to where the other volume is described alike. What a displacement costs, the distance of
two descriptors, is smoothed over neighboring points, so that these move together; the best displacements are averaged,
softly, and the field is smoothed again, from coarse to fine.

Source: M. P. Heinrich, M. Jenkinson, M. Brady, J. A. Schnabel, *MRF-based deformable registration and ventilation
estimation of lung CT*, IEEE Transactions on Medical Imaging 2013 (a dense set of discrete displacements); A. Hosni et
al., *Fast cost-volume filtering for visual correspondence and beyond*, IEEE TPAMI 2013 (smoothed costs). It is not a
part of the paper of the descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .smoothing import smooth
from .voxels import VoxelGrid

__all__ = ["LEVELS", "Level", "carry_label", "fuse_shares", "principal_components", "register_points"]

_NUM_COMPONENTS = 32
_NUM_SAMPLES = 8192  # descriptors from which the components come
_SHARPNESS = 200.0  # of the average of displacements, per unit of cost
_COST_OUTSIDE = 3.0  # where the other volume is not described
_FLOOR = 0.01  # of a share: neither votes nor carried labels alone can rule out a class


class Level(NamedTuple):
    """Level of a registration; lengths are in steps of the grid.

    Attributes:
        radius: of the displacements that are tried, in hops.
        hop: between displacements, and between points that are moved.
        cost_smoothing: standard deviation of the Gaussian by which costs are averaged.
        field_smoothing: of that by which displacements are.
        stiffness: cost of a displacement, times its square.
    """

    radius: int
    hop: int
    cost_smoothing: float
    field_smoothing: float
    stiffness: float


LEVELS = (Level(3, 2, 3.0, 3.0, 0.0003), Level(2, 1, 1.5, 1.5, 0.002), Level(1, 1, 1.0, 1.0, 0.002))


def principal_components(descriptors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of some descriptors, and the projection to their standardized principal components.

    Args:
        descriptors: of shape `(M, F)`.

    Returns:
        Tensors of shape `(F,)` and `(F, K)`, at most 32 components: the squared distance of two projected descriptors
        is about the mean over their numbers of the squared difference, where each has a standard deviation of 1.
    """
    sample = descriptors[:: max(len(descriptors) // _NUM_SAMPLES, 1)].float()
    std, mean = torch.std_mean(sample, dim=0, correction=0)
    scale = 1 / std.where(std > 0, torch.inf)
    standardized = (sample - mean) * scale
    _, vectors = torch.linalg.eigh(standardized.T @ standardized / len(sample))
    return mean, scale.unsqueeze(1) * vectors.flip(1)[:, :_NUM_COMPONENTS] / len(mean) ** 0.5


def register_points(
    fixed: torch.Tensor,
    points: torch.Tensor,
    size: Sequence[int],
    moving: torch.Tensor,
    places: torch.Tensor,
    levels: Sequence[Level] = LEVELS,
) -> torch.Tensor:
    """Return how far each point of a grid lies from the place that looks like it, in the volume to be moved.

    Args:
        fixed: features of shape `(N, K)`.
        points: of the grid that have these features, of shape `(N, 3)`.
        size: points of the grid along each axis.
        moving: features of the other volume, of shape `(M, K)`.
        places: its feature at each point of the grid, -1 where there is none, of shape `size`.
        levels: from coarse to fine.

    Returns:
        Displacements of shape `(3, *size)` in steps of the grid, 0 at points without a feature.
    """
    field = fixed.new_zeros((3, *size))
    is_known = torch.zeros(*size, dtype=torch.bool, device=fixed.device)
    is_known[points.unbind(1)] = True
    norms = moving.square().sum(dim=1)
    for level in levels:
        chosen = (points % level.hop == 0).all(dim=1)
        if not chosen.any():
            chosen[:] = True
        own, features = points[chosen], fixed[chosen]
        start = _at(field, own).round().long().T
        tried = torch.cartesian_prod(*[torch.arange(-level.radius, level.radius + 1, device=fixed.device)] * 3)
        tried = tried * level.hop
        costs = torch.stack([_costs(features, own + start + shift, moving, norms, places) for shift in tried])
        coarse = [-(-edge // level.hop) for edge in size]
        where = own.div(level.hop, rounding_mode="floor")
        costs = _smooth_at(costs, where, coarse, level.cost_smoothing / level.hop)
        costs += level.stiffness * tried.square().sum(dim=1, keepdim=True)
        weights = torch.softmax(-_SHARPNESS * costs, dim=0)
        moved = start.T + tried.T.to(weights) @ weights
        coarse_field = _spread(moved, where, coarse, level.field_smoothing / level.hop)
        field = _refine(coarse_field, size, level.hop) * is_known
    return field


def carry_label(label: torch.Tensor, num_classes: int, field: torch.Tensor, grid: VoxelGrid) -> torch.Tensor:
    """Return the share of each class in each voxel of an image, from the label of a registered volume.

    Args:
        label: classes of shape `(H, W, D)`, negative where they are not known.
        num_classes: background included.
        field: displacements of shape `(3, *grid.size)`, in steps of the grid.
        grid: of the image, which shows the same field of view.

    Returns:
        Shares of shape `(num_classes, *grid.spatial_size)`; 0 for all classes where the label is not known.
    """
    steps = torch.tensor([2 * hop / max(edge - 1, 1) for hop, edge in zip(grid.step, grid.spatial_size, strict=True)])
    shift = grid.upsample((field * steps.to(field).view(3, 1, 1, 1)).flatten(1).T)
    axes = [
        torch.linspace(-1, 1, edge, device=field.device) if edge > 1 else field.new_zeros(1) for edge in shift.shape[1:]
    ]
    places = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + shift).flip(0).permute(1, 2, 3, 0).unsqueeze(0)
    classes = [(label == value).to(field).view(1, 1, *label.shape) for value in range(num_classes)]
    carried = [F.grid_sample(part, places, padding_mode="border", align_corners=True)[0, 0] for part in classes]
    return torch.stack(carried)


def fuse_shares(votes: torch.Tensor, carried: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the product of votes and carried labels, both of shape `(num_classes, H, W, D)`, which adds up to 1.

    Args:
        votes: shares that add up to 1.
        carried: likewise, or to less than 1 where labels are not known: the rest is spread over all classes.
        weight: exponent of the carried labels; with 0 the votes stay what they are.
    """
    if weight == 0:
        return votes
    carried = carried + (1 - carried.sum(dim=0)).clamp(min=0) / len(carried)
    return torch.softmax((votes + _FLOOR).log() + weight * (carried + _FLOOR).log(), dim=0)


def _costs(
    fixed: torch.Tensor, targets: torch.Tensor, moving: torch.Tensor, norms: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Return the squared distance of each feature to that of the other volume at a point of the grid."""
    last = torch.tensor(places.shape, device=targets.device) - 1
    inside = targets.clamp(min=0).minimum(last)
    rows = places[inside.unbind(1)]
    rows = rows.where((inside == targets).all(dim=1), -1)
    index = rows.clamp(min=0)
    costs = fixed.square().sum(dim=1) + norms[index] - 2 * (fixed * moving[index]).sum(dim=1)
    return costs.where(rows >= 0, _COST_OUTSIDE)


def _spread(values: torch.Tensor, points: torch.Tensor, size: Sequence[int], sigma: float) -> torch.Tensor:
    """Return values at points, of shape `(C, N)`, averaged over a grid, of shape `(C, *size)`; 0 where none is near."""
    low = points.amin(dim=0).tolist()
    edges = (points.amax(dim=0) + 1 - points.amin(dim=0)).tolist()
    box = values.new_zeros((len(values) + 1, *edges))
    x, y, z = (points - points.amin(dim=0)).unbind(1)
    box[:, x, y, z] = torch.cat((values, torch.ones_like(values[:1])))
    total = smooth(box, sigma)
    total = total[:-1] / total[-1:].clamp(min=1e-6)
    around = [(first, whole - first - edge) for first, edge, whole in zip(low, edges, size, strict=True)]
    return F.pad(total, [number for pair in reversed(around) for number in pair])


def _smooth_at(values: torch.Tensor, points: torch.Tensor, size: Sequence[int], sigma: float) -> torch.Tensor:
    """Return values at points, of shape `(C, N)`, each averaged with those of the points around it."""
    return _at(_spread(values, points, size, sigma), points)


def _at(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the values of an image of shape `(C, H, W, D)` at points, of shape `(C, N)`."""
    x, y, z = points.unbind(1)
    return image[:, x, y, z]


def _refine(field: torch.Tensor, size: Sequence[int], hop: int) -> torch.Tensor:
    """Return a field on every point of a grid, given it on every `hop`-th one along each axis."""
    if hop == 1:
        return field
    for axis, edge in enumerate(size, start=1):
        place = torch.arange(edge, device=field.device) / hop
        low = place.long().clamp(max=field.shape[axis] - 1)
        high = (low + 1).clamp(max=field.shape[axis] - 1)
        weight = (place - low).clamp(max=1).view(-1, *[1] * (3 - axis))
        field = torch.lerp(field.index_select(axis, low), field.index_select(axis, high), weight)
    return field
