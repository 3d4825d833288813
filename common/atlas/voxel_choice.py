"""Which voxels of a labeled volume an atlas keeps: all rare classes, and a background that is evenly spread."""

from __future__ import annotations

import torch

__all__ = ["choose_voxels"]


def choose_voxels(
    indices: torch.Tensor,
    classes: torch.Tensor,
    max_foreground: int | None = None,
    max_background: int | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Keep all voxels, or as many as two caps allow.

    Of the foreground, no class keeps more than a common number of voxels, the largest one with which the cap holds.
    The voxels of a class are lined up along a space-filling curve, which is cut into runs of one length; of each run,
    which is compact in space, a random voxel is kept.

    Args:
        indices: of the voxels in their volume, of shape `(N, 3)`.
        classes: of the voxels, of shape `(N,)`; 0 is the background.
        max_foreground: cap of all other classes together; none if not given.
        max_background: cap of the background; none if not given.
        seed: of the random voxels.

    Returns:
        Ascending places in `indices` and `classes`, of shape `(n,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(classes, minlength=2)
    caps = torch.empty_like(counts)
    caps[0] = len(classes) if max_background is None else max_background
    caps[1:] = len(classes) if max_foreground is None else _common_cap(counts[1:].tolist(), max_foreground)
    chosen = []
    for value, cap in enumerate(caps.tolist()):
        places = (classes == value).nonzero().squeeze(1)
        if len(places) > cap:
            along_curve = places[_curve(indices[places]).argsort()]
            ends = torch.arange(cap + 1) * len(places) // max(cap, 1)
            places = along_curve[ends[:-1] + (torch.rand(cap, generator=generator) * ends.diff()).long()]
        chosen.append(places)
    return torch.cat(chosen).sort().values


def _common_cap(counts: list[int], total: int) -> int:
    """Return the largest number that, as a cap of each count, keeps their sum within a total."""
    rest = total
    remaining = sorted(counts)
    for done, count in enumerate(remaining):
        share = rest // (len(remaining) - done)
        if count > share:
            return share
        rest -= count
    return total


def _curve(indices: torch.Tensor) -> torch.Tensor:
    """Return places along the Z-order curve, which interleaves the bits of the three indices."""
    code = torch.zeros(len(indices), dtype=torch.long)
    for bit in range(int(indices.max()).bit_length()):
        for axis in range(3):
            code |= ((indices[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
