"""Tumor simulation: bodies of foreign texture that lie over a scan without tumors, more or less transparently.

Source: X. Zhang, W. Xie, C. Huang, Y. Zhang, Y. Wang, *Self-supervised tumor segmentation through layer decomposition*,
arXiv 2021 (https://arxiv.org/abs/2109.03230), section 3.2. Scan and tumor share one intensity scale, as the composition
demands; a normalization of each layer by its own statistics would break it. The texture is deformed on a coarse grid
around the tumor only, where the authors' code deforms the whole scan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import RandomizableTransform

from common.cli import InputError, check_choice, check_each
from common.cli.options import INT, NON_NEGATIVE

from .options import INTENSITY_RATIO
from .shape import RandStarShape, check_ranges, keep_joined

__all__ = ["LAYERS", "Layers", "RandTumorLayers", "TumorParameters", "compose_layers", "split_layers"]

# placement
_NUM_PLACES = 16  # voxels that are tried as the center of a body
_MIN_SHARE = 0.9  # of a body that must lie in the organ
_SHRINK = 0.6  # of the volume, when no place is good enough
_MAX_SHRINKS = 8
_NUM_STEPS = 8  # between a center and a voxel, where the organ must not be left
# border and texture
_MAX_EDGE_BLUR = 0.2  # of the radius of a ball of the tumor's volume
_MIN_MASK = 0.01  # of the largest value of a blurred one, below which there is no tumor
_REACH = 3.0  # standard deviations, of a blur
_CONTROL_POINTS = 5  # of the deformation, along each axis of the box


class Layers(NamedTuple):
    """Layers of scans, each a tensor with channels, in the order in which a simulation returns them side by side."""

    organ: torch.Tensor  # the scan without a tumor, of as many channels as the scan
    tumor: torch.Tensor  # likewise
    mask: torch.Tensor  # of the tumor, from 0 to 1; this and the opacity have one channel
    alpha: torch.Tensor  # opacity
    image: torch.Tensor  # the scan with the tumor, of its channels


LAYERS = Layers._fields


class TumorParameters(NamedTuple):
    """Parameters that were drawn for one tumor."""

    center: tuple[int, int, int]  # voxel of the patch
    volume_mm3: float  # of the whole body; less may lie in the patch, or in the organ
    alpha: float  # opacity
    intensity_ratio: tuple[float, ...]  # mean intensity of the texture inside the tumor over the organ's, by channel
    blur: float  # standard deviation in mm by which the texture was blurred
    edge_blur: float  # standard deviation in mm by which the mask was blurred


class RandTumorLayers(RandomizableTransform):
    """Simulated tumors in a patch of a scan without any.

    All channels of a scan have the same bodies, masks and opacities, and their texture comes from the same place of the
    donor, deformed and blurred alike. Its intensity is that of each channel.

    Args:
        shape: draws the bodies; `RandStarShape()` if not given.
        alpha: smallest and largest opacity.
        intensity_ratio: ranges of the mean intensity of a tumor over that of the organ, one of which is chosen each
            time, such as `[[0.5, 0.8], [1.2, 1.5]]`; intensities are 0 where there is nothing, see `NormalizeByOrgand`.
            Each channel draws on its own, from these ranges or, of a list of such lists, from those of its own:
            `[[[1.2, 3.0]], [[0.5, 0.8], [1.2, 1.5]]]`. `None`: the texture keeps its intensities.
        elastic: standard deviation in mm of the displacements that deform the texture; 0: none.
        blur: smallest and largest standard deviation in mm by which the texture is blurred.
        edge_blur: smallest and largest standard deviation in mm by which the border of a tumor is softened; at most
            0.2 of the radius of a ball of its volume, so that small ones are not blurred away.
        num_tumors: smallest and largest number in a patch.
        target: of the tumor's layer: `texture` inside the mask, or `blended`, the image inside the mask with opacity 1.
        prob: probability of putting any tumor into a patch.

    Attributes:
        parameters: of the tumors of the last patch.

    Raises:
        TypeError: when a bound is no number of its kind.
        ValueError: when a range is empty or out of range, or `target` is unknown.
    """

    def __init__(
        self,
        shape: RandStarShape | None = None,
        alpha: Sequence[float] = (0.2, 0.8),
        intensity_ratio: Sequence[Any] | None = ((1.0, 3.0),),
        elastic: float = 5.0,
        blur: Sequence[float] = (0.0, 2.0),
        edge_blur: Sequence[float] = (0.0, 0.0),
        num_tumors: Sequence[int] = (1, 1),
        target: str = "texture",
        prob: float = 0.9,
    ) -> None:
        super().__init__(prob)
        check_each(NON_NEGATIVE, elastic=elastic)
        check_each(INTENSITY_RATIO, intensity_ratio=intensity_ratio)
        check_choice("target", target, ("texture", "blended"))
        self.intensity_ratio = None if intensity_ratio is None else _ranges_by_channel(intensity_ratio)
        check_ranges(INT, num_tumors=num_tumors)
        check_ranges(NON_NEGATIVE, alpha=alpha, blur=blur, edge_blur=edge_blur)
        if not 0 < alpha[0] <= alpha[1] <= 1:
            raise InputError(f"alpha must be above 0 and at most 1, got {list(alpha)}")
        self.shape = RandStarShape() if shape is None else shape
        self.alpha = alpha
        self.elastic = elastic
        self.blur = blur
        self.edge_blur = edge_blur
        self.num_tumors = num_tumors
        self.target = target
        self.parameters: list[TumorParameters] = []

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandTumorLayers:
        super().set_random_state(seed, state)
        self.shape.set_random_state(state=self.R)  # one source of chance
        return self

    def __call__(
        self, img: torch.Tensor, organ: torch.Tensor, donor: torch.Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Return the layers of a simulated patch.

        Args:
            img: patch of a scan without a tumor, of shape `(C, H, W, D)`; 0 where there is nothing.
            organ: where tumors may lie, of shape `(1, H, W, D)`.
            donor: patch of another scan, of the shape of `img`, in the middle of which the texture is taken.
            spacing: edges of a voxel in mm.

        Returns:
            Tensor of shape `(3 * C + 2, H, W, D)`, see `Layers`: the scan without a tumor, the tumor (0 outside of its
            mask), the mask (from 0 to 1 where its border is soft), the opacity, and the scan with the tumor.
        """
        layers = torch.empty((3 * len(img) + 2, *img.shape[1:]), device=img.device)
        self._fill(layers, img, organ, donor, spacing)
        return layers

    def make_batch(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Simulate each patch of a batch on its own, as if it had been alone and this transform had had its seed.

        Args:
            batch: `image` and `donor` of shape `(B, C, H, W, D)` and `organ` of shape `(B, 1, H, W, D)`, on any device;
                `seed`, a whole number for each; `spacing` of shape `(B, 3)`, in mm.

        Returns:
            Tensor of shape `(B, 3 * C + 2, H, W, D)`.
        """
        images = batch["image"]
        layers = torch.empty(len(images), 3 * images.shape[1] + 2, *images.shape[2:], device=images.device)
        for index, seed in enumerate(batch["seed"]):
            self.set_random_state(int(seed))
            image, organ, donor = (batch[name][index] for name in ("image", "organ", "donor"))
            self._fill(layers[index], image, organ, donor, batch["spacing"][index].tolist())
        return layers

    def _fill(
        self,
        stacked: torch.Tensor,
        img: torch.Tensor,
        organ: torch.Tensor,
        donor: torch.Tensor,
        spacing: Sequence[float],
    ) -> None:
        """Write the layers of a simulated patch into memory that holds anything."""
        if img.ndim != 4 or img.shape != donor.shape or organ.shape != (1, *img.shape[1:]):
            shapes = [tuple(volume.shape) for volume in (img, organ, donor)]
            raise InputError(
                f"img, organ and donor must be of one shape (C, H, W, D), organ of one channel, got {shapes}"
            )
        if self.intensity_ratio is not None and len(self.intensity_ratio) not in (1, len(img)):
            raise InputError(
                f"intensity_ratio must have ranges for all channels, or for each of {len(img)}, got them for "
                f"{len(self.intensity_ratio)}"
            )
        inside = organ[0] > 0
        self.randomize(None)
        count = int(self.R.randint(self.num_tumors[0], self.num_tumors[1] + 1))
        layers = split_layers(stacked, dim=0)
        layers.organ.copy_(img)
        layers.image.copy_(img)
        layers.tumor.zero_()
        layers.mask.zero_()
        layers.alpha.fill_(self.R.uniform(*self.alpha))  # beyond all tumors
        self.parameters = []
        places = inside.flatten().nonzero().flatten() if self._do_transform else inside.new_zeros(0)
        if len(places):
            means = [float(channel.flatten()[places].mean()) for channel in layers.organ]
            for number in range(count):
                if number:
                    inside = inside & (layers.mask[0] == 0)
                    places = inside.flatten().nonzero().flatten()
                self._add(layers, inside, places, donor.float(), spacing, means)
        if self.target == "blended":
            blended = torch.lerp(layers.organ, layers.tumor, layers.alpha)
            layers.tumor.copy_(blended * (layers.mask > 0))
            layers.alpha.fill_(1)

    def _add(
        self,
        layers: Layers,
        inside: torch.Tensor,
        candidates: torch.Tensor,
        donor: torch.Tensor,
        spacing: Sequence[float],
        means: Sequence[float],
    ) -> None:
        """Draw one tumor into the layers, where the organ, whose mean intensities are given, is still free.

        Args:
            layers: of the patch.
            inside: mask of the free part of the organ.
            candidates: flat indices of its voxels.
            donor: of the texture.
            spacing: edges of a voxel in mm.
            means: intensity of the organ in each channel.
        """
        self.shape.randomize()
        places = self.R.uniform(size=_NUM_PLACES)
        opacity = self.R.uniform(*self.alpha)
        blur, edge_blur = self.R.uniform(*self.blur), self.R.uniform(*self.edge_blur)
        ratios = self._draw_ratios(len(means))
        displacements = self.R.normal(size=(3, *[_CONTROL_POINTS] * 3)) * self.elastic

        place = self._place(inside, candidates, spacing, places)
        if place is None:
            return
        body, center, scale = place
        volume = scale * self.shape.volume_mm3
        edge_blur = min(edge_blur, _MAX_EDGE_BLUR * (3 * volume / (4 * math.pi)) ** (1 / 3))
        body = F.pad(body, [margin for margin in _reach(edge_blur, spacing)[::-1] for _ in range(2)])
        box, part = _overlap(center, body.shape, inside.shape)
        free = torch.ones_like(body)  # beyond the patch, where a tumor goes on
        free[part] = inside[box]
        hard = body & free
        soft = hard.float()
        if edge_blur > 0:
            smooth = partial(_smooth, sigma=edge_blur, spacing=spacing)
            # softened along the organ only: half of what lies at its border would be lost
            soft = (smooth(soft[None]) / smooth(free[None].float()).clamp(min=1e-6))[0] * free
            soft = soft * keep_joined(soft >= _MIN_MASK * soft.max())
        texture = self._texture(donor, body.shape, part, spacing, displacements, blur)
        hard, soft = hard[part], soft[part]
        if self.intensity_ratio is not None:
            for channel, ratio, mean in zip(texture, ratios, means, strict=True):
                channel *= ratio * mean / float(channel[hard].mean().clamp(min=1e-3))
        organ, tumor, mask, alpha, image = (layer[(slice(None), *box)] for layer in layers)
        support = soft > 0  # without indices of its voxels, for which a device would have to wait
        tumor.copy_(torch.where(support, texture, tumor))
        mask.copy_(torch.where(support, soft, mask))
        alpha.masked_fill_(support, opacity)
        image.copy_(torch.where(support, compose_layers(organ, tumor, mask, alpha), image))
        self.parameters.append(TumorParameters(center, volume, opacity, ratios, blur, edge_blur))

    def _draw_ratios(self, num_channels: int) -> tuple[float, ...]:
        """Draw the intensity ratio of each channel; they are NaN where the texture keeps its intensities."""
        if self.intensity_ratio is None:
            return (math.nan,) * num_channels
        ranges = self.intensity_ratio if len(self.intensity_ratio) > 1 else [*self.intensity_ratio] * num_channels
        return tuple(self.R.uniform(*own[self.R.randint(len(own))]) for own in ranges)

    def _place(
        self, inside: torch.Tensor, candidates: torch.Tensor, spacing: Sequence[float], places: np.ndarray
    ) -> tuple[torch.Tensor, tuple[int, int, int], float] | None:
        """Find a place where the body fits into the organ; the border of the patch may cut it.

        Returns:
            The body in its box, without what lies behind a border of the organ seen from its center; the center; and
            the share of the volume, which shrinks until there is a place. `None`: there is none.
        """
        if not len(candidates):
            return None
        chosen = candidates[torch.from_numpy((places * len(candidates)).astype(np.int64)).to(candidates.device)]
        centers = np.stack(np.unravel_index(chosen.cpu().numpy(), tuple(inside.shape)), axis=1).tolist()
        for shrink in range(_MAX_SHRINKS):
            scale = _SHRINK**shrink
            body = self.shape(spacing, inside.device, randomize=False, scale=scale)
            for center in centers:
                box, part = _overlap(center, body.shape, inside.shape)
                count = int(body[part].sum())
                if int((body[part] & inside[box]).sum()) < _MIN_SHARE * count:
                    continue
                seen = keep_joined(body & _visible(inside, center, body.shape))
                if int(seen[part].sum()) >= _MIN_SHARE * count:
                    return seen, tuple(center), scale
        return None

    def _texture(
        self,
        donor: torch.Tensor,
        size: Sequence[int],
        part: Sequence[slice],
        spacing: Sequence[float],
        displacements: np.ndarray,
        blur: float,
    ) -> torch.Tensor:
        """Return a part of the middle of the donor, deformed and blurred, in all channels alike.

        Args:
            donor: of shape `(C, H, W, D)`.
            size: of the box in its middle, which the deformation fills; odd.
            part: of the box that is wanted.
            spacing: edges of a voxel in mm.
            displacements: in mm, at the control points.
            blur: standard deviation in mm.
        """
        margins = _reach(blur, spacing)
        size = [length + 2 * margin for length, margin in zip(size, margins, strict=True)]
        wide = [slice(one.start, one.stop + 2 * margin) for one, margin in zip(part, margins, strict=True)]
        coarse = torch.from_numpy(displacements).to(donor)[None]
        moves = F.interpolate(coarse, size, mode="trilinear", align_corners=True)[0][slice(None), *wide]
        coordinates = []
        for axis, (count, one, length, edge) in enumerate(zip(size, wide, donor.shape[1:], spacing, strict=True)):
            steps = torch.arange(one.start, one.stop, device=donor.device).view(-1, *[1] * (2 - axis))
            voxels = steps - count // 2 + length // 2
            coordinates.append((2 * (voxels + moves[axis] / edge) + 1) / length - 1)
        grid = torch.stack(coordinates[::-1], dim=-1)[None]  # grid_sample counts axes from the last one
        # beyond the donor its texture is mirrored, since border voxels would be drawn out to lines
        texture = F.grid_sample(donor[None], grid, padding_mode="reflection", align_corners=False)[0]
        if blur > 0:
            texture = _smooth(texture, blur, spacing)
        inner = [slice(margin, length - margin) for length, margin in zip(texture.shape[1:], margins, strict=True)]
        return texture[(slice(None), *inner)]


def split_layers(stacked: torch.Tensor, dim: int = 1) -> Layers:
    """Return the layers of scans of `C` channels as views of a tensor that has them side by side.

    Args:
        stacked: of `3 * C + 2` channels.
        dim: axis of the channels.
    """
    channels, rest = divmod(stacked.shape[dim] - 2, 3)
    if rest or channels < 1:
        raise InputError(f"layers must have 3 * C + 2 channels for scans of C, got {stacked.shape[dim]}")
    return Layers(*stacked.split([channels, channels, 1, 1, channels], dim))


def compose_layers(organ: torch.Tensor, tumor: torch.Tensor, mask: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Compose a tumor over an organ (equation 5): `(1 - alpha * mask) * organ + alpha * mask * tumor`."""
    return torch.lerp(organ, tumor, alpha * mask)


def _ranges_by_channel(intensity_ratio: Sequence[Any]) -> list[Sequence[Sequence[float]]]:
    """Return the ranges of each channel, or once those of all channels, and refuse what is none."""
    is_by_channel = any(ranges and isinstance(ranges[0], Sequence) for ranges in intensity_ratio)
    by_channel = [*intensity_ratio] if is_by_channel else [intensity_ratio]
    if not all(by_channel):
        raise InputError("intensity_ratio must have a range or be None, got none")
    for channel, ranges in enumerate(by_channel):
        name = f"intensity_ratio[{channel}]" if is_by_channel else "intensity_ratio"
        check_ranges(NON_NEGATIVE, **{f"{name}[{index}]": bounds for index, bounds in enumerate(ranges)})
    return by_channel


def _overlap(
    center: Sequence[int], size: Sequence[int], spatial_size: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return which part of a volume lies in a box around a center, and which part of the box that is."""
    box, part = [], []
    for middle, length, available in zip(center, size, spatial_size, strict=True):
        first = middle - length // 2
        low, high = max(first, 0), min(first + length, available)
        box.append(slice(low, high))
        part.append(slice(low - first, high - first))
    return tuple(box), tuple(part)


def _visible(inside: torch.Tensor, center: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Tell for a box around a center which voxels are seen from there without leaving the organ on the way.

    What lies beyond the volume counts as seen: it is cut off anyway.
    """
    offsets = [torch.arange(length, device=inside.device) - length // 2 for length in size]
    visible = torch.ones(tuple(size), dtype=torch.bool, device=inside.device)
    for step in range(1, _NUM_STEPS + 1):
        index, is_beyond = [], []
        for axis, (offset, middle, available) in enumerate(zip(offsets, center, inside.shape, strict=True)):
            voxel = middle + (offset * step).div(_NUM_STEPS, rounding_mode="floor").view(-1, *[1] * (2 - axis))
            index.append(voxel.clamp(0, available - 1))
            is_beyond.append((voxel < 0) | (voxel >= available))
        visible &= inside[tuple(index)] | is_beyond[0] | is_beyond[1] | is_beyond[2]
    return visible


def _reach(sigma: float, spacing: Sequence[float]) -> list[int]:
    """Return how many voxels a blur reaches along each axis."""
    return [math.ceil(_REACH * sigma / edge) for edge in spacing]


def _smooth(volume: torch.Tensor, sigma: float, spacing: Sequence[float]) -> torch.Tensor:
    """Blur a volume of shape `(C, H, W, D)`, beyond which all is 0, by a standard deviation in mm."""
    kernels = [gaussian_1d(torch.tensor(sigma / edge), _REACH, normalize=True).to(volume) for edge in spacing]
    return separable_filtering(volume[None], kernels)[0]
