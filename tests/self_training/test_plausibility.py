"""Scans whose segmentations are unlike those of the others are found without labels, and others are not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from common.self_training import Segmentation, describe_segmentation, find_implausible

LABELS = {0: "background", 1: "kidney", 2: "liver"}


def typical(number=20, **changes):
    rng = np.random.default_rng(number)
    volumes = {1: 150 * np.exp(0.2 * rng.normal()), 2: 1500 * np.exp(0.2 * rng.normal())}
    places = {1: list(rng.normal([-60, 0, 0], 4)), 2: list(rng.normal([60, 0, 0], 4))}
    return Segmentation(**{"volumes": volumes, "places": places, "agreement": 0.8 + 0.03 * rng.normal(), **changes})


@pytest.fixture
def scans():
    return {f"scan{number}": typical(number) for number in range(20)}


def test_a_box_is_described_in_millilitres_and_millimetres():
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:4, 0:5, 0:10], label[12:14, 0:5, 0:10] = 1, 2
    found = describe_segmentation(label, np.diag([-2.0, 2.0, 1.0, 1.0]), agreement=0.5)
    assert found.volumes == {1: pytest.approx(0.4), 2: pytest.approx(0.4)}
    assert found.places == {1: [10.0, 0.0, 0.0], 2: [-10.0, 0.0, 0.0]}  # the first axis runs to the left
    assert found.agreement == 0.5


def test_nothing_and_a_single_class_have_no_place():
    assert describe_segmentation(np.zeros((3, 3, 3)), np.eye(4)) == Segmentation()
    assert describe_segmentation(np.ones((3, 3, 3)), np.eye(4)).places == {}


def test_what_is_usual_is_kept(scans):
    assert find_implausible(scans, [typical(99)], LABELS) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"volumes": {1: 5.0, 2: 1500.0}}, "kidney has 5 ml, where"),
        ({"volumes": {1: 150.0, 2: 15000.0}}, "liver has 1.5e.04 ml, where"),
        ({"volumes": {2: 1500.0}}, "has no kidney"),
        ({"places": {1: [60.0, 0, 0], 2: [-60.0, 0, 0]}}, "kidney lies where it lies in no other scan"),
        ({"agreement": 0.2}, "teachers agree with a Dice of 0.20"),
    ],
)
def test_what_is_unusual_is_named_with_its_reason(scans, change, reason):
    found = find_implausible({**scans, "odd": typical(**change)}, [typical(99)], LABELS)
    assert [*found] == ["odd"]
    assert re.search(reason, found["odd"])


def test_more_agreement_than_usual_is_no_fault(scans):
    assert find_implausible({**scans, "good": typical(agreement=1.0)}, [], LABELS) == {}


def test_a_class_that_not_all_labeled_scans_have_may_be_missing(scans):
    without = typical(volumes={2: 1500.0}, places={})
    assert find_implausible({**scans, "odd": without}, [typical(99), without], LABELS) == {}
    assert find_implausible({**scans, "odd": without}, [], LABELS) == {}
