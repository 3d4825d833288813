"""An accelerator that any machine has: tensors of the CPU that say that they lie on `gpu:0`.

An operation that mixes them with tensors of the CPU is refused, as on CUDA, and each copy to the host is counted. What
it cannot show: casts of autocast, kernels, chance, and several processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "gpu"
DEVICE = f"{NAME}:0"
_MAY_MIX = ("aten.index.", "aten.index_put", "aten._index_put_impl", "aten.copy_", "aten._to_copy")
_WAITS = ("aten.item", "aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero", "aten.unique")


class MixedDevicesError(RuntimeError):
    """An operation has tensors of the device and of the CPU."""


class DeviceTensor(torch.Tensor):
    """A tensor that says that it lies on the device, and holds one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE),
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, Counter())

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"


class _Mode(TorchDispatchMode):
    """Send what is made on the device, or copied to it, there."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.waits)


class _NumbersMode(TorchFunctionMode):
    """Make tensors of numbers on the CPU first: PyTorch fills them beneath the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_emulated(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def emulated_device() -> Iterator[Counter[str]]:
    """Block in which `gpu:0` exists; it gives the operations that waited for the device, with their numbers."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as setup
    except ImportError:
        pytest.skip("this version of PyTorch cannot emulate a device")
    if not hasattr(torch, NAME):
        setup(NAME)
        getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
    generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch, _Mode() as mode, _NumbersMode():
        patch.setattr(torch, "Generator", lambda device="cpu": generator("cpu" if _is_emulated(device) else device))
        yield mode.waits


def _is_emulated(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    name = str(func)
    flat, spec = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    held = [value for value in tensors if isinstance(value, DeviceTensor)]
    plain = [value for value in tensors if not isinstance(value, DeviceTensor) and value.ndim > 0]
    if held and plain and not name.startswith(_MAY_MIX):
        shapes = [tuple(value.shape) for value in plain]
        raise MixedDevicesError(f"{name}: tensors of the CPU {shapes} meet tensors of {DEVICE}")
    wanted = kwargs.get("device")
    goes_back = wanted is not None and torch.device(wanted).type == "cpu"
    if held and (name.startswith(_WAITS) or goes_back):
        waits[name] += 1
    is_on_device = bool(held) and not goes_back
    if name.startswith("aten.copy_"):
        is_on_device = isinstance(args[0], DeviceTensor)
    if _is_emulated(wanted):
        is_on_device = True
    owners = {id(value.held): value for value in held}
    inner = [value.held if isinstance(value, DeviceTensor) else value for value in flat]
    inner_args, inner_kwargs = tree_unflatten(inner, spec)
    if wanted is not None:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    result = func(*inner_args, **inner_kwargs)

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_on_device:
            return value
        owner = owners.get(id(value))
        return DeviceTensor(value) if owner is None else owner

    return tree_map(wrap, result)
