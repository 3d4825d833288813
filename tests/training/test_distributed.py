"""Laws of a network that several processes train: together they make the step that one would make."""

from __future__ import annotations

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from monai.losses import DiceLoss
from torch import nn

from common.training import WholeBatchLoss, parallelize

LOSS = DiceLoss(sigmoid=True, batch=True)  # not the mean of the losses of the parts of a minibatch


def make() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network, and a minibatch whose halves are very different."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.ReLU(), nn.Conv3d(3, 1, 1))
    image = torch.randn(4, 1, 6, 5, 4)
    image[1::2] = 3 * image[1::2] + 2
    target = (torch.rand(4, 1, 4, 3, 2) < torch.tensor([0.9, 0.1, 0.9, 0.1]).view(4, 1, 1, 1, 1)).short()
    return network, image, target


def step(network: nn.Module, loss: nn.Module, image: torch.Tensor, target: torch.Tensor) -> dict:
    """Return the loss, the gradients and what the norms have counted, after a step."""
    value = loss(network(image), target)
    value.backward()
    module = getattr(network, "module", network)
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.eval()
    with torch.no_grad():
        output = module(image[:1])
    return copy.deepcopy({"loss": value.detach(), **gradients, **dict(module.named_buffers()), "output": output})


def thaw(network: nn.Module, wrap, loss: nn.Module, image: torch.Tensor, target: torch.Tensor) -> dict:
    """Return what `step` does, whose gradients add to those of an earlier one, when the first layer was frozen."""
    network[0].requires_grad_(False)
    wrapped = wrap(network)
    step(wrapped, loss, image, target)
    assert network[0].weight.grad is None
    network.train().requires_grad_(True)
    return step(wrapped, loss, image, target)


def one_of_two(rank: int, port: int, folder: str, frozen: bool) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, image, target = make()
    loss, part = WholeBatchLoss(LOSS), (image[rank::2], target[rank::2])
    if frozen:
        made = thaw(network, lambda module: parallelize(module, unfreezes=True), loss, *part)
    else:
        made = step(parallelize(network), loss, *part)
    torch.save(made, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_two_processes_make_the_step_of_one(tmp_path, frozen):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path), frozen), nprocs=2)
    network, image, target = make()
    expected = (
        thaw(network, lambda module: module, LOSS, image, target) if frozen else step(network, LOSS, image, target)
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    del second["output"]  # of another image
    for states in (first, second):
        for name, value in states.items():
            torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_a_loss_in_a_single_process_is_what_it_was():
    network, image, target = make()
    assert WholeBatchLoss(LOSS)(network(image), target) == LOSS(network(image), target)


def test_a_network_with_nothing_to_learn_needs_no_wrapper():
    network = nn.Conv3d(1, 1, 1).requires_grad_(False)
    assert parallelize(network) is network
