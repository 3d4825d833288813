"""The data sets on which the workflows run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from initial_weights import write_weights
from matplotlib.figure import Figure
from PIL import Image
from workflow_helpers import BUNDLES

from common.data import write_datalist, write_lesion_phantoms, write_phantoms


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    scans = write_phantoms(tmp_path_factory.mktemp("phantoms"), num_training=5, num_test=2, num_unlabeled=2, size=48)
    shutil.copytree(scans / "imagesUn", scans / "imagesNo")  # no phantom has a lesion
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    normal = [f"imagesNo/{path.name}" for path in sorted((scans / "imagesNo").iterdir())]
    write_datalist(scans, {**content, "normal": normal})
    return scans


@pytest.fixture(scope="session")
def lesions(tmp_path_factory) -> Path:
    counts = {"num_training": 5, "num_test": 2, "num_unlabeled": 2, "num_normal": 3}
    return write_lesion_phantoms(tmp_path_factory.mktemp("lesions"), **counts, size=48)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Folders of initial weights, by bundle."""
    root = tmp_path_factory.mktemp("weights")
    for bundle in BUNDLES:
        write_weights(bundle, root / bundle.name)
    return {bundle.name: root / bundle.name for bundle in BUNDLES}


@pytest.fixture(autouse=True)
def _blank_pictures(request, monkeypatch):
    """Figures are composed but not rendered, which takes half the time of a short run; `pictures` marks the others."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Image.new("L", (2, 2)).save(path, "png"))


@pytest.fixture
def quiet_hooks(monkeypatch):
    """The workflows install an exception hook; it shall not outlive a test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
