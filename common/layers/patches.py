"""Random patches of volumes that stay on a device, with patches of other volumes as donors of texture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from monai.utils import ensure_tuple_rep

from common.cli import check_each
from common.cli.options import FRACTION, SIZE
from common.data import IGNORED, DeviceCacheDataset, StoredArray, VolumeLoader, with_doubt
from common.transforms import padded_crop

__all__ = ["PatchLoader"]

_KEYS = ("image", "organ", "label")


class PatchLoader(VolumeLoader):
    """Minibatches of random patches, one of each of several volumes.

    A minibatch has `image`, of shape `(B, C, *patch_size)`; `organ` and `label`, of shape `(B, 1, *patch_size)`, where
    the volumes have them, the label with a second channel where any has a pseudo-label; `donor`, if asked for, of the
    shape of `image`; `seed`, a whole number for each patch; `spacing`, the edges of a voxel in mm, of shape `(B, 3)`;
    and `case`, the files. A random voxel of the organ, or of the whole volume when there is none, lies anywhere in the
    patch, which stays inside the volume; volumes smaller than a patch are padded with 0 on all sides. See
    `VolumeLoader` for seeds, epochs and processes.

    Args:
        volumes: from which the patches are taken.
        patch_size: edges of a patch in voxels.
        batch_size: patches in a minibatch.
        num_batches: minibatches in an epoch.
        foreground_fraction: probability that a voxel of a class, each of the case's as likely, instead of any of the
            organ, lies in the patch.
        labeled_fraction: see `VolumeLoader`.
        with_donor: add a patch of another volume, around a random voxel of its organ.
        augmentation: random transforms of MONAI for the dictionary of one patch, without `donor`.
        seed: of the draws.
        fixed: every epoch draws what the first one drew, without augmentation.

    Raises:
        TypeError: when a number is no whole number.
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        volumes: DeviceCacheDataset,
        patch_size: int | Sequence[int],
        batch_size: int,
        num_batches: int,
        foreground_fraction: float = 0.0,
        labeled_fraction: float | None = None,
        with_donor: bool = False,
        augmentation: Compose | Callable | None = None,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        super().__init__(volumes, batch_size, num_batches, seed, fixed, labeled_fraction)
        check_each(SIZE, patch_size=patch_size)
        check_each(FRACTION, foreground_fraction=foreground_fraction)
        self.patch_size = ensure_tuple_rep(patch_size, 3)
        self.foreground_fraction = foreground_fraction
        self.with_donor = with_donor
        self.augmentation = None if augmentation is None else Compose([augmentation]).flatten()

    def _make(self, cases: list[int], share: slice, R: np.random.RandomState, number: int) -> dict[str, Any]:
        draws = [(case, int(R.randint(2**31)), self._draw_donor(case, R)) for case in cases]
        patches = []
        for case, seed, donor in draws[share]:
            patch = self._patch(case, np.random.RandomState(seed))
            if donor is not None:
                other, voxel = donor
                start = [middle - edge // 2 for middle, edge in zip(voxel, self.patch_size, strict=True)]
                patch["donor"] = _window(self.volumes[other]["image"], start, self.patch_size)
            patches.append({**patch, "seed": seed})
        batch: dict[str, Any] = {
            key: torch.stack([patch[key] for patch in patches])
            for key in (*_KEYS, "donor")
            if all(key in patch for patch in patches)
        }
        batch["seed"] = torch.tensor([patch["seed"] for patch in patches])
        batch["spacing"] = torch.tensor([patch["spacing"] for patch in patches])
        return {**batch, "case": [patch["case"] for patch in patches]}

    def _patch(self, case: int, R: np.random.RandomState) -> dict[str, Any]:
        """Draw a patch of a case, with its masks."""
        item = self.volumes[case]
        is_foreground = "label" in item and R.uniform() < self.foreground_fraction
        voxel = self._draw_voxel(case, "label" if is_foreground else "organ", R)
        start = [middle - R.randint(edge) for middle, edge in zip(voxel, self.patch_size, strict=True)]
        patch = {key: _window(item[key], start, self.patch_size) for key in _KEYS if key in item}
        if self.augmentation is not None and not self.fixed:
            self.augmentation.set_random_state(seed=int(R.randint(2**31)))
            patch = {key: torch.as_tensor(value) for key, value in self.augmentation(patch).items()}
        if self.volumes.has_labels:
            label = patch["label"] if "label" in patch else torch.full_like(patch["image"][:1], IGNORED)
            patch["label"] = with_doubt(label) if self.volumes.pseudo_labeled else label
        return {**patch, "spacing": item["spacing"], "case": item["case"]}

    def _draw_donor(self, case: int, R: np.random.RandomState) -> tuple[int, list[int]] | None:
        """Draw another case and a voxel of its organ, if donors are asked for."""
        if not self.with_donor:
            return None
        others = [other for other in range(len(self.volumes)) if other != case] or [case]
        donor = others[R.randint(len(others))]
        return donor, self._draw_voxel(donor, "organ", R)

    def _draw_voxel(self, case: int, key: str, R: np.random.RandomState) -> list[int]:
        """Draw a voxel of a mask, or of the known classes of a label, each as likely, however small it is.

        Where there is none, it is one of the organ and, without an organ, of all voxels.
        """
        item = self.volumes[case]
        size = item["image"].shape[1:]
        classes = [*item["voxels"].get(key, {}).values()]
        if classes:
            voxels = classes[R.randint(len(classes))] if len(classes) > 1 else classes[0]
            chosen = int(voxels[R.randint(len(voxels))])
            return [int(index) for index in np.unravel_index(chosen, tuple(size))]
        if key == "label":
            return self._draw_voxel(case, "organ", R)
        return [int(R.randint(length)) for length in size]


def _window(volume: torch.Tensor | StoredArray, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Return a copy of a part of a volume of shape `(C, H, W, D)`, moved so that it lies inside as far as possible."""
    moved = []
    for first, length, available in zip(start, size, volume.shape[1:], strict=True):
        room = available - length  # negative where the part is larger than the volume, which then lies in its middle
        moved.append(min(max(first, 0), room) if room >= 0 else -(-room // 2))
    part = padded_crop(volume, moved, size)
    return part.float() if part.is_floating_point() else part
