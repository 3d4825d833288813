"""What holds for every picture of a scan."""

from __future__ import annotations

from pathlib import Path


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 1000


def assert_seen_as_by_a_radiologist(figure, axes: list[int]) -> None:
    """Check that the patient's right is on the left and the front or the head up, in slices across these axes."""
    panels = [panel for panel in figure.axes if panel.images]
    assert len(panels) == len(axes)
    for panel, axis in zip(panels, axes, strict=True):
        assert panel.images[0].origin == "lower"
        (left, low), (right, high) = panel.transData.transform([(0, 0), (1, 1)])
        assert low < high  # the slice's second axis goes up: to the front or to the head
        assert (right < left) == (axis != 0)  # its first goes to the patient's right or, in sagittal ones, to the front
