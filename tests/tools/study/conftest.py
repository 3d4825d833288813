"""What the tests of studies share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_study import CONFIGS


@pytest.fixture
def content(tmp_path, monkeypatch):
    """Content of a study file in an empty folder, with a bundle whose configs know their ids and do nothing."""
    monkeypatch.chdir(tmp_path)
    Path("bundle/configs").mkdir(parents=True)
    Path("data").mkdir()
    for name, ids in CONFIGS.items():
        Path("bundle/configs", name).write_text(yaml.safe_dump(dict.fromkeys(ids)), encoding="utf-8")
    return {
        "name": "tiny",
        "dataset_dir": "data",
        "output_dir": "out",
        "bundle": "bundle",
        "num_labeled": [2, 4],
        "folds": [0, 1],
        "seeds": [0],
        "options": {"num_validation": 1},
        "pretrainings": {"wta": {"weights": "pretrained/weights.pt", "options": {"max_epochs": 3}}},
        "arms": {"scratch": {"options": {"pretrained": None}}, "stl": {"pretraining": "wta", "options": {"phi": 1.0}}},
        "reference": "scratch",
    }
