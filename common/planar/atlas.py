"""Segmentation with few labels: every voxel takes the classes of the most similar voxels of labeled volumes.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import GaussianSmooth
from scipy.spatial import cKDTree
from torch import nn

from common.cli import check_whole_numbers
from common.training import load_network

from .descriptor_cache import DescriptorCache
from .descriptors import JointDescriptor, VoxelDescriptor, extract_descriptors, load_descriptors
from .neighbors import VOTES, nearest_neighbors, vote
from .voxels import VoxelGrid, choose_voxels

__all__ = ["PlanarAtlas", "transfer_descriptors"]

logger = logging.getLogger(__name__)

_NORMALIZATIONS = ("none", "l2", "standardize")

_ROWS = ("descriptors", "centers", "labels")  # one for each voxel

_BUFFERS = (*_ROWS, "volumes", "volume_ids", "fingerprints", "recipes", "class_counts", "settings")

_NUM_PLACES = 9  # along each axis of a volume that is described as a whole

_NUM_PROBES = 8  # voxels that are described to see whether a volume's descriptors would be those that are known


class PlanarAtlas(nn.Module):
    """A descriptor, and an atlas: descriptors and classes of voxels of labeled volumes.

    Training means `add`ing labeled volumes, and inference is an ordinary call. The atlas is part of the state dict and
    takes its size, and the number of classes, from the one that is loaded.

    Args:
        descriptor: of places in a volume, such as `LearnedDescriptor`.
        num_classes: background (0) included.
        step: between described voxels along each axis; 4 in the paper.
        num_neighbors: voxels of the atlas which vote on a voxel; 21 in the paper, fewer are better for a small atlas.
        voting: `majority`, or `distance` for the weights of `vote`.
        normalization: of descriptors: `none`, `l2` to unit length, or `standardize`, which gives each of the numbers
            mean 0 and standard deviation 1 in the atlas.
        position_weight: factor of the coordinates (-1 to 1 along each axis) which are appended to the normalized
            descriptors; 0 appends nothing.
        search_radius: farther than this from every voxel of the atlas that is not background, in normalized
            coordinates, a voxel is background without being described, and the atlas takes no background; `None`: all
            voxels are described. It supposes that all volumes show the same field of view.
        background_weight: of a vote for the background, against 1 of any other: larger ones make organs smaller. The
            atlas has all voxels of the organs, and often but a sample of the background.
        smoothing: standard deviation in voxels of the Gaussian by which votes are averaged with those around them.
        max_background: voxels of the background that are kept of one added volume, evenly in space; `None`: all.
        max_voxels: of the whole atlas; `None`: any number.
        batch_size: voxels described at once, see `extract_descriptors`.
        cache_dir: folder in which descriptors are kept, see `DescriptorCache`; `None`: nothing is kept.
        seed: of the choice of background voxels.
        weights: state dict of the atlas, loaded where the file exists: `monai.bundle.load` would leave out what has
            another size than in an empty atlas.

    Attributes:
        descriptors: of the atlas, in half precision, of shape `(M, F)`.
        centers: coordinates of the atlas' voxels, of shape `(M, 3)`.
        labels: their classes, of shape `(M,)`.
        volumes: index into `volume_ids` of the volume that each of them comes from, of shape `(M,)`.
        volume_ids: hash of the identifier of each volume.
        fingerprints: hash of the intensities of each volume.
        recipes: hash of all that the rows of each volume come from: intensities, label, choice and descriptor.
        class_counts: voxels of each class, of shape `(num_classes,)`.
        settings: what the rows were described with, as JSON in bytes. A loaded atlas of other settings is refused, and
            beyond its search radius nothing is sought.

    Raises:
        TypeError: when a count is no whole number.
        ValueError: when an argument is out of range.
    """

    descriptors: torch.Tensor
    centers: torch.Tensor
    labels: torch.Tensor
    volumes: torch.Tensor
    volume_ids: torch.Tensor
    fingerprints: torch.Tensor
    recipes: torch.Tensor
    class_counts: torch.Tensor
    settings: torch.Tensor

    def __init__(
        self,
        descriptor: VoxelDescriptor,
        num_classes: int = 2,
        step: int | Sequence[int] = 4,
        num_neighbors: int = 21,
        voting: str = "majority",
        normalization: str = "none",
        position_weight: float = 0.0,
        search_radius: float | None = None,
        smoothing: float = 0.0,
        background_weight: float = 1.0,
        max_background: int | None = None,
        max_voxels: int | None = None,
        batch_size: int | None = None,
        cache_dir: str | Path | None = None,
        seed: int = 0,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        caps = {"max_background": max_background, "max_voxels": max_voxels}
        counts = {"num_neighbors": num_neighbors, **{name: cap for name, cap in caps.items() if cap is not None}}
        check_whole_numbers(num_classes=num_classes, **counts)
        if not 2 <= num_classes <= 2**15:
            raise ValueError(f"num_classes must be from 2 to {2**15}, got {num_classes}")
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        choices = {"voting": VOTES, "normalization": _NORMALIZATIONS}
        for name, value in (("voting", voting), ("normalization", normalization)):
            if value not in choices[name]:
                raise ValueError(f"{name} must be one of {list(choices[name])}, got {value!r}")
        if not position_weight >= 0:
            raise ValueError(f"position_weight must not be negative, got {position_weight}")
        if not background_weight > 0:
            raise ValueError(f"background_weight must be above 0, got {background_weight}")
        if not smoothing >= 0:
            raise ValueError(f"smoothing must not be negative, got {smoothing}")
        if search_radius is not None and not search_radius > 0:
            raise ValueError(f"search_radius must be above 0, got {search_radius}")
        self.descriptor = descriptor
        self.step = step
        self.num_neighbors = num_neighbors
        self.voting = voting
        self.normalization = normalization
        self.position_weight = position_weight
        self.search_radius = search_radius
        self.smoothing = smoothing
        self.background_weight = background_weight
        self.max_background = max_background
        self.max_voxels = max_voxels
        self.batch_size = batch_size
        self.caches: list[DescriptorCache] = []
        if cache_dir is not None:  # the parts of a joint descriptor are kept each by itself, and serve other ones
            parts = descriptor.parts if isinstance(descriptor, JointDescriptor) else [descriptor]
            self.caches = [DescriptorCache(cache_dir, partial(self._extract, part)) for part in parts]
        self.seed = seed
        self.recalled: dict[int, dict[str, torch.Tensor]] = {}
        self.register_buffer("descriptors", torch.empty((0, descriptor.out_channels), dtype=torch.float16))
        self.register_buffer("centers", torch.empty((0, 3)))
        self.register_buffer("labels", torch.empty(0, dtype=torch.uint8 if num_classes <= 256 else torch.int16))
        self.register_buffer("volumes", torch.empty(0, dtype=torch.int32))
        self.register_buffer("volume_ids", torch.empty(0, dtype=torch.int64))
        self.register_buffer("fingerprints", torch.empty(0, dtype=torch.int64))
        self.register_buffer("recipes", torch.empty(0, dtype=torch.int64))
        self.register_buffer("class_counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("settings", self._own_settings())
        if weights is not None and Path(weights).is_file():
            load_network(self, weights)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_counts)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the share of each class among the neighbors of each voxel.

        Voxels between the described ones take interpolated shares. Where the descriptor is all zero, as where zeros
        surround a voxel, the vote is for the background.

        Args:
            image: normalized intensities of shape `(B, 1, H, W, D)`.

        Returns:
            Votes of shape `(B, num_classes, H, W, D)`, which add up to 1 in each voxel: the largest one tells its
            class, see also `vote_confidence`.

        Raises:
            ValueError: when the image has another shape.
        """
        if image.ndim != 5 or image.shape[1] != 1:
            raise ValueError(f"image must have shape (B, 1, H, W, D), got {tuple(image.shape)}")
        if not len(self.labels):
            logger.warning("atlas is empty: all voxels are background")
            return _background(image, self.num_classes)
        lacking = self._lacking()
        if lacking:
            logger.warning("atlas has no voxels of %s: nothing becomes one of these classes", lacking)
        if self.num_neighbors > len(self.labels):
            logger.warning(
                "num_neighbors %d is more than the atlas has, all %d vote", self.num_neighbors, len(self.labels)
            )
        if any(_fingerprint(volume) in self.fingerprints.tolist() for volume in _plain(image)):
            logger.warning("image is in the atlas: it finds itself, which tells nothing about other images")
        features = self._features(self.descriptors, self.centers)
        return torch.stack([self._votes(volume, features) for volume in _plain(image)])

    @torch.no_grad()
    def add(self, image: torch.Tensor, label: torch.Tensor, volume_id: str) -> int:
        """Add a labeled volume, in place of the one of the same identifier if there is one.

        Args:
            image: normalized intensities of shape `(1, H, W, D)`.
            label: classes of the same shape.
            volume_id: of the volume.

        Returns:
            The number of its voxels in the atlas.

        Raises:
            ValueError: when a shape or a class is wrong, nothing can be described, or the atlas would become too large.
        """
        image, classes = self._check(_plain(image), _plain(label))
        identifier = _hash(str(volume_id).encode())
        centers, labels = self._choose(classes)
        recipe = self._recipe(image, centers, labels)
        rows = self._known(recipe)
        if rows is None:
            descriptors = self._describe(image, centers)
            is_described = _is_described(descriptors)
            if not is_described.any():
                raise ValueError(f"image must show something that can be described, got nothing in {volume_id}")
            rows = {"centers": centers, "labels": labels, "descriptors": descriptors}
            rows = {name: value[is_described] for name, value in rows.items()}
        self._append(identifier, _fingerprint(image), recipe, rows)
        is_present = classes.flatten().bincount(minlength=self.num_classes).cpu() > 0
        is_kept = rows["labels"].long().bincount(minlength=self.num_classes).cpu() > 0
        lost = (is_present & ~is_kept).nonzero().flatten().tolist()
        if lost:
            logger.warning("%s: classes %s are not in the atlas; a smaller step may find them", volume_id, lost)
        return len(rows["labels"])

    def check_classes(self) -> None:
        """Refuse to end with an atlas that would never find some class. An empty atlas is one that begins.

        Raises:
            ValueError: when the atlas has voxels, but none of some class.
        """
        lacking = self._lacking()
        if lacking:
            raise ValueError(_refusal(lacking))

    @torch.no_grad()
    def describe(self, image: torch.Tensor) -> torch.Tensor:
        """Describe places that are evenly spread over a volume, as many in every volume.

        Args:
            image: normalized intensities of shape `(1, H, W, D)`.

        Returns:
            Tensor of shape `(out_channels, 9, 9, 9)`, of what the descriptor, not the atlas, makes of them.
        """
        axis = (2 * torch.arange(_NUM_PLACES) + 1) / _NUM_PLACES - 1
        places = torch.cartesian_prod(axis, axis, axis).to(self.centers)
        volume = self._samplable(_plain(image))
        return self._extract(self.descriptor, volume, places).T.unflatten(1, (_NUM_PLACES,) * 3)  # no voxels to keep

    def recall(self, weights: Mapping[str, torch.Tensor]) -> int:
        """Keep the volumes of another atlas, which `add` then takes over, each once, instead of describing them again.

        Args:
            weights: state dict of the other atlas.

        Returns:
            The number of its volumes, 0 when its descriptor is of another kind.
        """
        if any(name not in weights for name in _BUFFERS):
            return 0
        if weights["descriptors"].shape[1:] != self.descriptors.shape[1:]:
            return 0
        for index, recipe in enumerate(weights["recipes"].tolist()):
            is_own = weights["volumes"] == index
            self.recalled[recipe] = {name: weights[name][is_own].to(getattr(self, name)) for name in _ROWS}
        return len(weights["recipes"])

    def _lacking(self) -> list[int]:
        """Return the classes of which the atlas has no voxel, unless it is empty."""
        return (self.class_counts == 0).nonzero().flatten().tolist() if len(self.labels) else []

    def _check(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an image and its classes as whole numbers, refusing what is neither."""
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"image must have shape (1, H, W, D), got {tuple(image.shape)}")
        if label.shape != image.shape:
            raise ValueError(f"label must have the shape of image {tuple(image.shape)}, got {tuple(label.shape)}")
        classes = label.long()
        is_wrong = (label != classes) | (classes < 0) | (classes >= self.num_classes)
        if is_wrong.any():
            found = label[is_wrong].unique().tolist()
            raise ValueError(f"label must have classes from 0 to {self.num_classes - 1}, got {found}")
        return image, classes

    def _choose(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coordinates and labels of the voxels of a volume that the atlas takes."""
        grid = VoxelGrid(classes.shape[1:], self.step)
        indices = grid.indices()
        labels = classes[0][indices.to(classes.device).unbind(1)].cpu()
        if labels.any():
            centers = grid.centers(indices)
            is_near = self._is_near(centers, centers[labels > 0])
            indices, labels = indices[is_near], labels[is_near]
        chosen = choose_voxels(indices, labels, self.max_background, self.seed)
        return grid.centers(indices[chosen]).to(self.centers), labels[chosen].to(self.labels)

    def _is_near(self, centers: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
        """Return which places lie within the search radius of those of a foreground."""
        if self.search_radius is None:
            return torch.ones(len(centers), dtype=torch.bool)
        distances, _ = cKDTree(foreground.cpu()).query(centers.cpu(), distance_upper_bound=self.search_radius)
        return torch.from_numpy(np.isfinite(distances))

    def _recipe(self, image: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor) -> int:
        """Return a hash of all that a volume's rows come from."""
        probes = self._describe(image, centers[:: max(len(centers) // _NUM_PROBES, 1)])
        return _hash(
            b"".join(part.cpu().numpy().tobytes() for part in (_plain(image).float(), centers, labels, probes))
        )

    def _known(self, recipe: int) -> dict[str, torch.Tensor] | None:
        """Return the rows of a volume that this atlas, or a recalled one, has already."""
        if recipe in self.recipes.tolist():
            is_own = self.volumes == self.recipes.tolist().index(recipe)
            return {name: getattr(self, name)[is_own] for name in _ROWS}
        return self.recalled.pop(recipe, None)

    def _describe(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Return descriptors as the atlas holds them."""
        volume = self._samplable(volume)
        if not self.caches:
            return self._extract(self.descriptor, volume, centers)
        return torch.cat([cache(volume, centers) for cache in self.caches], dim=1)

    def _samplable(self, volume: torch.Tensor) -> torch.Tensor:
        """Return a volume where the descriptors are, with two voxels or more along each axis."""
        volume = volume.to(self.centers.device, torch.float32)
        for axis in (1, 2, 3):
            if volume.shape[axis] == 1:
                volume = torch.cat((volume, volume), dim=axis)
        return volume

    def _extract(self, descriptor: VoxelDescriptor, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        descriptors = extract_descriptors(volume, descriptor, centers, self.batch_size).half()
        if not descriptors.isfinite().all():
            raise ValueError(
                "image must be finite and normalized, got descriptors that are NaN or Inf in half precision"
            )
        return descriptors

    def _features(self, descriptors: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Return what is compared, in single precision."""
        features = descriptors.float()
        if self.normalization == "l2":
            features = F.normalize(features)
        elif self.normalization == "standardize":
            std, mean = torch.std_mean(self.descriptors.float(), dim=0, correction=0)
            features = (features - mean) / std.where(std > 0, 1)
        if self.position_weight:
            features = torch.cat((features, self.position_weight * centers), dim=1)
        return features

    def _votes(self, volume: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return the votes for one volume of shape `(1, H, W, D)`, given the features of the atlas."""
        grid = VoxelGrid(volume.shape[1:], self.step)
        centers = grid.centers(grid.indices()).to(self.centers)
        places = self._is_near(centers, self.centers[self.labels > 0]).to(centers.device).nonzero().squeeze(1)
        descriptors = self._describe(volume, centers[places])
        is_described = _is_described(descriptors)
        places = places[is_described]
        queries = self._features(descriptors[is_described], centers[places])
        squares, indices = nearest_neighbors(queries, features, min(self.num_neighbors, len(features)))
        votes = features.new_zeros((len(centers), self.num_classes))
        votes[:, 0] = 1
        shares = vote(self.labels[indices], squares.sqrt(), self.num_classes, self.voting).to(votes)
        shares[:, 0] *= self.background_weight
        votes[places] = shares / shares.sum(dim=1, keepdim=True)
        upsampled = grid.upsample(votes)
        if self.smoothing:
            everywhere = torch.cat((upsampled, torch.ones_like(upsampled[:1])))
            total = _plain(GaussianSmooth(self.smoothing, approx="sampled")(everywhere))
            upsampled = total[:-1] / total[-1:]  # beyond the border, nothing votes
        return upsampled.to(volume.device)

    def _append(self, identifier: int, fingerprint: int, recipe: int, rows: Mapping[str, torch.Tensor]) -> None:
        """Put a volume behind the others, and take the one of the same identifier away."""
        is_other = self.volume_ids != identifier
        is_kept = is_other[self.volumes.long()]
        size = int(is_kept.sum()) + len(rows["labels"])
        if self.max_voxels is not None and size > self.max_voxels:
            raise ValueError(f"max_voxels must be at least {size} for one more volume, got {self.max_voxels}")
        number = is_other.cumsum(0) - 1  # of each volume that stays
        rows = {**rows, "volumes": self.volumes.new_full((len(rows["labels"]),), int(is_other.sum()))}
        self.volumes = number[self.volumes.long()].to(self.volumes)
        for name, added in rows.items():
            setattr(self, name, torch.cat((getattr(self, name)[is_kept], added)))
        for name, value in (("volume_ids", identifier), ("fingerprints", fingerprint), ("recipes", recipe)):
            buffer = getattr(self, name)
            setattr(self, name, torch.cat((buffer[is_other], buffer.new_tensor([value]))))
        self.class_counts = self.labels.long().bincount(minlength=self.num_classes)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the atlas the sizes that it has in a state dict, before this is copied."""
        for name in _BUFFERS:
            value, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(value, torch.Tensor):
                setattr(self, name, own.new_empty(value.shape, dtype=value.dtype if name == "labels" else own.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
        shapes = {name: tuple(getattr(self, name).shape) for name in _BUFFERS}
        rows, volumes = len(self.labels), len(self.volume_ids)
        expected = {
            "descriptors": (rows, self.descriptor.out_channels),
            "centers": (rows, 3),
            "volumes": (rows,),
            "fingerprints": (volumes,),
            "recipes": (volumes,),
        }
        wrong = [
            f"{name} must have shape {shape}, got {shapes[name]}"
            for name, shape in expected.items()
            if shapes[name] != shape
        ]
        if not wrong and rows:
            if self._lacking():
                wrong.append(_refusal(self._lacking()))
            if int(self.labels.max()) >= self.num_classes or int(self.labels.min()) < 0:
                wrong.append(f"labels must be from 0 to {self.num_classes - 1}, got {self.labels.unique().tolist()}")
            if not 0 <= int(self.volumes.min()) <= int(self.volumes.max()) < volumes:
                wrong.append(f"volumes must be below {volumes}, got {self.volumes.unique().tolist()}")
        args[-1].extend(wrong or self._adopt())

    def _adopt(self) -> list[str]:
        """Take the search radius of a loaded atlas where it is the smaller one, and tell what must not differ."""
        try:
            settings = dict(json.loads(bytes(self.settings.tolist())))
        except (TypeError, ValueError):
            return ["settings must be JSON"]
        radii = [radius for radius in (self.search_radius, settings.pop("search_radius", None)) if radius is not None]
        self.search_radius = min(radii, default=None)
        wrong = [
            f"{name} must be that of the atlas, {settings[name]}, got {value}"
            for name, value in self.descriptor.settings.items()
            if settings.get(name, value) != value
        ]
        self.settings = self._own_settings().to(self.settings.device)
        return wrong

    def _own_settings(self) -> torch.Tensor:
        """Return the search radius and the settings of the descriptor as a text, byte by byte."""
        text = json.dumps({**self.descriptor.settings, "search_radius": self.search_radius}, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _refusal(lacking: list[int]) -> str:
    return (
        f"atlas must have voxels of every class, got none of {lacking}; add volumes that have them, or describe more "
        "voxels (step, search_radius)"
    )


def _background(image: torch.Tensor, num_classes: int) -> torch.Tensor:
    votes = image.new_zeros((len(image), num_classes, *image.shape[2:]))
    votes[:, 0] = 1
    return _plain(votes)


def transfer_descriptors(atlas: PlanarAtlas, path: str | Path | None) -> PlanarAtlas:
    """Copy pretrained descriptors into an atlas, see `load_descriptors`, unless its kind has nothing to learn."""
    if list(atlas.descriptor.parameters()):
        load_descriptors(atlas.descriptor, path)
    return atlas


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _is_described(descriptors: torch.Tensor) -> torch.Tensor:
    """Tell which descriptors are not zero, but for rounding errors: below its normal numbers, half precision fades."""
    return (descriptors.abs() >= torch.finfo(torch.float16).smallest_normal).any(dim=1)


def _hash(content: bytes | memoryview) -> int:
    """Return a 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _fingerprint(volume: torch.Tensor) -> int:
    return _hash(volume.float().cpu().contiguous().numpy().data)
