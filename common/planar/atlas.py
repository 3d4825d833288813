"""Segmentation with few labels: every voxel takes the classes of the most similar voxels of labeled volumes.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from monai.utils import convert_to_tensor

from common.cli import InputError, check_choice, check_each
from common.cli.options import NON_NEGATIVE, POSITIVE, POSITIVE_INT
from common.data import MAX_DOUBT, is_known
from common.training import load_network

from .descriptor_cache import DescriptorCache
from .descriptors import JointDescriptor, VoxelDescriptor, extract_descriptors, load_descriptors
from .neighbors import NORMALIZATIONS, FeatureSpace, nearest_neighbors
from .registration import carry_label, fuse_shares, principal_components, register_points
from .storage import AtlasStorage, stable_hash
from .voting import WEIGHTINGS, vote, vote_image, weight_background
from .voxels import VoxelGrid, choose_voxels, within_radius

__all__ = ["PlanarAtlas", "transfer_descriptors"]

logger = logging.getLogger(__name__)

_NUM_PLACES = 9  # along each axis of a volume that is described as a whole

_NUM_PROBES = 8  # voxels that are described to see whether a volume's descriptors would be those that are known


@dataclass(frozen=True)
class Neighborhood:
    """What an atlas finds for an image, from which votes are counted.

    Args:
        points: indices of the points of a grid of the image that are near an organ and can be described, of shape
            `(N,)`.
        labels: classes of the nearest voxels of the atlas, nearest first, of shape `(N, num_neighbors)`.
        distances: of these, not squared, likewise.
        carried: shares of the classes that registered volumes carry over, of shape `(num_classes, H, W, D)`.
        grid: of the image.
    """

    points: torch.Tensor
    labels: torch.Tensor
    distances: torch.Tensor
    carried: torch.Tensor | None
    grid: VoxelGrid


class PlanarAtlas(AtlasStorage):
    """Atlas of described voxels of labeled volumes, and the segmentation of other volumes by their votes.

    Training means `add`ing labeled volumes, and inference is an ordinary call. The atlas is part of the state dict and
    takes its size, and the number of classes, from the one that is loaded. See `AtlasStorage` for its buffers.

    Args:
        descriptor: of places in a volume, such as `LearnedDescriptor`.
        num_classes: background (0) included.
        step: between described voxels along each axis; 4 in the paper.
        num_neighbors: voxels of the atlas which vote on a voxel; 21 in the paper, fewer are better for a small atlas.
        voting: `majority`, or `distance` for the weights of `vote`.
        normalization: of descriptors: `none`, `l2` or `standardize`, see `FeatureSpace`.
        position_weight: factor of the coordinates (-1 to 1 along each axis) which are appended to the normalized
            descriptors; 0 appends nothing.
        search_radius: farther than this from every voxel of the atlas that is not background, in normalized
            coordinates, a voxel is background without being described, and the atlas takes no background; `None`: all
            voxels are described. It supposes that all volumes show the same field of view. Of a loaded atlas, the
            smaller radius counts.
        smoothing: standard deviation in voxels of the Gaussian by which votes are averaged with those around them.
        background_weight: of a vote for the background, against 1 of any other: larger ones make organs smaller. Of the
            organs all voxels vote, and of the background often but a sample.
        fusion_weight: how much the labels count that registered volumes carry over, beside votes: the exponent of their
            shares in a product, see `fuse_shares`. Above 0, an added volume keeps its label, and all described voxels.
            It supposes that all volumes show the same field of view. 0: votes alone, as in the paper.
        max_background: voxels of the background of one added volume that vote, evenly in space; `None`: all.
        max_voxels: of the whole atlas; `None`: any number.
        cache_dir: folder in which descriptors are kept, see `DescriptorCache`; `None`: nothing is kept.
        seed: of the choice of background voxels.
        weights: state dict of the atlas, loaded where the file exists: `monai.bundle.load` would leave out what has
            another size than in an empty atlas.

    Attributes:
        batch_size: places that are described at once, see `extract_descriptors`; `None`: what suits the device.
    """

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
        fusion_weight: float = 0.0,
        max_background: int | None = None,
        max_voxels: int | None = None,
        cache_dir: str | Path | None = None,
        seed: int = 0,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(descriptor, num_classes, search_radius, max_voxels)
        check_choice("voting", voting, WEIGHTINGS)
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_each(POSITIVE_INT, num_neighbors=num_neighbors)
        check_each(POSITIVE_INT.or_null, max_background=max_background)
        check_each(NON_NEGATIVE, position_weight=position_weight, smoothing=smoothing, fusion_weight=fusion_weight)
        check_each(POSITIVE, background_weight=background_weight)
        self.step = step
        self.num_neighbors = num_neighbors
        self.voting = voting
        self.normalization = normalization
        self.position_weight = position_weight
        self.smoothing = smoothing
        self.background_weight = background_weight
        self.fusion_weight = fusion_weight
        self.max_background = max_background
        self.seed = seed
        self.batch_size: int | None = None
        self.caches: list[DescriptorCache] = []
        if cache_dir is not None:  # the parts of a joint descriptor are kept each by itself, and serve other ones
            parts = descriptor.parts if isinstance(descriptor, JointDescriptor) else [descriptor]
            self.caches = [DescriptorCache(cache_dir, partial(self._extract, part)) for part in parts]
        if weights is not None and Path(weights).is_file():
            load_network(self, weights)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the share of each class among the neighbors of each voxel.

        Voxels between the described ones take interpolated shares. Where the descriptor is all zero, as where zeros
        surround a voxel, the vote is for the background.

        Args:
            image: normalized intensities of shape `(B, C, H, W, D)`.

        Returns:
            Votes of shape `(B, num_classes, H, W, D)`, times the shares of carried labels where there are any; they add
            up to 1 in each voxel: the largest one tells its class.
        """
        self._check_shape(image, "B")
        image = convert_to_tensor(image)
        if not len(self.labels):
            logger.warning("atlas is empty: all voxels are background")
            votes = image.new_zeros((len(image), self.num_classes, *image.shape[2:]))
            votes[:, 0] = 1
            return votes
        self._warn(image)
        return torch.stack([self.count_votes(found).to(image.device) for found in self.search(image)])

    @torch.no_grad()
    def search(self, image: torch.Tensor) -> list[Neighborhood]:
        """Find the neighbors of each image of a batch of shape `(B, C, H, W, D)`."""
        voters = self.descriptors[self.is_voter]
        space = FeatureSpace(voters, self.normalization, self.position_weight)
        features = space(voters, self.centers[self.is_voter])
        return [self._search_one(volume, space, features) for volume in image]

    @torch.no_grad()
    def count_votes(self, found: Neighborhood) -> torch.Tensor:
        """Return the votes of the first `num_neighbors` on an image, of shape `(num_classes, H, W, D)`."""
        labels, distances = found.labels[:, : self.num_neighbors], found.distances[:, : self.num_neighbors]
        shares = vote(labels, distances, self.num_classes, self.voting).float()
        shares = weight_background(shares, self.background_weight)
        votes = vote_image(shares, found.points, found.grid, self.smoothing)
        return votes if found.carried is None else fuse_shares(votes, found.carried, self.fusion_weight)

    @torch.no_grad()
    def add(self, image: torch.Tensor, label: torch.Tensor, volume_id: str) -> int:
        """Add a labeled volume, in place of the one of the same identifier if there is one.

        Only voxels whose class is known are taken, and those of a pseudo-label that are more likely right than wrong.
        Where others are open, the known voxel nearest to each point of the grid stands for it. The background of a
        volume that is labeled with a part of the classes is open, so that another one must have background.

        Args:
            image: normalized intensities of shape `(C, H, W, D)`.
            label: of shape `(1 or 2, H, W, D)`, see `common.data.partial_labels`.
            volume_id: by which the volume is known.

        Returns:
            The number of its voxels in the atlas.

        Raises:
            ValueError: when a shape or a class is wrong, nothing can be described, or the atlas would become too large.
        """
        image, classes, known = self._check(convert_to_tensor(image), convert_to_tensor(label))
        if not known.any():
            logger.warning("%s: no voxel has a known class, none is taken", volume_id)
            nothing = {name: getattr(self, name)[:0] for name in ("centers", "labels", "descriptors", "is_voter")}
            self._store(str(volume_id), stable_hash(image.float()), stable_hash(image.float()), nothing)
            return 0
        centers, labels, is_voter = self._choose(classes, known)
        recipe = self._recipe(image, centers, labels, is_voter)
        rows = self._known_rows(recipe)
        if rows is None:
            descriptors = self._describe(image, centers)
            is_described = _is_described(descriptors)
            if not is_described.any():
                raise InputError(
                    f"image must show something that can be described, got nothing in {volume_id}; "
                    "look at the scan, or leave it out"
                )
            rows = {"centers": centers, "labels": labels, "is_voter": is_voter, "descriptors": descriptors}
            rows = {name: value[is_described] for name, value in rows.items()}
        label_map = classes[0].where(known[0], -1) if self.fusion_weight else None
        self._store(str(volume_id), stable_hash(image.float()), recipe, rows, label_map)
        is_present = classes[known].bincount(minlength=self.num_classes).cpu() > 0
        is_kept = rows["labels"].long().bincount(minlength=self.num_classes).cpu() > 0
        lost = (is_present & ~is_kept).nonzero().flatten().tolist()
        if lost:
            logger.warning("%s: classes %s are not in the atlas; a smaller step may find them", volume_id, lost)
        return len(rows["labels"])

    @torch.no_grad()
    def describe(self, image: torch.Tensor) -> torch.Tensor:
        """Describe places that are evenly spread over a volume, as many in every volume.

        Args:
            image: normalized intensities of shape `(C, H, W, D)`.

        Returns:
            Tensor of shape `(out_channels, 9, 9, 9)`, of what the descriptor, not the atlas, makes of them.
        """
        axis = (2 * torch.arange(_NUM_PLACES) + 1) / _NUM_PLACES - 1
        places = torch.cartesian_prod(axis, axis, axis).to(self.centers)
        volume = self._samplable(convert_to_tensor(image))
        return self._extract(self.descriptor, volume, places).T.unflatten(1, (_NUM_PLACES,) * 3)  # no voxels to keep

    def _warn(self, image: torch.Tensor) -> None:
        """Warn of what makes the votes on a batch other than they seem."""
        missing = self._missing_classes()
        if missing:
            logger.warning("atlas has no voxels of %s: nothing becomes one of these classes", missing)
        num_voters = int(self.is_voter.sum())
        if self.num_neighbors > num_voters:
            logger.warning("num_neighbors %d is more than the atlas has, all %d vote", self.num_neighbors, num_voters)
        if self.fusion_weight and not self.map_sizes.all():
            logger.warning(
                "atlas has volumes without a label map, which only vote; make it with a fusion_weight above 0"
            )
        known = self.fingerprints.tolist()
        if any(stable_hash(volume.float()) in known for volume in image):
            logger.warning("image is in the atlas: it finds itself, which tells nothing about other images")

    def _search_one(self, volume: torch.Tensor, space: FeatureSpace, features: torch.Tensor) -> Neighborhood:
        """Find the neighbors of a volume of shape `(C, H, W, D)`, given the features of the atlas."""
        grid = VoxelGrid(volume.shape[1:], self.step)
        centers = grid.centers(grid.indices()).to(self.centers)
        is_near = within_radius(centers, self.centers[self.labels > 0], self.search_radius)
        points = is_near.to(centers.device).nonzero().squeeze(1)
        descriptors = self._describe(volume, centers[points])
        is_described = _is_described(descriptors)
        points = points[is_described]
        descriptors = descriptors[is_described]
        queries = space(descriptors, centers[points])
        squares, neighbors = nearest_neighbors(queries, features, min(self.num_neighbors, len(features)))
        carried = None
        if self.fusion_weight and self.map_sizes.all(dim=1).any() and len(points):
            carried = self._carry_labels(descriptors, points.to(descriptors.device), grid)
        return Neighborhood(points, self.labels[self.is_voter][neighbors], squares.sqrt(), carried, grid)

    def _carry_labels(self, descriptors: torch.Tensor, points: torch.Tensor, grid: VoxelGrid) -> torch.Tensor:
        """Return the shares of the classes that the registered volumes carry to an image, all volumes alike.

        Args:
            descriptors: of points of a grid of the image.
            points: indices of these, of shape `(N,)`.
            grid: of the image.
        """
        mean, projection = principal_components(self.descriptors)
        fixed = (descriptors.float() - mean) @ projection
        indices = torch.stack(torch.unravel_index(points, grid.size), dim=1)
        total = fixed.new_zeros((self.num_classes, *grid.spatial_size))
        for index in range(len(self.map_sizes)):
            label = self._label_map(index)
            if label is not None:
                is_own = self.volumes == index
                moving = (self.descriptors[is_own].float() - mean) @ projection
                field = register_points(fixed, indices, grid.size, moving, grid.find(self.centers[is_own]))
                total += carry_label(label, self.num_classes, field, grid)
        return total / total.sum(dim=0).clamp(min=1)

    def _check(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return an image, its classes as whole numbers and which of them are known, refusing what is neither."""
        self._check_shape(image)
        expected = (1, *image.shape[1:])
        if label.ndim != 4 or label[:1].shape != expected or len(label) > 2:
            raise InputError(f"label must have the shape of image {expected}, got {tuple(label.shape)}")
        classes = label[:1].long()
        is_wrong = (label[:1] != classes) | (classes >= self.num_classes)
        if is_wrong.any():
            found = label[:1][is_wrong].unique().tolist()
            raise InputError(
                f"label must have classes from 0 to {self.num_classes - 1}, got {found}; list them in "
                "labels of dataset.json"
            )
        return image, classes, is_known(label, MAX_DOUBT // 2)

    def _check_shape(self, image: torch.Tensor, *batch: str) -> None:
        """Refuse an image of other channels than the descriptor takes, or of other axes than `batch` and four."""
        channels = self.descriptor.in_channels
        axes = (*batch, "C" if channels is None else channels, "H", "W", "D")
        if image.ndim != len(axes) or channels not in (None, image.shape[-4]):
            raise InputError(f"image must have shape ({', '.join(map(str, axes))}), got {tuple(image.shape)}")

    def _choose(self, classes: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return coordinates and labels of the known voxels of a volume that are kept, and which of them vote."""
        grid = VoxelGrid(classes.shape[1:], self.step)
        indices = grid.known_indices(known[0])
        labels = classes[0][indices.to(classes.device).unbind(1)].cpu()
        if labels.any():
            centers = grid.centers(indices)
            is_near = within_radius(centers, centers[labels > 0], self.search_radius)
            indices, labels = indices[is_near], labels[is_near]
        is_voter = torch.zeros(len(indices), dtype=torch.bool)
        is_voter[choose_voxels(indices, labels, self.max_background, self.seed)] = True
        is_kept = torch.ones_like(is_voter) if self.fusion_weight else is_voter
        centers = grid.centers(indices[is_kept]).to(self.centers)
        return centers, labels[is_kept].to(self.labels), is_voter[is_kept].to(self.is_voter)

    def _recipe(self, image: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor, is_voter: torch.Tensor) -> int:
        """Return a hash of all that a volume's rows come from."""
        probes = self._describe(image, centers[:: max(len(centers) // _NUM_PROBES, 1)])
        others = [] if is_voter.all() else [is_voter]
        return stable_hash(image.float(), centers, labels, probes, *others)

    def _describe(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Return descriptors as the atlas holds them."""
        volume = self._samplable(volume)
        if not self.caches:
            return self._extract(self.descriptor, volume, centers)
        return torch.cat([cache(volume, centers) for cache in self.caches], dim=1)

    def _samplable(self, volume: torch.Tensor) -> torch.Tensor:
        """Return a volume where the descriptors are, with two voxels or more along each axis."""
        volume = volume.to(self.centers.device, torch.float32)
        return volume.expand(-1, *(max(edge, 2) for edge in volume.shape[1:]))

    def _extract(self, descriptor: VoxelDescriptor, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        descriptors = extract_descriptors(volume, descriptor, centers, self.batch_size).half()
        if not descriptors.isfinite().all():
            raise InputError(
                "image must be finite and normalized, got descriptors that are NaN or Inf in half "
                "precision; look at clip and normalization"
            )
        return descriptors


def transfer_descriptors(
    atlas: PlanarAtlas, path: str | Path | None, modality: Sequence[str] | None = None
) -> PlanarAtlas:
    """Copy pretrained descriptors into an atlas, see `load_descriptors`, unless its kind has nothing to learn."""
    if list(atlas.descriptor.parameters()):
        load_descriptors(atlas.descriptor, path, modality)
    return atlas


def _is_described(descriptors: torch.Tensor) -> torch.Tensor:
    """Tell which descriptors are not zero, but for rounding errors: below its normal numbers, half precision fades."""
    return (descriptors.abs() >= torch.finfo(torch.float16).smallest_normal).any(dim=1)
