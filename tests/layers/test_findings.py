"""Laws of findings that are kept or dropped by their size."""

import pytest
import torch

from common.layers import KeepLargestd


def findings():
    """Return three findings of 12, 6 and 2 voxels; the largest is of two classes, and touches the next by a corner."""
    labels = torch.zeros(1, 6, 6, 6, dtype=torch.uint8)
    labels[0, 0, :3, :4] = 1
    labels[0, 0, :3, 0] = 2
    labels[0, 1:4, 3, 4:6] = 1
    labels[0, 5, 0, :2] = 2
    return labels


@pytest.mark.parametrize(("number", "size"), [(1, 12), (2, 18), (3, 20), (7, 20)])
def test_the_largest_findings_stay_as_they_are_and_the_others_go(number, size):
    labels = findings()
    kept = KeepLargestd("pred", number)({"pred": labels})["pred"]
    assert kept.dtype == labels.dtype and (kept > 0).sum() == size
    assert torch.equal(kept[kept > 0], labels[kept > 0]) and kept[0, 0, 0, 0] == 2
    assert torch.equal(labels, findings()), "the input is left alone"


def test_all_are_kept_without_a_number_and_nothing_is_fine():
    labels = findings()
    assert KeepLargestd("pred")({"pred": labels})["pred"] is labels
    assert not KeepLargestd("pred", 1)({"pred": torch.zeros(1, 3, 3, 3)})["pred"].any()
    assert KeepLargestd("pred", 1, allow_missing_keys=True)({}) == {}


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_a_number_is_a_positive_whole_number(number):
    with pytest.raises((TypeError, ValueError), match="number must be"):
        KeepLargestd("pred", number)
