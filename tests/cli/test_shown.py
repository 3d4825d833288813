"""Laws of the options that MONAI Label shows: what Slicer makes of them is what a run takes."""

from __future__ import annotations

from typing import Any

import pytest

from common.cli import SHARED_OPTIONS, Option, offer_option, read_option
from common.cli.options import ANY, CLIP, FLAG, NON_NEGATIVE, POSITIVE_INT, SIZE, one_of

OPTIONS = {
    "choice": (Option(one_of("majority", "distance"), ""), "distance"),
    "flag": (Option(FLAG, ""), True),
    "off": (Option(FLAG, ""), False),
    "count": (Option(POSITIVE_INT, ""), 9),
    "zero": (Option(NON_NEGATIVE, ""), 0.0),
    "number": (Option(NON_NEGATIVE, ""), 0.25),
    "null": (Option(POSITIVE_INT.or_null, ""), None),
    "size": (Option(SIZE, ""), [96, 96, 16]),
    "pairs": (Option(CLIP, ""), [[-155, 295], [0, 1]]),
    "mapping": (Option(ANY, ""), {"num_groups": 8}),
}


def as_slicer_sends(value: Any) -> Any:
    """Return what Slicer's table of options makes of a value that the user leaves alone."""
    if isinstance(value, list):
        assert all(isinstance(entry, str) for entry in value), "entries of a combo box"
        return value[0]
    if isinstance(value, bool):
        return value
    text = str(value) if value else ""
    if isinstance(value, int):
        return int(text) if text else 0
    if isinstance(value, float):
        return float(text) if text else 0.0
    return text


@pytest.mark.parametrize(("option", "default"), OPTIONS.values(), ids=OPTIONS)
def test_what_slicer_sends_back_unchanged_is_the_default(option, default):
    offered = offer_option(option, default)
    assert read_option(offered) == default, "of a client that sends what it was given"
    found = read_option(as_slicer_sends(offered))
    assert found == default and type(found) is type(default)
    option.kind.check("option", found)


def test_all_choices_are_offered_the_default_first():
    assert offer_option(SHARED_OPTIONS["nan"], "refuse") == ["refuse", "replace"]
    assert offer_option(SHARED_OPTIONS["nan"], "replace") == ["replace", "refuse"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [("96", 96), ("[96, 96, 16]", [96, 96, 16]), ("5.5", 5.5), ("", None), (" ", None), ("null", None)],
)
def test_what_a_user_writes_is_read(sent, expected):
    assert read_option(sent) == expected
    assert read_option([96, 96, 16]) == [96, 96, 16] and read_option(7) == 7
