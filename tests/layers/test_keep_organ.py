"""Laws of findings that are kept within an organ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd

from common.layers import KeepOrgand

SPACING = (1.0, 2.0, 3.5)


def scan(volume, spacing=SPACING):
    return MetaTensor(torch.as_tensor(volume)[None].float(), affine=np.diag([*spacing, 1.0]))


def preprocess(item, spacing, given=True):
    """Return an item on the network's grid, with the mask as it came if it is given, and the preprocessing."""
    modes = ["bilinear", "nearest"]
    keys = ["image", "organ"]
    preprocessing = Compose([Orientationd(keys, axcodes="LPS", labels=None), Spacingd(keys, spacing, mode=modes)])
    copy = {"given_organ": item["organ"].clone()} if given else {}
    return {**preprocessing(item), **copy}, preprocessing


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_findings_stay_within_a_margin_in_mm_around_the_organ(margin, given):
    organ = torch.zeros(11, 11, 11)
    organ[5, 5, 4] = 1
    item, preprocessing = preprocess({"image": scan(torch.rand(11, 11, 11)), "organ": scan(organ)}, SPACING, given)
    labels = torch.full((1, 11, 11, 11), 3, dtype=torch.uint8)
    found = KeepOrgand("pred", preprocessing, margin=margin)({**item, "pred": labels})["pred"]
    middle = zip((5, 5, 4), SPACING, strict=True)
    offsets = np.stack(np.meshgrid(*[(np.arange(11) - index) * edge for index, edge in middle], indexing="ij"))
    np.testing.assert_array_equal(found[0].numpy() == 3, np.linalg.norm(offsets, axis=0) <= margin)
    assert found.dtype == torch.uint8 and (labels == 3).all()


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.5), (0.7, 0.7, 0.7)])
def test_whatever_the_grid_of_the_network_a_given_organ_is_kept_to_the_voxel(spacing):
    organ = (torch.rand(20, 18, 9) > 0.5).float()
    item, preprocessing = preprocess({"image": scan(torch.rand(20, 18, 9)), "organ": scan(organ)}, spacing)
    labels = torch.randint(0, 3, (1, 20, 18, 9))
    found = KeepOrgand("pred", preprocessing)({**item, "pred": labels})["pred"]
    assert torch.equal(found, labels * organ[None].long())


def test_an_organ_that_was_found_comes_back_to_the_grid_of_the_scan():
    x, y, z = np.meshgrid(*(np.arange(edge) for edge in (40, 36, 20)), indexing="ij")
    ball = (x - 20) ** 2 + (y - 18) ** 2 + (2 * (z - 10)) ** 2 < 14**2
    item = {"image": scan(np.zeros(ball.shape), (1.0, 1.0, 2.0)), "organ": scan(ball, (1.0, 1.0, 2.0))}
    item, preprocessing = preprocess(item, (3.0, 3.0, 2.0), given=False)
    assert item["organ"].shape != (1, *ball.shape)
    kept = KeepOrgand("pred", preprocessing)({**item, "pred": torch.ones(1, *ball.shape)})["pred"][0].numpy() > 0
    assert (kept & ball).sum() > 0.9 * (kept | ball).sum()


def test_without_a_margin_nothing_changes_and_a_negative_one_is_refused():
    item = {"pred": torch.ones(1, 3, 3, 3)}
    assert KeepOrgand("pred", Compose([]), margin=None)(item)["pred"] is item["pred"]
    with pytest.raises(ValueError, match="margin must be 0 or more, or None, got -1"):
        KeepOrgand("pred", Compose([]), margin=-1)


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_with_an_empty_organ_there_are_no_findings(margin):
    """With a margin, a corner of the scan was kept: SciPy measures no distance to nothing."""
    item = {"given_organ": torch.zeros(1, 5, 5, 5), "pred": torch.ones(1, 5, 5, 5)}
    assert not KeepOrgand("pred", Compose([]), margin=margin)(item)["pred"].any()
