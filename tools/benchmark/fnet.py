"""Benchmark of F-Net and its autoencoders, side by side with what would take their place.

A `patch_size` is in voxels of output along each axis, and a `batch_size` the number of patches in a step.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, UNet
from monai.transforms import Compose
from torch import nn

from common.fnet import (
    FNet,
    FNetGeometry,
    FNetInferer,
    MultiTaskFNet,
    PatchDataset,
    PatchLoader,
    ReconstructionLoss,
    SparseDecoder,
    winner_take_all,
)
from tools.benchmark.measure import Row, Step, Timer, adam_step, compare, peak_memory

__all__ = ["all_rows"]

NUM_CLASSES = 2
U_NETS = {"BasicUNet": (32, 32, 64, 128, 256, 32), "UNet": (16, 32, 64, 128, 256)}  # feature maps
U_NET_STRIDE = 16  # voxels, of the coarsest level of both


class FNetSize(NamedTuple):
    """Size of an F-Net: kernel edge in voxels, feature maps of each level, number of levels."""

    kernel_size: int = 5
    features: int = 32
    num_levels: int = 4

    def __str__(self) -> str:
        return f"F-Net k={self.kernel_size}, {self.features} maps"

    @property
    def geometry(self) -> FNetGeometry:
        return FNetGeometry(self.num_levels, self.kernel_size)

    def network(self) -> FNet:
        return FNet(1, NUM_CLASSES, self.num_levels * (self.features,), self.kernel_size, gain=1.0)


def all_rows(timer: Timer, quick: bool) -> list[Row]:
    """Return all rows of F-Net, in the sizes of the paper or, when `quick`, in smaller ones.

    A CPU trains with batches of 1, CUDA with batches of 8 in bfloat16.
    """
    is_cuda = timer.device == "cuda"
    batch_size = 8 if is_cuda else 1
    sizes = [FNetSize(3, 16)] if quick else [FNetSize(5, 32), FNetSize(3, 32), FNetSize(3, 16)]
    patch_size = 40 if quick else 72
    rows = training_rows(sizes, patch_size, batch_size, timer)
    rows += inference_rows(FNetSize(3, 8 if quick else 16), 112, 72, timer)
    if is_cuda and not quick:
        rows += inference_rows(FNetSize(5, 32), 160, 72, timer)
    rows += decoder_rows(32, 13, patch_size, 5, batch_size, timer)
    rows += multi_task_rows(sizes[0] if is_cuda else sizes[-1], patch_size, (5, 8), timer)
    rows += sampler_rows(sizes[-1], patch_size, batch_size, timer)
    return rows


@cache
def receptive_field(side: FNetSize | str) -> int:
    """Return the receptive field, the edge in voxels of what an output voxel depends on; of a U-Net, the smallest one.

    For F-Net it follows from the geometry: the coarsest level covers `stride + 2 * margin` voxels, whichever voxel of
    a block is looked at. For a U-Net it is read off the gradient of a copy with one axis, two feature maps, linear
    activations and poolings, and without normalization, which sees everything.
    """
    if isinstance(side, FNetSize):
        return side.geometry.stride + 2 * side.geometry.margins[-1]
    network = _u_net(side, [2] * len(U_NETS[side]), spatial_dims=1)
    _linearize(network)
    network.double()
    length = 32 * U_NET_STRIDE
    image = torch.zeros(1, 1, length, dtype=torch.float64, requires_grad=True)
    output = network(image)
    fields = []
    for voxel in range(length // 2, length // 2 + U_NET_STRIDE):
        (gradient,) = torch.autograd.grad(output[0, 0, voxel], image, retain_graph=True)
        seen = gradient.flatten().nonzero()
        fields.append(int(seen.max() - seen.min()) + 1)
    return min(fields)


def training_step(side: FNetSize | str, patch_size: int, batch_size: int, device: str) -> Step:
    """Return a training step (forward, backward, Adam) on random data; see `training_rows`."""
    torch.manual_seed(0)
    if isinstance(side, FNetSize):
        network: nn.Module = side.network()
        shapes: Sequence[Sequence[int]] = side.geometry.input_sizes(patch_size)
    else:
        network = _u_net(side, U_NETS[side])
        shapes = [3 * [_round_up(patch_size)]]
    network.to(device).train()
    image, *context = [torch.randn(batch_size, 1, *shape, device=device) for shape in shapes]
    coarser = [context] if context else []
    label = torch.randint(NUM_CLASSES, (batch_size, *3 * [patch_size]), device=device)

    def loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = _center(network(image, *coarser), patch_size)
        return F.cross_entropy(logits.float(), label)

    return adam_step(network, loss, 3e-4)


def training_rows(sizes: Sequence[FNetSize], patch_size: int, batch_size: int, timer: Timer) -> list[Row]:
    """Compare a training step of F-Net with those of MONAI's `BasicUNet` and `UNet`.

    Every network learns the same `patch_size`^3 voxels. The U-Nets pad with zeros: their input is the patch, enlarged
    to a multiple of their stride, and the loss takes its center. On CUDA the forward pass is in bfloat16.
    """
    sides: list[FNetSize | str] = [*sizes, *U_NETS]
    arguments: list[tuple[Any, ...]] = [(side, patch_size, batch_size, timer.device) for side in sides]
    memory = {side[0]: peak_memory(training_step, side, timer.device) for side in arguments}
    seconds = dict(zip(sides, timer.time([training_step(*side) for side in arguments]), strict=True))
    edge = _round_up(patch_size)
    fields = {side: receptive_field(side) for side in sides}
    voxels = batch_size * patch_size**3
    rows = []
    for size in sizes:
        for u_net in U_NETS:
            whole = _round_up(patch_size + fields[u_net] - 1)
            ratio = statistics.median(seconds[u_net]) / statistics.median(seconds[size])
            notes: dict[str, Any] = {
                "receptive field": f"{fields[size]} against at least {fields[u_net]} voxels",
                "input": f"{'/'.join(str(shape[0]) for shape in size.geometry.input_sizes(patch_size))} against "
                f"{edge}^3 with zero padding, whose central {patch_size}^3 are learned",
                f"ratio if all {edge}^3 counted": ratio * (patch_size / edge) ** 3,
                f"ratio if no learned voxel saw padding (computed, {whole}^3 in)": ratio * (whole / edge) ** 3,
                "peak memory in MiB": f"{memory[size]:,.0f} against {memory[u_net]:,.0f}",
            }
            name = f"training step, batch {batch_size}, {patch_size}^3"
            pair = (seconds[size], seconds[u_net])
            rows.append(compare(name, (str(size), u_net), pair, "voxels/s", (voxels, voxels), notes))
    return rows


def multi_task_step(
    size: FNetSize, levels: Sequence[int], patch_size: int, batch_sizes: tuple[int, int], device: str
) -> Step:
    """Return a training step of F-Net and its autoencoders together on random data; see `multi_task_rows`."""
    torch.manual_seed(0)
    network = MultiTaskFNet(size.network(), levels).to(device).train()
    shapes = size.geometry.input_sizes(patch_size)
    image, *context = [torch.randn(batch_sizes[0], 1, *shape, device=device) for shape in shapes]
    unlabeled = [torch.randn(batch_sizes[1], 1, *shapes[level], device=device) for level in levels]
    label = torch.randint(NUM_CLASSES, (batch_sizes[0], *3 * [patch_size]), device=device)
    reconstruction_loss = ReconstructionLoss(reduction="mean")

    def loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits, *reconstructions = network(image, context, unlabeled=unlabeled)
        reconstructed = [level.float() for level in reconstructions]
        return F.cross_entropy(logits.float(), label) + reconstruction_loss(reconstructed, unlabeled)

    return adam_step(network, loss, 3e-4)


def multi_task_rows(size: FNetSize, patch_size: int, batch_sizes: tuple[int, int], timer: Timer) -> list[Row]:
    """Compare a step of multi-task learning with one of F-Net alone on as many labeled patches.

    Args:
        batch_sizes: labeled and unlabeled patches in a step; the paper's are 5 and 8.
    """
    choices = [[0], [0, 1], list(range(size.num_levels))]
    steps = [training_step(size, patch_size, batch_sizes[0], timer.device)]
    steps += [multi_task_step(size, levels, patch_size, batch_sizes, timer.device) for levels in choices]
    alone, *together = timer.time(steps)
    name = f"multi-task step, {batch_sizes[0]} + {batch_sizes[1]} patches of {patch_size}^3"
    rows = []
    for levels, seconds in zip(choices, together, strict=True):
        row = compare(name, (f"autoencoders on levels {levels}", f"{size} alone"), (seconds, alone))
        row.notes["cost in steps of F-Net alone"] = row.median_a / row.median_b
        rows.append(row)
    return rows


def inference_rows(size: FNetSize, volume_size: int, patch_size: int, timer: Timer, tile_size: int = 96) -> list[Row]:
    """Compare dense inference, in tiles, with overlapped inference (50 %), in patches; both find the same."""
    torch.manual_seed(0)
    network = size.network().to(timer.device).eval()
    volume = torch.randn(1, 1, *3 * [volume_size], device=timer.device)
    inferers = {
        f"dense, tiles of {tile_size}": FNetInferer(tile_size),
        f"overlap 50 %, patches of {patch_size}": FNetInferer(mode="overlap", patch_size=patch_size),
    }
    steps = {name: torch.inference_mode()(partial(inferer, volume, network)) for name, inferer in inferers.items()}
    row = timer.compare(f"inference of {volume_size}^3, {size}", steps)
    row.notes["largest difference of the probabilities"] = _difference(*(step() for step in steps.values()))
    return [row]


def decoder_rows(
    features: int, kernel_size: int, patch_size: int, num_winners: int, batch_size: int, timer: Timer
) -> list[Row]:
    """Compare the sparse with the dense decoder of an autoencoder, forward alone and with backward.

    Args:
        features: feature maps of the encoder.
        num_winners: activations that are kept of each map.
    """
    torch.manual_seed(0)
    decoder = SparseDecoder(features, 1, kernel_size).to(timer.device)
    edges = 3 * [patch_size - kernel_size + 1]
    maps = torch.rand(batch_size, features, *edges, device=timer.device)
    activations, positions = (value.detach() for value in winner_take_all(maps, num_winners))
    del maps
    weights = list(decoder.parameters())

    def decode(side: str, has_backward: bool) -> list[torch.Tensor]:
        winners = activations.clone().requires_grad_(has_backward)
        with torch.set_grad_enabled(has_backward):
            if side == "sparse":
                output = decoder.decode(winners, positions, edges)
            else:
                empty = winners.new_zeros(batch_size, features, edges[0] ** 3)
                output = decoder(empty.scatter(2, positions, winners).unflatten(2, edges))
        gradients = torch.autograd.grad(output.square().mean(), [winners, *weights]) if has_backward else ()
        return [output.detach(), *gradients]

    rows = []
    for has_backward in (False, True):
        name = f"decoder, {'forward and backward' if has_backward else 'forward'}, batch {batch_size}, {patch_size}^3"
        steps = {
            f"sparse, {features} x {num_winners} winners": partial(decode, "sparse", has_backward),
            f"dense, kernel {kernel_size}": partial(decode, "dense", has_backward),
        }
        row = timer.compare(name, steps)
        differences = [_difference(*both) for both in zip(*(step() for step in steps.values()), strict=True)]
        row.notes["largest difference of the reconstruction"] = differences[0]
        if has_backward:
            row.notes["largest difference of a gradient"] = max(differences[1:])
        rows.append(row)
    return rows


def sampler_rows(size: FNetSize, patch_size: int, batch_size: int, timer: Timer) -> list[Row]:
    """Compare the patches that one process cuts with those that training takes in the same time."""
    torch.manual_seed(0)
    volume = torch.randn(1, *3 * [2 * patch_size])
    cases: list[Any] = [{"image": volume, "label": (volume > 1).float()}]
    dataset = PatchDataset(cases, Compose([]), size.geometry, patch_size)
    batches = iter(PatchLoader(dataset, batch_size, num_batches=timer.repeats + 1, foreground_fraction=0.3))
    steps: dict[str, Step] = {
        "sampler, no workers": lambda: next(batches),
        f"training step, {size}": training_step(size, patch_size, batch_size, timer.device),
    }
    name = f"patch sampler, batch {batch_size}, {patch_size}^3"
    return [timer.compare(name, steps, "patches/s", batch_size)]


def _u_net(name: str, features: Sequence[int], spatial_dims: int = 3) -> nn.Module:
    if name == "BasicUNet":
        return BasicUNet(spatial_dims, 1, NUM_CLASSES, tuple(features))
    return UNet(spatial_dims, 1, NUM_CLASSES, tuple(features), (2, 2, 2, 2), num_res_units=2)


def _linearize(network: nn.Module) -> None:
    """Make a network linear, in place: every output depends on its whole receptive field."""
    for name, module in network.named_children():
        if isinstance(module, (nn.InstanceNorm1d, nn.PReLU, nn.LeakyReLU, nn.Dropout)):
            setattr(network, name, nn.Identity())
        elif isinstance(module, nn.MaxPool1d):
            setattr(network, name, nn.AvgPool1d(2))
        else:
            _linearize(module)
    for parameter in network.parameters(recurse=False):
        nn.init.constant_(parameter, 1.0 if parameter.ndim == 1 else 2.0 / parameter[0].numel())


def _round_up(edge: int) -> int:
    return -(-edge // U_NET_STRIDE) * U_NET_STRIDE


def _center(logits: torch.Tensor, edge: int) -> torch.Tensor:
    first = (logits.shape[-1] - edge) // 2
    place = 3 * (slice(first, first + edge),)
    return logits[(..., *place)]


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()
