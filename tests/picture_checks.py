"""What holds for every picture of a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 1000


def assert_drawn_every_second_epoch_and_at_the_end(picture: Any, path: Path, output: Any) -> None:
    """Check when a handler with `interval=2` draws in five epochs of one iteration, whose output is given."""
    drawn = []

    def step(engine, batch):
        drawn.append(path.exists())
        path.unlink(missing_ok=True)
        return output

    engine = Engine(step)
    picture.attach(engine)
    engine.run([0], max_epochs=5)
    assert drawn == [False, False, True, False, True]
    assert is_picture(path)


def assert_seen_as_by_a_radiologist(figure, axes: list[int]) -> None:
    """Check that the patient's right is on the left and the front or the head up, in slices across these axes."""
    panels = [panel for panel in figure.axes if panel.images]
    assert len(panels) == len(axes)
    for panel, axis in zip(panels, axes, strict=True):
        assert panel.images[0].origin == "lower"
        (left, low), (right, high) = panel.transData.transform([(0, 0), (1, 1)])
        assert low < high  # the slice's second axis goes up: to the front or to the head
        assert (right < left) == (axis != 0)  # its first goes to the patient's right or, in sagittal ones, to the front
