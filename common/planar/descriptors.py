"""Descriptors of voxels: learned ones, those that they are compared with, and combinations.

Source: M. Blendowski et al., MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision).
The position alone is not among the paper's descriptors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from common.cli import check_each, has_weights
from common.cli.options import POSITIVE, POSITIVE_INT
from common.training import check_pretrained_channels, copy_weights, load_weights, match_parts

from .cubes import sample_cubes
from .networks import CubicDescriptor, PlanarDescriptor
from .pairs import Lattice, sample_patches
from .shared_slabs import describe_slabs
from .slabs import sample_slabs

__all__ = [
    "GrayValueDifference",
    "JointDescriptor",
    "LearnedCubeDescriptor",
    "LearnedDescriptor",
    "PositionDescriptor",
    "VoxelDescriptor",
    "extract_descriptors",
    "load_descriptors",
]

logger = logging.getLogger(__name__)

_POINT = Lattice((0.0, 0.0, 0.0), (1, 1, 1))

_CPU_BATCH_SIZE = 32

_GPU_BATCH_SIZE = 2048


class VoxelDescriptor(nn.Module):
    """Base class of descriptors of voxels: `out_channels` numbers for a place in a volume.

    Attributes:
        in_channels: channels of a volume; `None`: any number.
        out_channels: numbers for each place.
        settings: what else must be the same for descriptors to be comparable, by the names of the bundle's options.
    """

    in_channels: int | None = None
    out_channels: int
    settings: Mapping[str, float | str] = MappingProxyType({})

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Describe places of a volume.

        Args:
            volume: normalized intensities of shape `(in_channels, H, W, D)`.
            centers: coordinates of shape `(N, 3)`; along each axis of the volume they run from -1 to 1.

        Returns:
            Tensor of shape `(N, out_channels)`.
        """
        raise NotImplementedError

    def describe(self, volume: torch.Tensor, centers: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Describe places batch by batch, with the arguments and the result of `forward`."""
        output = torch.empty((len(centers), self.out_channels), device=volume.device)
        for rows, places in zip(output.split(batch_size), centers.split(batch_size), strict=True):
            if len(places):
                rows.copy_(self(volume, places))
        return output


class LearnedDescriptor(VoxelDescriptor):
    """Learned descriptor of the slabs around a place: a planar network for each normal axis, side by side.

    With the weights of the pretext tasks it is the paper's HEATMAP or REG2D, with initial ones its XAVIER. The slabs
    are those of the pretraining: for the other arguments, see `sample_slabs`.

    Args:
        out_channels: numbers from each of the three networks.
        features: see `PlanarDescriptor`.
        in_channels: channels of a volume.
    """

    def __init__(
        self,
        out_channels: int = 64,
        features: int = 32,
        half_width: float = 0.4,
        half_depth: float = 0.05,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        num_planes = PlanarDescriptor.num_planes * in_channels
        self.descriptors = nn.ModuleList(PlanarDescriptor(num_planes, out_channels, features) for _ in range(3))
        self.in_channels = in_channels
        self.out_channels = 3 * out_channels
        self.slab = (half_width, half_depth, mode, padding_mode)
        widths = {"half_width": float(half_width), "half_depth": float(half_depth)}
        self.settings = {**widths, "sampling": mode, "padding": padding_mode}

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        parts = [
            descriptor(sample_slabs(volume, centers, axis, *self.slab)).flatten(1)
            for axis, descriptor in enumerate(self.descriptors)
        ]
        return torch.cat(parts, dim=1)

    def describe(self, volume: torch.Tensor, centers: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Describe places batch by batch; where slabs are plain slices, overlapping ones share work."""
        parts = []
        networks: list[PlanarDescriptor] = list(self.descriptors)  # type: ignore[arg-type]
        for axis, network in enumerate(networks):
            part = describe_slabs(network, volume, centers, axis, self.slab, batch_size)
            if part is None:
                return super().describe(volume, centers, batch_size)
            parts.append(part)
        return torch.cat(parts, dim=1)


class LearnedCubeDescriptor(VoxelDescriptor):
    """Learned descriptor of the cube around a place, which the paper calls DOERSCH.

    The cubes are those of the pretraining: for the other arguments, see `sample_cubes`.

    Args:
        out_channels: numbers for each place.
        features: see `CubicDescriptor`.
        in_channels: channels of a volume.
    """

    def __init__(
        self,
        out_channels: int = 192,
        features: int = 32,
        half_width: float = 0.2,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.descriptor = CubicDescriptor(in_channels, out_channels, features)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.cube = (half_width, mode, padding_mode)
        self.settings = {"cube_half_width": float(half_width), "sampling": mode, "padding": padding_mode}

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        return self.descriptor(sample_cubes(volume, centers, *self.cube)).flatten(1)


class GrayValueDifference(VoxelDescriptor):
    """Differences of gray values between two places near a voxel, which the paper calls GVDIFF.

    Args:
        out_channels: number of differences in each channel.
        sigma: standard deviation of the offsets from the voxel, which are normally distributed, along each axis.
        centered: take differences to the voxel itself; otherwise, both places have random offsets.
        seed: of the offsets.
        mode: `bilinear` or `nearest`, see `sample_patches`.
        padding_mode: `zeros` or `border`, see `sample_patches`.
        in_channels: channels of a volume, whose differences are taken at the same places and come one after the other.
    """

    offsets: torch.Tensor

    def __init__(
        self,
        out_channels: int = 192,
        sigma: float = 0.4,
        centered: bool = False,
        seed: int = 0,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        check_each(POSITIVE_INT, out_channels=out_channels, in_channels=in_channels)
        check_each(POSITIVE, sigma=sigma)
        self.in_channels = in_channels
        self.out_channels = in_channels * out_channels
        self.mode = mode
        self.padding_mode = padding_mode
        offsets = sigma * torch.randn(out_channels, 2, 3, generator=torch.Generator().manual_seed(seed))
        if centered:
            offsets[:, 1] = 0
        self.register_buffer("offsets", offsets)
        self.settings = {"offset_sigma": float(sigma), "sampling": mode, "padding": padding_mode}

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        places = (centers.view(-1, 1, 1, 3) + self.offsets).view(1, -1, 3)
        values = sample_patches([volume], places, _POINT, self.mode, self.padding_mode)
        first, second = values.reshape(-1, len(self.offsets), 2, len(volume)).unbind(2)
        return (first - second).transpose(1, 2).flatten(1)


class PositionDescriptor(VoxelDescriptor):
    """Position of a voxel, as a baseline: three coordinates, and a 1, with which no place is all zero."""

    out_channels = 4

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        return torch.cat((centers, torch.ones_like(centers[:, :1])), dim=1)


class JointDescriptor(VoxelDescriptor):
    """Concatenation of descriptors, such as a learned one and differences of gray values.

    Args:
        parts: descriptors, in the order of their numbers.
    """

    parts: Sequence[VoxelDescriptor]

    def __init__(self, parts: Sequence[VoxelDescriptor]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)  # type: ignore[assignment]
        self.in_channels = next((part.in_channels for part in parts if part.in_channels is not None), None)
        self.out_channels = sum(part.out_channels for part in parts)
        self.settings = dict(item for part in parts for item in part.settings.items())

    def forward(self, volume: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(volume, centers) for part in self.parts], dim=1)

    def describe(self, volume: torch.Tensor, centers: torch.Tensor, batch_size: int) -> torch.Tensor:
        return torch.cat([part.describe(volume, centers, batch_size) for part in self.parts], dim=1)


def extract_descriptors(
    volume: torch.Tensor, descriptor: VoxelDescriptor, centers: torch.Tensor, batch_size: int | None = None
) -> torch.Tensor:
    """Describe places of a volume, batch by batch and without gradients.

    A network sees the patch around each place on its own, since its group norms take their statistics from the patch. A
    pass over the whole volume at once would be another descriptor.

    Args:
        volume: normalized intensities of shape `(C, H, W, D)`.
        descriptor: moved nowhere; the volume and the centers are on its device.
        centers: coordinates of shape `(N, 3)`; along each axis of the volume they run from -1 to 1.
        batch_size: places at once; if not given, as many as the caches of a CPU hold, or keep a GPU busy.

    Returns:
        Tensor of shape `(N, out_channels)`, in single precision.
    """
    if batch_size is None:
        batch_size = _CPU_BATCH_SIZE if volume.device.type == "cpu" else _GPU_BATCH_SIZE
    with torch.no_grad():
        return descriptor.describe(volume, centers, batch_size)


def load_descriptors(
    descriptor: VoxelDescriptor, path: str | Path | None, modality: Sequence[str] | None = None
) -> VoxelDescriptor:
    """Copy the descriptors of a pretext task's networks, without their heads; all of their tensors or none.

    Args:
        descriptor: of the same sizes as the pretrained one; changed in place. Of a `JointDescriptor`, every part that
            learns is loaded.
        path: state dict of the pretext task's network; `None`, `null` or `random` keeps the initial weights.
        modality: name of each channel, of which the weights must know as many; not compared if not given.

    Returns:
        The descriptor.

    Raises:
        FileNotFoundError: when there are no weights.
        ValueError: when the weights do not fit.
    """
    if not has_weights(path):
        logger.info("descriptors: initial weights, nothing transferred")
        return descriptor
    if modality is not None:
        check_pretrained_channels(path, modality)
    if isinstance(descriptor, JointDescriptor):
        for part in descriptor.parts:
            if list(part.parameters()):
                load_descriptors(part, path)
        return descriptor
    prefixes = {name.split(".")[0] + "." for name in descriptor.state_dict()}
    copy_weights(descriptor, match_parts(descriptor, load_weights(path), sorted(prefixes), path), path, "descriptors")
    return descriptor
