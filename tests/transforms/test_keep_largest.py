"""Laws of findings that are kept or dropped by their size."""

import pytest
import torch

from common.transforms import KeepLargestd


def scores_of(labels, num_classes=3):
    """Return scores whose argmax is a label map of shape `(H, W, D)`."""
    return torch.nn.functional.one_hot(labels, num_classes).movedim(-1, 0).float()


def findings():
    """Return three findings of 12, 6 and 2 voxels; the largest is of two classes, and touches the next by a corner."""
    labels = torch.zeros(6, 6, 6, dtype=torch.long)
    labels[0, :3, :4] = 1
    labels[0, :3, 0] = 2
    labels[1:4, 3, 4:6] = 1
    labels[5, 0, :2] = 2
    return labels


@pytest.mark.parametrize(("number", "sizes"), [(1, 12), (2, 18), (3, 20), (7, 20)])
def test_the_largest_findings_stay_as_they_are_and_the_others_go(number, sizes):
    labels = findings()
    scores = scores_of(labels)
    out = KeepLargestd("pred", number)({"pred": scores})["pred"]
    kept = out.argmax(0)
    assert (kept > 0).sum() == sizes
    assert torch.equal(kept[kept > 0], labels[kept > 0]) and kept[0, 0, 0] == 2
    assert torch.equal(scores, scores_of(labels)), "the input is left alone"


def test_all_are_kept_without_a_number_and_nothing_is_fine():
    scores = scores_of(findings())
    assert KeepLargestd("pred")({"pred": scores})["pred"] is scores
    nothing = scores_of(torch.zeros(3, 3, 3, dtype=torch.long))
    assert torch.equal(KeepLargestd("pred", 1)({"pred": nothing})["pred"], nothing)
    assert KeepLargestd("pred", 1, allow_missing_keys=True)({}) == {}


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_a_number_is_a_positive_whole_number(number):
    with pytest.raises((TypeError, ValueError), match="number must be"):
        KeepLargestd("pred", number)
