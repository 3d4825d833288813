"""Laws of which voxels an atlas keeps."""

from __future__ import annotations

import pytest
import torch

from common.planar import VoxelGrid, choose_voxels


@pytest.fixture
def indices():
    return VoxelGrid((12, 10, 8), 1).indices()


@pytest.fixture
def classes():
    """Return 960 classes: 60 voxels of class 1, 5 of class 2, none of class 3, 95 of class 4."""
    classes = torch.zeros(960, dtype=torch.long)
    classes[torch.randperm(960, generator=torch.Generator().manual_seed(0))[:160]] = torch.tensor(
        [1] * 60 + [2] * 5 + [4] * 95
    )
    return classes


def count(classes, chosen):
    return torch.bincount(classes[chosen], minlength=5).tolist()


def test_without_caps_all_voxels_are_kept(indices, classes):
    assert torch.equal(choose_voxels(indices, classes), torch.arange(960))
    assert torch.equal(choose_voxels(indices, classes, 800), torch.arange(960))


@pytest.mark.parametrize("max_background", [1, 7, 799])
def test_the_background_is_kept_up_to_its_cap(indices, classes, max_background):
    chosen = choose_voxels(indices, classes, max_background=max_background)
    assert count(classes, chosen) == [max_background, 60, 5, 0, 95]
    assert chosen.diff().gt(0).all()


def test_the_background_that_is_kept_is_evenly_spread():
    """Of 8 x 8 x 8 voxels, one eighth is kept: one in each block of 2 x 2 x 2."""
    indices = VoxelGrid((8, 8, 8), 1).indices()
    chosen = choose_voxels(indices, torch.zeros(512, dtype=torch.long), max_background=64)
    blocks = indices[chosen] // 2
    assert len(blocks.unique(dim=0)) == 64
    assert len((indices[chosen] % 2).unique(dim=0)) == 8  # at no preferred place


def test_the_choice_is_that_of_the_seed(indices, classes):
    choice = choose_voxels(indices, classes, 30, seed=3)
    assert torch.equal(choice, choose_voxels(indices, classes, 30, seed=3))
    assert not torch.equal(choice, choose_voxels(indices, classes, 30, seed=4))


def test_the_foreground_is_kept_and_a_volume_without_any_is_thinned(indices):
    assert len(choose_voxels(indices, torch.zeros(960, dtype=torch.long), 7)) == 7
    assert len(choose_voxels(indices, torch.ones(960, dtype=torch.long), 7)) == 960
