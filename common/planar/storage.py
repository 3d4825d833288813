"""Storage of an atlas: descriptors, positions and classes of the voxels of labeled volumes, as part of a state dict.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from common.cli import InputError, check_each, check_whole_numbers
from common.cli.options import POSITIVE, POSITIVE_INT

from .descriptors import VoxelDescriptor

__all__ = ["AtlasStorage", "stable_hash"]

_ROWS = ("descriptors", "centers", "labels", "is_voter")  # one for each voxel

_OF_VOLUMES = ("volume_ids", "fingerprints", "recipes")

_MAPS = ("label_maps", "map_sizes")

_BUFFERS = (*_ROWS, "volumes", *_OF_VOLUMES, *_MAPS, "class_counts", "settings")

_NEWER = ("is_voter", *_MAPS)  # which atlases of earlier versions lack


class AtlasStorage(nn.Module):
    """Base class of an atlas: rows of described voxels, in buffers that take their sizes from a loaded state dict.

    Args:
        descriptor: from which the rows come.
        num_classes: background (0) included.
        search_radius: of the atlas, see `PlanarAtlas`.
        max_voxels: of all volumes together; `None`: any number.

    Attributes:
        descriptors: of the voxels, in half precision, of shape `(M, F)`.
        centers: coordinates of the voxels, of shape `(M, 3)`; along each axis of their volume they run from -1 to 1.
        labels: classes of the voxels, of shape `(M,)`.
        is_voter: which voxels vote, of shape `(M,)`; others only serve to register their volume.
        volumes: index into `volume_ids` of the volume that a voxel comes from, of shape `(M,)`.
        volume_ids: hash of the identifier of each volume.
        fingerprints: hash of the intensities of each volume.
        recipes: hash of all that the rows of each volume come from: intensities, label, choice and descriptor.
        label_maps: classes of all voxels of the volumes plus 1, 0 where they are not known, one volume after another.
        map_sizes: `(H, W, D)` of each volume, of shape `(number of volumes, 3)`; 0 where no map is kept.
        class_counts: voxels of each class, of shape `(num_classes,)`.
        settings: search radius and settings of the descriptor, as JSON in bytes; a state dict of another descriptor's
            settings is refused.
        recalled: rows of the volumes of an earlier atlas, by recipe.
    """

    descriptors: torch.Tensor
    centers: torch.Tensor
    labels: torch.Tensor
    is_voter: torch.Tensor
    label_maps: torch.Tensor
    map_sizes: torch.Tensor
    volumes: torch.Tensor
    volume_ids: torch.Tensor
    fingerprints: torch.Tensor
    recipes: torch.Tensor
    class_counts: torch.Tensor
    settings: torch.Tensor

    def __init__(
        self,
        descriptor: VoxelDescriptor,
        num_classes: int,
        search_radius: float | None = None,
        max_voxels: int | None = None,
    ) -> None:
        super().__init__()
        check_whole_numbers(num_classes=num_classes)
        if not 2 <= num_classes <= 2**15:
            raise InputError(f"num_classes must be from 2 to {2**15}, got {num_classes}")
        check_each(POSITIVE.or_null, search_radius=search_radius)
        check_each(POSITIVE_INT.or_null, max_voxels=max_voxels)
        self.descriptor = descriptor
        self.search_radius = search_radius
        self.max_voxels = max_voxels
        self.recalled: dict[int, dict[str, torch.Tensor]] = {}
        self.register_buffer("descriptors", torch.empty((0, descriptor.out_channels), dtype=torch.float16))
        self.register_buffer("centers", torch.empty((0, 3)))
        self.register_buffer("labels", torch.empty(0, dtype=torch.uint8 if num_classes <= 256 else torch.int16))
        self.register_buffer("is_voter", torch.empty(0, dtype=torch.bool))
        self.register_buffer("volumes", torch.empty(0, dtype=torch.int32))
        for name in _OF_VOLUMES:
            self.register_buffer(name, torch.empty(0, dtype=torch.int64))
        self.register_buffer("label_maps", torch.empty(0, dtype=torch.uint8 if num_classes <= 255 else torch.int16))
        self.register_buffer("map_sizes", torch.empty((0, 3), dtype=torch.int32))
        self.register_buffer("class_counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("settings", self._encoded_settings())

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_counts)

    def check_classes(self) -> None:
        """Refuse an atlas that would never find some class. An empty one passes.

        Raises:
            ValueError: when the atlas has voxels, but none of some class.
        """
        if refusals := self._lacks():
            raise InputError(refusals[0])

    def recall(self, weights: Mapping[str, torch.Tensor]) -> int:
        """Keep the volumes of an earlier atlas, so that those that are added again need not be described again.

        Args:
            weights: state dict of the earlier atlas.

        Returns:
            The number of its volumes, 0 when its descriptor is of another kind.
        """
        if not {*_BUFFERS} - {*_NEWER} <= {*weights} or weights["descriptors"].shape[1:] != self.descriptors.shape[1:]:
            return 0
        for index, recipe in enumerate(weights["recipes"].tolist()):
            is_own = weights["volumes"] == index
            rows = {name: weights[name][is_own].to(getattr(self, name)) for name in _ROWS if name in weights}
            self.recalled[recipe] = {"is_voter": torch.ones_like(rows["labels"], dtype=torch.bool), **rows}
        return len(weights["recipes"])

    def _missing_classes(self) -> list[int]:
        """Return the classes of which the atlas has no voxel, unless it is empty."""
        return (self.class_counts == 0).nonzero().flatten().tolist() if len(self.labels) else []

    def _lacks(self) -> list[str]:
        """Return what is to be said of an atlas without voxels of some class."""
        missing = self._missing_classes()
        advice = "add volumes that have them, or describe more voxels (step, search_radius)"
        if 0 in missing:
            advice = "add a volume whose background is labeled, and with it all of the classes"
        return [f"atlas must have voxels of every class, got none of {missing}; {advice}"] if missing else []

    def _known_rows(self, recipe: int) -> dict[str, torch.Tensor] | None:
        """Return the rows of a volume that this atlas has, or that an earlier one had and then are given away."""
        if recipe in self.recipes.tolist():
            is_own = self.volumes == self.recipes.tolist().index(recipe)
            return {name: getattr(self, name)[is_own] for name in _ROWS}
        return self.recalled.pop(recipe, None)

    def _label_map(self, index: int) -> torch.Tensor | None:
        """Return the label of a volume, of shape `(H, W, D)`, -1 where it is not known; nothing where none is kept."""
        ends = self.map_sizes.long().prod(dim=1).cumsum(0).tolist()
        size = self.map_sizes[index].tolist()
        if 0 in size:
            return None
        encoded = self.label_maps[ends[index - 1] if index else 0 : ends[index]]
        return encoded.view(size).long() - 1

    def _store(
        self,
        volume_id: str,
        fingerprint: int,
        recipe: int,
        rows: Mapping[str, torch.Tensor],
        label_map: torch.Tensor | None = None,
    ) -> None:
        """Append the rows of a volume and its label, and remove those of the same identifier."""
        identifier = stable_hash(volume_id.encode())
        is_other = self.volume_ids != identifier
        is_kept = is_other[self.volumes.long()]
        size = int(is_kept.sum()) + len(rows["labels"])
        if self.max_voxels is not None and size > self.max_voxels:
            raise InputError(
                f"max_voxels must be at least {size} for one more volume, got {self.max_voxels}; "
                "raise it, or lower max_background"
            )
        number = is_other.cumsum(0) - 1  # of each volume that stays
        self.volumes = number[self.volumes.long()].to(self.volumes)
        own_number = self.volumes.new_full((len(rows["labels"]),), int(is_other.sum()))
        for name, added in {**rows, "volumes": own_number}.items():
            setattr(self, name, torch.cat((getattr(self, name)[is_kept], added)))
        is_kept = is_other.repeat_interleave(self.map_sizes.long().prod(dim=1))
        for name, value in zip(_OF_VOLUMES, (identifier, fingerprint, recipe), strict=True):
            buffer = getattr(self, name)
            setattr(self, name, torch.cat((buffer[is_other], buffer.new_tensor([value]))))
        edges = [0, 0, 0] if label_map is None else [*label_map.shape]
        encoded = self.label_maps[:0] if label_map is None else (label_map.flatten() + 1).to(self.label_maps)
        self.map_sizes = torch.cat((self.map_sizes[is_other], self.map_sizes.new_tensor([edges])))
        self.label_maps = torch.cat((self.label_maps[is_kept], encoded))
        self.class_counts = self.labels.long().bincount(minlength=self.num_classes)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the buffers the sizes that they have in a state dict before it is copied, and check what was copied."""
        if all(isinstance(state_dict.get(prefix + name), torch.Tensor) for name in ("labels", "volume_ids")):
            rows, volumes = state_dict[prefix + "labels"], state_dict[prefix + "volume_ids"]
            state_dict.setdefault(prefix + "is_voter", torch.ones(len(rows), dtype=torch.bool))
            state_dict.setdefault(prefix + "label_maps", self.label_maps[:0])
            state_dict.setdefault(prefix + "map_sizes", self.map_sizes.new_zeros((len(volumes), 3)))
        for name in _BUFFERS:
            value, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(value, torch.Tensor):
                setattr(
                    self,
                    name,
                    own.new_empty(value.shape, dtype=value.dtype if name in ("labels", "label_maps") else own.dtype),
                )
        super()._load_from_state_dict(state_dict, prefix, *args)
        error_messages: list[str] = args[-1]
        error_messages.extend(self._wrong_shapes() or self._wrong_values() or self._adopt_settings())

    def _wrong_shapes(self) -> list[str]:
        """Return what is wrong with the shapes of the buffers."""
        num_voxels, num_volumes = len(self.labels), len(self.volume_ids)
        expected = {
            "descriptors": (num_voxels, self.descriptor.out_channels),
            "centers": (num_voxels, 3),
            "is_voter": (num_voxels,),
            "volumes": (num_voxels,),
            "fingerprints": (num_volumes,),
            "recipes": (num_volumes,),
            "map_sizes": (num_volumes, 3),
        }
        found = {name: tuple(getattr(self, name).shape) for name in expected}
        if len(self.map_sizes) == num_volumes:
            expected["label_maps"] = (int(self.map_sizes.long().prod(dim=1).sum()),)
            found["label_maps"] = tuple(self.label_maps.shape)
        wrong = [name for name in expected if found[name] != expected[name]]
        return [f"{name} must have shape {expected[name]}, got {found[name]}" for name in wrong]

    def _wrong_values(self) -> list[str]:
        """Return what is wrong with the numbers in the buffers."""
        if not len(self.labels):
            return []
        wrong = self._lacks()
        if int(self.labels.max()) >= self.num_classes or int(self.labels.min()) < 0:
            wrong.append(f"labels must be from 0 to {self.num_classes - 1}, got {self.labels.unique().tolist()}")
        if (
            len(self.label_maps)
            and not 0 <= int(self.label_maps.min()) <= int(self.label_maps.max()) <= self.num_classes
        ):
            wrong.append(f"label_maps must be from 0 to {self.num_classes}, got {self.label_maps.unique().tolist()}")
        if not 0 <= int(self.volumes.min()) <= int(self.volumes.max()) < len(self.volume_ids):
            wrong.append(f"volumes must be below {len(self.volume_ids)}, got {self.volumes.unique().tolist()}")
        return wrong

    def _adopt_settings(self) -> list[str]:
        """Take the search radius of the loaded atlas where it is the smaller one; return what differs and must not."""
        try:
            loaded = dict(json.loads(bytes(self.settings.tolist())))
        except (TypeError, ValueError):
            return ["settings must be JSON"]
        radii = [radius for radius in (self.search_radius, loaded.pop("search_radius", None)) if radius is not None]
        self.search_radius = min(radii, default=None)
        self.settings = self._encoded_settings().to(self.settings.device)
        return [
            f"{name} must be that of the atlas, {loaded[name]}, got {value}"
            for name, value in self.descriptor.settings.items()
            if loaded.get(name, value) != value
        ]

    def _encoded_settings(self) -> torch.Tensor:
        """Return the search radius and the settings of the descriptor as a text, byte by byte."""
        text = json.dumps({**self.descriptor.settings, "search_radius": self.search_radius}, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)


def stable_hash(*contents: bytes | torch.Tensor) -> int:
    """Return a hash of 64 bits that is the same on every machine."""
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(content if isinstance(content, bytes) else content.cpu().contiguous().numpy().data)
    return int.from_bytes(digest.digest(), "little", signed=True)
