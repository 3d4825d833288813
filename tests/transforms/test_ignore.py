"""Laws of scores of labels that leave something open."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.data import IGNORED, class_set
from common.transforms import IgnoreUnlabeledd


def score(pred, label, num_classes=4):
    shape = (1, len(pred), 1, 1)
    data = {
        "pred": MetaTensor(torch.tensor(pred).view(shape).byte()),
        "label": MetaTensor(torch.tensor(label).view(shape)),
    }
    out = IgnoreUnlabeledd("pred", "label", num_classes)(data)
    return out["pred"].flatten().tolist(), out["label"].flatten().tolist()


def test_a_whole_label_changes_nothing():
    data = {"pred": torch.tensor([[[[1, 2]]]]), "label": torch.tensor([[[[0, 3]]]])}
    out = IgnoreUnlabeledd("pred", "label", 4)(data)
    assert out["pred"] is data["pred"]
    assert out["label"] is data["label"]


def test_voxels_that_are_not_labeled_are_neither_right_nor_wrong():
    assert score([1, 2, 3, 0], [1, IGNORED, 0, IGNORED]) == ([1, 0, 3, 0], [1, 0, 0, 0])


def test_a_class_that_the_case_is_not_labeled_with_is_nowhere():
    """Classes 2 and 3 are not labeled: neither is found, and class 1 is missed where one of them is in its place."""
    background = class_set([0, 2, 3])
    assert score([0, 1, 2, 3, 2, 1], [background, 1, background, background, 1, background]) == (
        [0, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 1, 0],
    )


def test_the_result_has_the_place_of_the_label():
    data = {
        "pred": MetaTensor(torch.ones(1, 2, 1, 1), affine=2 * torch.eye(4)),
        "label": MetaTensor(torch.full((1, 2, 1, 1), IGNORED), affine=3 * torch.eye(4), meta={"filename_or_obj": "a"}),
    }
    out = IgnoreUnlabeledd("pred", "label", 2)(data)
    assert out["label"].meta["filename_or_obj"] == "a"
    assert out["label"].pixdim.tolist() == [3.0, 3.0, 3.0]
    assert out["pred"].pixdim.tolist() == [2.0, 2.0, 2.0]


def test_doubt_is_no_part_of_the_score():
    label = torch.tensor([[1, IGNORED], [0, 3]]).view(2, 2, 1, 1)
    out = IgnoreUnlabeledd("pred", "label", 2)({"pred": torch.ones(1, 2, 1, 1), "label": label})
    assert out["label"].shape == (1, 2, 1, 1)
    assert out["pred"].flatten().tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_segmentation_keeps_its_type(dtype):
    label = torch.tensor([1, IGNORED]).view(1, 2, 1, 1)
    out = IgnoreUnlabeledd("pred", "label", 2)({"pred": torch.ones(1, 2, 1, 1, dtype=dtype), "label": label})
    assert out["pred"].dtype == dtype
