"""Laws of the classes that the labels of a training have."""

from __future__ import annotations

import pytest
import torch

from common.data import check_classes, find_classes

LABELS = {0: "background", 1: "liver", 2: "spleen", 3: "kidney"}


def test_a_class_that_no_label_has_is_warned_of_by_name(caplog):
    check_classes({0, 1, 3}, LABELS, 4)
    (record,) = caplog.records
    assert "no label of 4 case(s) has spleen (2)" in record.getMessage()


def test_labels_that_have_all_classes_are_not_warned_of(caplog):
    check_classes({1, 2, 3}, LABELS, 4)
    assert not caplog.records


@pytest.mark.parametrize("found", [set(), {0}])
def test_labels_without_any_class_are_refused(found):
    with pytest.raises(ValueError, match="labels must hold foreground in at least one of 4 cases, got none; look at"):
        check_classes(found, LABELS, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_the_classes_of_a_label_map_are_its_values_but_the_background(dtype):
    label = torch.zeros(1, 4, 5, 6, dtype=dtype)
    assert find_classes(label) == set()
    label[0, 1, 1, 1], label[0, 3, 4, 5] = 7, 2
    assert find_classes(label) == {2, 7}
