"""Benchmarks: how two sides are measured, and the rows of each method."""
