"""Options of a run, refused by the names that the user gave them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

__all__ = ["check_options"]


def _is_number(value: Any, kind: Any = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value, Integral) and value >= 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_size(value: Any) -> bool:
    return _is_count(value) or (_is_list(value) and len(value) == 3 and all(map(_is_count, value)))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "flags": ("True or False", lambda value: isinstance(value, bool)),
    "whole_numbers": ("a whole number from 0", lambda value: _is_number(value, Integral) and value >= 0),
    "counts": ("a whole number from 1", _is_count),
    "sizes": ("a whole number from 1, or three of them", _is_size),
    "numbers": ("a number", _is_number),
    "non_negative_numbers": ("a number from 0", lambda value: _is_number(value) and value >= 0),
    "positive_numbers": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "shares": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
}


def check_options(**kinds: Mapping[str, Any]) -> None:
    """Refuse options before anything is done with them, where an error can still name them.

    A command line delivers what it cannot read as text, and whoever gets it much later knows neither the option nor
    what it must be.

    Args:
        kinds: values by the names of their options, by what they must be: `flags`, `whole_numbers` (from 0), `counts`
            (from 1), `sizes` (one count, or one for each of three axes), `numbers`, `non_negative_numbers`,
            `positive_numbers` or `shares` (from 0 to 1). `lists_of_counts` are lists of them, and likewise of the
            others; `counts_or_null` may also be None.

    Raises:
        TypeError: when an option is not of its kind.
        ValueError: when a number is out of range.
    """
    for kind, options in kinds.items():
        may_be_none, is_list = kind.endswith("_or_null"), kind.startswith("lists_of_")
        wanted, is_right = _KINDS[kind.removeprefix("lists_of_").removesuffix("_or_null")]
        wanted = f"a list, each entry {wanted}" if is_list else wanted
        wanted = f"{wanted}, or null ('$None' on a command line)" if may_be_none else wanted
        for name, value in options.items():
            if value is None and may_be_none:
                continue
            if not (_is_list(value) and all(map(is_right, value)) if is_list else is_right(value)):
                error = ValueError if type(value) in (int, float) else TypeError
                raise error(f"{name} must be {wanted}, got {value!r}")
