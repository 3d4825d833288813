"""What a training leaves behind, with initial weights of small networks: enough to export and to serve a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from common.data import PHANTOM_LABELS, make_record, write_phantoms
from common.data.record import find_record
from common.planar import fit_field_of_view
from tools.export.__main__ import export

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
LABELS = dict(enumerate(PHANTOM_LABELS))


def small_network(bundle: Path, weights: Path, **options) -> torch.nn.Module:
    files = [str(bundle / "configs" / name) for name in ("inference.yaml", "demo.yaml")]
    parser = ConfigParser({**ConfigParser.load_config_files(files), "ckpt_dir": str(weights)})
    if find_record(weights) is None:
        parser["record"] = make_record(labels=LABELS, modality=["CT"])
    parser.update({"labels": LABELS, "modality": ["CT"], **options})
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def")


def write_weights(bundle: Path, weights: Path, modality: Sequence[str] = ("CT",)) -> None:
    """Write what a training leaves, with initial weights."""
    weights.mkdir()
    numbers = {"spacing": 6.0, "clip": [-160, 300], "air": -500, "normalization": "zscore", "fitted_on": 1}
    if bundle.name == "context_restoration_unet":
        numbers = {}
    elif bundle.name == "layer_decomp_tumor":
        numbers = {"clip": [0, 200], "organ": "body"}
    settings = ConfigParser.load_config_file(str(bundle / "configs" / "demo.yaml"))
    make_record(labels=LABELS, modality=modality, settings=settings, **numbers).save_beside(weights / "model.pt")
    if bundle.name == "planar_heatmap_descriptor":
        (scan,) = (write_phantoms(weights / "scans", 1, 0, 0, size=32) / "imagesTr").iterdir()
        field = fit_field_of_view([{"image": str(scan)}], [270, 198, 198], clip=[-160, 300])
        field.save_beside(weights / "model.pt")
    torch.save(small_network(bundle, weights, modality=[*modality]).state_dict(), weights / "model.pt")


def export_small(bundle: Path, weights: Path, output: Path, **options) -> Path:
    overrides = {"override_files": "configs/demo.yaml", "pretrained": "null", **options}
    export(bundle.name, str(output), ckpt_dir=str(weights), **overrides)
    return output / bundle.name
