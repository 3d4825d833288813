"""Laws of the networks that are exported as TorchScript and as ONNX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from initial_weights import LABELS, ROOT, small_network

from tools.export.networks import save_onnx, save_torchscript

pytestmark = pytest.mark.slow
ANY_SIZE = ["a batch of two", "other sizes", "odd sizes"]
EXPORTS = {  # where the exported network of a bundle gives the original's output, besides for the size of the example
    "fnet_wtacae_stl": {"torchscript": ANY_SIZE, "onnx": ["other sizes", "odd sizes"]},
    "fnet_wtacae_mtl": {"torchscript": ANY_SIZE, "onnx": ["other sizes", "odd sizes"]},
    "context_restoration_unet": {"torchscript": ANY_SIZE, "onnx": ANY_SIZE},
    "layer_decomp_tumor": {"torchscript": ANY_SIZE, "onnx": ["a batch of two", "other sizes"]},
}


def probe(form: str, bundle: Path, path: Path) -> Sequence[str]:
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra onnx")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["network_data_format"][
        "inputs"
    ]["image"]
    save = {"torchscript": save_torchscript, "onnx": save_onnx}[form]
    network = small_network(bundle, path.parent).eval()
    return save(network, metadata["num_channels"], len(metadata["spatial_shape"]), path)


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("name", EXPORTS)
def test_networks_export_for_the_sizes_that_the_readme_names(name, form, tmp_path):
    assert probe(form, ROOT / "bundles" / name, tmp_path / "model") == EXPORTS[name][form]


def test_an_atlas_does_not_export(tmp_path):
    """Its search for neighbors runs outside of PyTorch."""
    bundle = ROOT / "bundles" / "planar_heatmap_descriptor"
    network = small_network(bundle, tmp_path, descriptor="gvdiff_centered", step=4).eval()
    image = torch.randn(1, 64, 64, 64)
    label = torch.zeros_like(image)
    for value in list(LABELS)[1:]:
        label[:, 8 * value : 8 * value + 8, 24:40, 24:40] = value
    network.add(image, label, "scan")
    with pytest.raises(ValueError, match=r"network that TorchScript compiles, got PlanarAtlas: .*; leave out"):
        save_torchscript(network, 1, 3, tmp_path / "model.ts")
