"""Laws of a device that is full: less at a time, then the CPU, and the same result; for the inferers of all bundles."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from monai.data import Dataset, MetaTensor
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from torch import nn

from common.context import ContextUNet, WholeSliceInferer
from common.data import CaseLoader
from common.fnet import FNet, FNetInferer
from common.layers import LayerUNet, MaskInferer
from common.planar import AtlasInferer, GrayValueDifference, PlanarAtlas
from common.training import CaseEvaluator, smaller_inferer

SIZE = (24, 20, 16)


def _fnet() -> nn.Module:
    return FNet(1, 3, (3, 2, 2), 3, gain=1.0)


def _context() -> nn.Module:
    return ContextUNet(in_channels=1, out_channels=2, features=(4, 4), num_groups=2, head_kernel_size=1)


def _layers() -> nn.Module:
    return LayerUNet(in_channels=1, out_channels=3, features=(4, 4), norm="instance")


def _atlas() -> nn.Module:
    atlas = PlanarAtlas(GrayValueDifference(16), 3, step=2, num_neighbors=3)
    image = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(1))
    atlas.add(image, (image > 0.5).float() + (image > 1), "case")
    return atlas


def _window(**options) -> SlidingWindowInferer:
    return SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5, mode="gaussian", **options)


def _numel(*tensors: torch.Tensor | list[torch.Tensor]) -> int:
    return sum(tensor.numel() if isinstance(tensor, torch.Tensor) else _numel(*tensor) for tensor in tensors)


def _places(volume: torch.Tensor, centers: torch.Tensor) -> int:
    return len(centers)


INFERERS = {  # an inferer, its network, the part of it that needs memory, what of its input, and how much there is
    "fnet": (FNetInferer(96), _fnet, lambda network: network, _numel, 20000),
    "context": (WholeSliceInferer(batch_size=8), _context, lambda network: network, _numel, 2500),
    "layers": (_window(sw_batch_size=4), _layers, lambda network: network, _numel, 5000),
    "mask of layers": (MaskInferer(_window(sw_batch_size=4)), _layers, lambda network: network, _numel, 5000),
    "planar": (AtlasInferer(), _atlas, lambda network: network.descriptor, _places, 20),
}


class Device:
    """Device on which a part of a network gets no more than there is memory for."""

    def __init__(self, part: nn.Module, measure: Callable[..., int], capacity: int) -> None:
        self.measure = measure
        self.capacity = capacity
        self.sizes: list[int] = []
        part.register_forward_pre_hook(self._look)

    def _look(self, part: nn.Module, tensors: tuple) -> None:
        size = self.measure(*tensors)
        if size > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more")
        self.sizes.append(size)


def segment(inferer: Inferer, network: nn.Module, num_cases: int = 1, device: str = "cpu") -> list[torch.Tensor]:
    """Return what an evaluator makes of the same case, again and again."""
    image = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    found = []

    def load(case):
        return {"image": MetaTensor(image.clone(), meta={"filename_or_obj": case["image"]})}

    def save(data):
        found.append(data["pred"].clone())
        return data

    evaluator = CaseEvaluator(
        device=torch.device(device),
        val_data_loader=CaseLoader(Dataset([{"image": f"{i}.nii"} for i in range(num_cases)], load)),
        network=network,
        inferer=inferer,
        postprocessing=save,
    )
    evaluator.run()
    assert evaluator.state.refused == []
    return found


@pytest.mark.parametrize("name", INFERERS)
def test_where_a_device_is_full_less_is_done_at_a_time_with_the_same_result(name, settle, caplog):
    inferer, make, part, measure, capacity = INFERERS[name]
    torch.manual_seed(0)
    network = settle(make())
    (expected,) = segment(inferer, network)
    device = Device(part(network), measure, capacity)
    first, second = segment(inferer, network, num_cases=2)
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)
    assert torch.equal(first, second)
    assert device.sizes and max(device.sizes) <= capacity
    assert caplog.text.count("device cpu is full, going on with less at a time") == caplog.text.count("is full")
    assert "1.nii: device" not in caplog.text, "the next case begins with what fitted"


@pytest.mark.parametrize("name", INFERERS)
def test_an_inferer_comes_to_an_end_of_what_it_can_do_with_less(name):
    inferer, sizes = INFERERS[name][0], []
    while inferer is not None and len(sizes) < 20:
        sizes.append(inferer)
        inferer = smaller_inferer(inferer)
    assert 2 <= len(sizes) < 10


def test_where_nothing_smaller_fits_the_case_is_done_on_the_cpu_and_the_next_one_on_the_device(caplog):
    """The full device is PyTorch's `meta`, on which a tensor has no memory at all."""
    network = nn.Conv3d(1, 2, 1)
    moves = []
    network.to = lambda device: moves.append(str(device))
    network.register_forward_pre_hook(lambda part, tensors: _refuse(tensors[0]))
    expected = network(torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(0)))
    found = segment(SimpleInferer(), network, num_cases=2, device="meta")
    for result in found:
        torch.testing.assert_close(result.as_tensor(), expected[0].detach())
    assert moves == ["cpu", "meta", "cpu", "meta"]
    assert "0.nii: device meta is full, going on on the CPU" in caplog.text


def test_a_postprocessing_that_does_not_fit_is_done_on_the_cpu_at_once():
    calls = []

    def infer(inputs, network):
        calls.append(str(inputs.device))
        return inputs

    inferer = SimpleNamespace(smaller=lambda: pytest.fail("the inferer has done its part"))
    inferer = type("Inferer", (), {"__call__": staticmethod(infer), "smaller": inferer.smaller})()
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "a.nii"})

    def save(data):
        _refuse(data["pred"])
        return data

    evaluator = CaseEvaluator(
        device=torch.device("meta"),
        val_data_loader=CaseLoader(Dataset([{"image": "a.nii"}], lambda case: {"image": image})),
        network=nn.Identity(),
        inferer=inferer,
        postprocessing=save,
    )
    evaluator.run()
    assert calls == ["meta", "cpu"]


def _refuse(tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise torch.OutOfMemoryError("out of memory")
