"""Laws of labels that leave something open."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data import (
    IGNORED,
    MAX_DOUBT,
    class_set,
    is_known,
    is_partial,
    known_classes,
    leave_open,
    member_mask,
    smallest_type,
    to_doubt,
    with_doubt,
)

FILE = np.array([0, 1, 2, 3, 255], np.uint8).reshape(1, 5, 1, 1)


def test_a_label_without_anything_open_stays_what_it_is():
    assert leave_open(FILE, "label.nii.gz", 4) is FILE
    assert leave_open(FILE, "label.nii.gz", 4, classes=[0, 1, 2, 3]) is FILE


def test_voxels_that_are_not_labeled_are_marked():
    assert leave_open(FILE, "label.nii.gz", 4, ignore=255).flatten().tolist() == [0, 1, 2, 3, IGNORED]


def test_the_background_of_a_case_may_be_any_class_that_it_is_not_labeled_with():
    label = np.array([0, 1, 255, 0]).reshape(1, 4, 1, 1)
    found = leave_open(label, "label.nii.gz", 4, ignore=255, classes=[0, 1])
    assert found.flatten().tolist() == [class_set([0, 2, 3]), 1, IGNORED, class_set([0, 2, 3])]


def test_a_class_that_a_case_is_not_labeled_with_is_refused_in_its_label():
    with pytest.raises(ValueError, match=r"label.nii.gz: label must have the classes .*, got \[2, 3\], too; list them"):
        leave_open(FILE, "label.nii.gz", 4, ignore=255, classes=[0, 1])


def test_a_part_of_too_many_classes_is_refused():
    with pytest.raises(
        ValueError, match=r"label.nii.gz: a case may be labeled with a part of 24 classes at most, got 25"
    ):
        leave_open(FILE, "label.nii.gz", 25, classes=[0, 1])


@pytest.mark.parametrize("classes", [[0, 1], [0, 2, 3], [1, 5], list(range(24)), [0, 23]])
def test_a_set_of_classes_has_exactly_these_members_also_as_a_32_bit_float(classes):
    value = torch.tensor([class_set(classes)]).float().view(1, 1, 1)
    assert member_mask(value, 24)[0, :, 0].nonzero().flatten().tolist() == classes
    assert class_set([*classes, *classes]) == class_set(classes) < IGNORED


def test_members_of_a_known_class_and_of_an_ignored_voxel():
    label = torch.tensor([2, IGNORED, 0]).view(1, 1, 3)
    expected = [[False, True, True], [False, True, False], [True, True, False]]
    assert member_mask(label, 3)[0].tolist() == expected


def test_with_more_classes_than_a_set_can_have_each_is_its_own():
    label = torch.tensor([[[0, 30, 63]]])
    assert member_mask(label, 64)[0].nonzero().tolist() == [[0, 0], [30, 1], [63, 2]]


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_a_class_is_known_where_it_is_one_and_not_in_full_doubt(make):
    label = make([[2, IGNORED, class_set([0, 1]), 1, 3], [0, 0, 0, MAX_DOUBT, 100]])
    assert known_classes(label).tolist() == [[2, 0, 0, 0, 3]]
    assert is_known(label).tolist() == [[True, False, False, False, True]]
    assert is_known(label, 99).tolist() == [[True, False, False, False, False]]
    assert known_classes(label[:1]).tolist() == [[2, 0, 0, 1, 3]]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ([[0, 3]], False),
        ([[0, -1]], True),
        ([[0, -5]], True),
        ([[0, 1], [0, 0]], False),
        ([[0, 1], [0, 1]], True),
    ],
)
def test_a_label_is_partial_where_a_voxel_is_open_or_in_doubt(label, expected):
    assert is_partial(torch.tensor([label])) is expected


def test_doubt_is_what_is_missing_to_full_confidence():
    assert to_doubt(np.array([0.0, 0.2, 1.0, 1.0 + 1e-7]), "confidence.nii.gz").tolist() == [MAX_DOUBT, 204, 0, 0]


@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0, np.nan, np.inf])
def test_a_confidence_that_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"confidence.nii.gz: confidence must be from 0 to 1, got .*; write it anew"):
        to_doubt(np.array([0.5, value]), "confidence.nii.gz")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], torch.uint8),
        ([-1, 3], torch.int16),
        ([0, 256], torch.int16),
        ([class_set(range(24)), 23], torch.int32),
        ([], torch.uint8),
    ],
)
def test_a_label_has_the_smallest_type_that_holds_it(values, dtype):
    label = torch.tensor(values, dtype=torch.float)
    assert smallest_type(label).dtype == dtype
    assert torch.equal(smallest_type(label).float(), label)


def test_a_label_without_doubt_gets_none():
    label = torch.tensor([[3, IGNORED]])
    assert with_doubt(label).tolist() == [[3, IGNORED], [0, 0]]
    assert with_doubt(with_doubt(label)).tolist() == [[3, IGNORED], [0, 0]]
