"""Laws of the options of a run."""

from __future__ import annotations

import math

import pytest

from common.cli import check_options

RIGHT = {
    "flags": [True, False],
    "whole_numbers": [0, 7, 10**12],
    "counts": [1, 7],
    "sizes": [1, 96, [72, 72, 40], (1, 2, 3)],
    "numbers": [-500, 0, 0.5],
    "non_negative_numbers": [0, 0.0, 3.0e-5],
    "positive_numbers": [1.0e-7, 2],
    "shares": [0, 0.5, 1],
}
WRONG = {  # what is of another type, and what is out of range
    "flags": (["abc", "false", None, [True]], [0, 1]),
    "whole_numbers": (["abc", "3", None, True, [3]], [-1, 1.5, 2.0, math.inf]),
    "counts": (["abc", "3", None, True, [3]], [-1, 0, 1.5, math.nan]),
    "sizes": (["abc", None, True, [], [8], [8, 8], [8, 8, 0], [8, 8, "8"]], [-1, 0, 8.5]),
    "numbers": (["abc", "1e-3", None, False, [1.0]], [math.nan, math.inf]),
    "non_negative_numbers": (["abc", None], [-1.0e-9, math.inf]),
    "positive_numbers": (["1e-3", None], [0, -1, math.nan]),
    "shares": (["abc", None], [-0.1, 1.1]),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_of_its_kind_passes_and_so_does_a_list_of_it(kind):
    for value in RIGHT[kind]:
        check_options(
            **{kind: {"one": value}, f"lists_of_{kind}": {"some": [value], "none": (), "two": (value, value)}}
        )


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_is_refused_by_the_name_of_the_option(kind):
    for error, values in zip((TypeError, ValueError), WRONG[kind], strict=True):
        for value in values:
            with pytest.raises(error) as raised:
                check_options(**{kind: {"fine": RIGHT[kind][0], "patience": value}})
            assert str(raised.value).startswith("patience must be ") and str(raised.value).endswith(f", got {value!r}")
            with pytest.raises(TypeError, match="features must be a list, each entry "):
                check_options(**{f"lists_of_{kind}": {"features": [RIGHT[kind][0], value]}})


def test_a_list_is_one():
    for value in ("16,32", 16, None, {16: 32}):
        with pytest.raises(
            (TypeError, ValueError), match="features must be a list, each entry a whole number from 1, got"
        ):
            check_options(lists_of_counts={"features": value})


@pytest.mark.parametrize("kind", RIGHT)
def test_null_passes_only_where_it_may_be_and_the_error_tells_how_it_is_written(kind):
    check_options(**{f"{kind}_or_null": {"one": None}, f"lists_of_{kind}_or_null": {"some": None}})
    for name, wanted in ((kind, ""), (f"lists_of_{kind}", "a list, ")):
        with pytest.raises(TypeError, match=rf"spacing must be {wanted}.*, or null \('\$None' on a .*\), got 'null'"):
            check_options(**{f"{name}_or_null": {"spacing": "null"}})


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("flags", "x must be True or False, got 'abc'"),
        ("whole_numbers", "x must be a whole number from 0, got 'abc'"),
        ("counts", "x must be a whole number from 1, got 'abc'"),
        ("sizes", "x must be a whole number from 1, or three of them, got 'abc'"),
        ("numbers", "x must be a number, got 'abc'"),
        ("non_negative_numbers", "x must be a number from 0, got 'abc'"),
        ("positive_numbers", "x must be a number above 0, got 'abc'"),
        ("shares", "x must be a number from 0 to 1, got 'abc'"),
    ],
)
def test_the_error_says_what_the_option_must_be(kind, sentence):
    with pytest.raises(TypeError) as raised:
        check_options(**{kind: {"x": "abc"}})
    assert str(raised.value) == sentence
