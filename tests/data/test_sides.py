"""Laws of classes that change places in a mirror."""

from __future__ import annotations

import pytest
import torch

from common.data import IGNORED, class_set, exchange_classes, lopsided_classes, mirrored_classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["background", "left kidney", "right kidney", "liver"], {1: 2, 2: 1}),
        (["background", "Parotid_L", "Parotid_R"], {1: 2, 2: 1}),
        (["background", "kidneyRight", "liver", "kidneyLeft"], {1: 3, 3: 1}),
        (
            ["background", "LT-lung", "RT-lung", "lung_upper_lobe_left", "lung_upper_lobe_right"],
            {1: 2, 2: 1, 3: 4, 4: 3},
        ),
        (["background", "liver", "spleen", "bright spot", "cleft", "lr"], {}),
        (["background", "L1", "L2", "left kidney", "right kidney"], {3: 4, 4: 3}),
    ],
    ids=str,
)
def test_names_tell_the_sides(names, expected):
    assert mirrored_classes(dict(enumerate(names))) == expected


def test_a_side_without_the_other_is_warned_of_and_nothing_is_mirrored(caplog):
    labels = {0: "background", 1: "left kidney", 2: "right kidney", 3: "left atrium"}
    assert mirrored_classes(labels) == {}
    assert caplog.messages == ["labels have 'left atrium' and no 'right atrium': patches are not mirrored"]


def test_classes_become_others_and_twice_themselves():
    others = {1: 3, 3: 1}
    label = torch.tensor(
        [[0, 1, 2, 3, IGNORED, class_set([0, 1]), class_set([0, 2]), class_set([1, 2, 3])], [9, *7 * [4]]]
    )
    expected = torch.tensor([0, 3, 2, 1, IGNORED, class_set([0, 3]), class_set([0, 2]), class_set([1, 2, 3])])
    exchanged = exchange_classes(label, others)
    assert torch.equal(exchanged[0], expected) and torch.equal(exchanged[1], label[1])
    assert torch.equal(exchange_classes(exchanged, others), label)


PLACES = {1: 30.0, 2: 10.0, 3: 20.5, 4: 24.0}  # left and right kidney, spinal cord, liver


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([PLACES], [4]),
        ([{value: -place for value, place in PLACES.items()}], [4]),
        ([PLACES, PLACES, {**PLACES, 3: 31.0, 4: 20.0}], [4]),  # the median of all scans tells
        ([{1: 30.0, 3: 29.0, 4: 24.0}], []),  # without a pair nothing is known of the middle
        ([{1: 30.0, 2: 10.0}, {}], []),
        ([], []),
    ],
)
def test_a_class_on_one_side_is_found_by_where_the_pairs_are(places, expected):
    assert lopsided_classes(places, {1: 2, 2: 1}) == expected
    assert lopsided_classes(places, {}) == []
