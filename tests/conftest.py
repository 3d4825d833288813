"""What the tests share: one thread, settled networks, small scans on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def settle():
    """Return a function that gives batch norms statistics that matter, as after a training, and sets eval mode."""

    def _settle(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for tensor, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 1.5),
                    (module.weight.data, 0.5, 1.5),
                    (module.bias.data, -0.5, 0.5),
                ):
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
        return network.eval()

    return _settle


@pytest.fixture
def deal(monkeypatch):
    """Return a function that runs a function once as each of some processes of a distributed run."""

    def _deal(function, processes: int = 2) -> list:
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "is_initialized", lambda: True)
            patch.setattr(torch.distributed, "get_world_size", lambda: processes)
            results = []
            for rank in range(processes):
                patch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
                results.append(function())
            return results

    return _deal


@pytest.fixture
def write_scan(tmp_path):
    """Return a function that writes a volume of shape `(H, W, D)` as NIfTI and returns its path."""

    def _write(name: str, volume, spacing=(1.0, 1.0, 1.0), affine=None) -> str:
        path = Path(tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([*spacing, 1.0]) if affine is None else affine
        nib.save(nib.Nifti1Image(np.asarray(volume), affine), path)
        return str(path)

    return _write


@pytest.fixture
def unequal_cases(write_scan) -> list[dict[str, str]]:
    """Five cases, each with an `image` of noise of another size, whose mean is its place in the list."""
    rng = np.random.default_rng(0)
    sizes = [(12, 10, 8), (9, 14, 11), (8, 8, 8), (10, 9, 12), (13, 8, 9)]
    scans = [(index + rng.normal(size=size)).astype("float32") for index, size in enumerate(sizes)]
    return [{"image": write_scan(f"scan_{index}.nii.gz", scan)} for index, scan in enumerate(scans)]
