"""Laws of the choice of the next scans."""

import math

import pytest
import torch

from common.active_learning import CRITERIA, next_scans

every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


@pytest.fixture
def descriptors():
    """Twelve scans, of which no two are alike."""
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def chosen(*args, **kwargs):
    return [index for index, _ in next_scans(*args, **kwargs)]


def test_the_k_center_is_the_farthest_from_its_nearest_labeled_scan(descriptors):
    labeled = [4, 7]
    nearest = [min(math.dist(row, descriptors[other]) for other in labeled) for row in descriptors]
    [(index, distance)] = next_scans(descriptors, labeled, criterion="k_center")
    assert index == max(range(12), key=lambda scan: nearest[scan])
    assert distance == pytest.approx(nearest[index])


def test_the_k_medoid_leaves_the_smallest_sum_of_distances(descriptors):
    labeled = [4, 7]
    sums = {
        scan: sum(min(math.dist(row, descriptors[other]) for other in [*labeled, scan]) for row in descriptors)
        for scan in range(12)
        if scan not in labeled
    }
    assert chosen(descriptors, labeled, criterion="k_medoids") == [min(sums, key=sums.__getitem__)]


@every_criterion
def test_the_medoid_is_first_when_no_scan_is_labeled(descriptors, criterion):
    sums = [sum(math.dist(row, other) for other in descriptors) for row in descriptors]
    [(index, distance)] = next_scans(descriptors, [], criterion=criterion)
    assert index == sums.index(min(sums))
    assert distance == math.inf


def test_an_outlier_is_the_first_k_center_and_the_last_k_medoid():
    rows = torch.tensor([[0.0], [0.1], [1.0], [1.1], [1.2], [9.0]])
    assert chosen(rows, [0], criterion="k_center") == [5]
    crowd = torch.cat((rows[:5].repeat(4, 1) + 0.01 * torch.arange(20).unsqueeze(1), rows[5:]))
    assert chosen(crowd, [0], criterion="k_medoids") != [20]


@every_criterion
def test_each_choice_is_as_if_those_before_it_were_labeled(descriptors, criterion):
    first, second, third = next_scans(descriptors, [3], 3, criterion)
    assert [second] == next_scans(descriptors, [3, first[0]], criterion=criterion)
    assert [third] == next_scans(descriptors, [3, first[0], second[0]], criterion=criterion)


@every_criterion
def test_every_unlabeled_scan_comes_once_and_no_labeled_one(descriptors, criterion):
    order = chosen(descriptors, [0, 5], 100, criterion)
    assert sorted(order) == [scan for scan in range(12) if scan not in (0, 5)]


@every_criterion
def test_the_order_is_that_of_the_scans_and_not_of_their_list(descriptors, criterion):
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    place = {int(scan): index for index, scan in enumerate(shuffle)}
    order = chosen(descriptors[shuffle], [place[2]], 11, criterion)
    assert [int(shuffle[index]) for index in order] == chosen(descriptors, [2], 11, criterion)


@every_criterion
def test_twins_of_labeled_and_of_chosen_scans_come_last(descriptors, criterion):
    order = next_scans(torch.cat((descriptors, descriptors)), [1, 8], 22, criterion)
    assert len({index % 12 for index, _ in order[:10]}) == 10
    assert [distance for _, distance in order[10:]] == [0.0] * 12


@pytest.mark.parametrize(
    ("rows", "labeled", "options", "message"),
    [
        (torch.zeros(2, 3), [0, 1], {}, "scans must have an unlabeled one, got 2, all labeled"),
        (torch.zeros(0, 3), [], {}, "scans must have an unlabeled one, got 0"),
        (torch.full((2, 3), math.nan), [], {}, r"descriptors must be finite and of shape \(N, F\), got \(2, 3\)"),
        (torch.zeros(2), [], {}, "descriptors must be finite and of shape"),
        (torch.zeros(2, 3), [2], {}, r"labeled must be indices from 0 to 1, got \[2\]"),
        (torch.zeros(2, 3), [], {"count": 0}, "count must be at least 1, got 0"),
        (torch.zeros(2, 3), [], {"criterion": "k_means"}, "criterion must be one of k_medoids, k_center"),
    ],
)
def test_refuses_what_leaves_no_choice(rows, labeled, options, message):
    with pytest.raises(ValueError, match=message):
        next_scans(rows, labeled, **options)
