"""Trainings that read their preprocessed scans from disk: nothing but the memory that they take is another."""

from __future__ import annotations

import pytest
import torch
from workflow_helpers import LAYERS_BUNDLE, every_bundle, every_pretrained_bundle, run, scratch

pytestmark = pytest.mark.slow

OPTIONS = {"device": "cpu", "max_epochs": 2, "iterations_per_epoch": 2}


def weights_of(bundle, config, folder, **options) -> list[dict[str, torch.Tensor]]:
    """Return the weights that a run leaves with all scans in memory, and with none."""
    found = []
    for cache_memory in (100, 0):
        place = folder / str(cache_memory)
        run(bundle, config, ckpt_dir=str(place), cache_memory=cache_memory, **OPTIONS, **options)
        assert any((place / "cache").glob("*.scan")) == (cache_memory == 0)
        found += [torch.load(path, weights_only=True) for path in sorted(place.rglob("*.pt"))]
    assert len(found) == 2
    return found


@every_bundle
def test_a_training_gives_the_same_weights_from_memory_and_from_the_store(bundle, phantoms, tmp_path, quiet_hooks):
    options = {"dataset_dir": str(phantoms), "num_validation": 1, "num_labeled": 3, "val_interval": 1}
    from_memory, stored = weights_of(bundle, "train.yaml", tmp_path, **options, **scratch(bundle))
    assert from_memory and from_memory.keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in from_memory.items())


@every_pretrained_bundle
def test_so_does_a_pretraining(bundle, phantoms, lesions, tmp_path, quiet_hooks):
    options = {"dataset_dir": str(lesions if bundle == LAYERS_BUNDLE else phantoms)}
    from_memory, stored = weights_of(bundle, "pretrain.yaml", tmp_path, **options)
    assert from_memory and from_memory.keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in from_memory.items())
