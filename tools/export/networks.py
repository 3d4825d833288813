"""TorchScript and ONNX of a trained network, compared with it on other images than those of the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.networks.utils import convert_to_torchscript
from torch import nn

from common.cli import InputError, MissingPackageError

__all__ = ["save_onnx", "save_torchscript"]

_SHAPE = (1, 64, 64, 64)  # number and sizes of the images of an export
_PROBES = {"a batch of two": (2, 64, 64, 64), "other sizes": (1, 48, 64, 32), "odd sizes": (1, 50, 37, 45)}
_TOLERANCE = 1e-3


def save_torchscript(network: nn.Module, in_channels: int, spatial_dims: int, path: Path) -> list[str]:
    """Compile a network.

    Args:
        network: on the CPU, in evaluation mode.

    Returns:
        For what it gives the original's output, beside an image of 64 voxels along each axis: `a batch of two`, `other
        sizes` (multiples of 16), `odd sizes`.
    """
    try:
        torch.jit.save(convert_to_torchscript(network), path)
    except (
        Exception
    ) as error:  # of many kinds and in many lines, of networks with Python that TorchScript does not know
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"network_def must be a network that TorchScript compiles, got {type(network).__name__}: {reason}; leave "
            "out --torchscript"
        ) from None
    return _compare("TorchScript", network, torch.jit.load(path), in_channels, spatial_dims)


def save_onnx(network: nn.Module, in_channels: int, spatial_dims: int, path: Path) -> list[str]:
    """Export a network with sizes that are left open; arguments and result are those of `save_torchscript`."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(f"onnx needs {error.name}; pip install '.[onnx]'") from None
    image = _draw(in_channels, spatial_dims)
    open_sizes = {axis: torch.export.Dim.AUTO for axis in (0, *range(2, 2 + spatial_dims))}
    program = torch.onnx.export(
        network,
        (image,),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=(open_sizes,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def exported(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    return _compare("ONNX", network, exported, in_channels, spatial_dims)


def _compare(
    form: str, network: nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], in_channels: int, spatial_dims: int
) -> list[str]:
    if not _agree(network, exported, _draw(in_channels, spatial_dims)):
        raise InputError(
            f"{form} must give the output of the network, got another for another image of the same "
            f"size; leave out --{form.lower()}"
        )
    return [
        name for name, shape in _PROBES.items() if _agree(network, exported, _draw(in_channels, spatial_dims, shape))
    ]


def _agree(network: nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> bool:
    with torch.no_grad():
        expected = network(image)
        try:
            found = exported(image)
        except Exception:  # runtimes have errors of their own for a size that they cannot take
            return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _draw(in_channels: int, spatial_dims: int, shape: Sequence[int] = _SHAPE) -> torch.Tensor:
    return torch.randn(shape[0], in_channels, *shape[1 : 1 + spatial_dims])
