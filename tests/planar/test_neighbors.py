"""Laws of the exact search of the nearest neighbors."""

from __future__ import annotations

import pytest
import torch

from common.planar import nearest_neighbors, neighbors


def brute_force(queries, references, num_neighbors):
    """Return neighbors from the whole matrix of distances, sorted stably."""
    distances = (queries.double().unsqueeze(1) - references.double()).square().sum(dim=2)
    distances, order = distances.sort(dim=1, stable=True)
    return distances[:, :num_neighbors], order[:, :num_neighbors]


def small_chunks(monkeypatch):
    monkeypatch.setattr(neighbors, "_CPU_QUERIES", 7)
    for name, size in (("_NUM_RANKED", 3), ("_NUM_REFERENCES", 16), ("_NUM_PRODUCTS", 112)):
        monkeypatch.setattr(neighbors, name, size)


@pytest.mark.parametrize("num_neighbors", [1, 5, 160])
@pytest.mark.parametrize(("num_queries", "num_references"), [(1, 160), (50, 333), (64, 2000)])
def test_the_search_finds_what_brute_force_finds(num_neighbors, num_queries, num_references, monkeypatch):
    small_chunks(monkeypatch)
    torch.manual_seed(0)
    queries, references = torch.randn(num_queries, 6), torch.randn(num_references, 6)
    distances, indices = nearest_neighbors(queries, references, num_neighbors)
    expected_distances, expected_indices = brute_force(queries, references, num_neighbors)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(distances, expected_distances, rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_neighbors", [1, 9, 60])
def test_of_equally_distant_references_the_first_come_first(num_neighbors, monkeypatch):
    """On a lattice, and with copies, more references are equally distant than are wanted, or than are candidates."""
    small_chunks(monkeypatch)
    lattice = torch.cartesian_prod(*3 * [torch.arange(4.0)])
    references = torch.cat((lattice, lattice, torch.ones(200, 3), lattice.flip(0)))
    queries = torch.cat((lattice, lattice + 0.5, torch.ones(30, 3)))
    _, indices = nearest_neighbors(queries, references, num_neighbors)
    assert torch.equal(indices, brute_force(queries, references, num_neighbors)[1])


def test_errors_of_the_products_do_not_change_the_order(monkeypatch):
    """Far from the origin, the products lose all digits in which the distances differ."""
    small_chunks(monkeypatch)
    torch.manual_seed(0)
    references = 1000 + torch.randint(0, 64, (500, 8)) / 64
    queries = 1000 + torch.randint(0, 64, (20, 8)) / 64
    distances, indices = nearest_neighbors(queries, references, 4)
    expected_distances, expected_indices = brute_force(queries, references, 4)
    assert torch.equal(indices, expected_indices)
    assert torch.equal(distances, expected_distances)


def test_the_neighbors_of_a_query_do_not_depend_on_the_others():
    torch.manual_seed(0)
    queries, references = torch.randn(40, 12).half(), torch.randn(300, 12).half()
    together = nearest_neighbors(queries, references, 5)
    alone = [nearest_neighbors(query.unsqueeze(0), references, 5) for query in queries]
    for both, single in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(both, torch.cat(single))


def test_no_query_has_no_neighbors():
    distances, indices = nearest_neighbors(torch.zeros(0, 3), torch.zeros(4, 3), 2)
    assert distances.shape == indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "references", "num_neighbors", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 3), 5, "num_neighbors must be from 1 to the number of references 4, got 5"),
        (torch.zeros(2, 3), torch.zeros(4, 3), 0, "num_neighbors must be from 1 to the number of references 4, got 0"),
        (torch.full((1, 3), torch.nan), torch.zeros(4, 3), 1, "queries must be finite, got NaN or Inf"),
        (torch.zeros(2, 3), torch.full((4, 3), torch.inf), 1, "references must be finite, got NaN or Inf"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, references, num_neighbors, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(queries, references, num_neighbors)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_search_is_exact_whatever_the_precision_of_products(precision):
    """Where a CPU has bfloat16, products of medium precision lose the digits in which the distances differ."""
    before = torch.get_float32_matmul_precision()
    torch.manual_seed(0)
    queries, references = 50 + torch.randn(100, 64), 50 + torch.randn(1000, 64)
    torch.set_float32_matmul_precision(precision)
    try:
        _, indices = nearest_neighbors(queries, references, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(indices, brute_force(queries, references, 5)[1])
