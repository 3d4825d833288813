"""Laws of the benchmark of reading."""

from __future__ import annotations

from tools.benchmark.measure import Timer
from tools.benchmark.reading import all_rows


def test_both_sides_read_the_same_scans(monkeypatch):
    monkeypatch.delenv("SCANS_DIR", raising=False)
    loading, header = all_rows(Timer("cpu", 1), quick=True)
    assert loading.name == "load 1 scan(s) and check them" and header.unit == "headers/s"
    assert min(loading.median_a, loading.median_b, header.median_a, header.median_b) > 0
