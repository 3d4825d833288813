"""Options of a run, refused by the names that the user gave them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

__all__ = ["RANDOM", "check_choice", "check_flags", "check_options", "check_whole_numbers", "is_scratch"]


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


def check_flags(**flags: Any) -> None:
    """Refuse text, which counts as true: a command line delivers `false` and `no` as text.

    Raises:
        TypeError: when one of the flags is neither True nor False.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_whole_numbers(**numbers: Any) -> None:
    """Refuse text and fractions by the name of their option, before a comparison fails without it.

    Raises:
        TypeError: when one of the numbers is no whole number.
    """
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is not among the choices, by the name of its option.

    Raises:
        ValueError: when it is none of them.
    """
    allowed = [*choices]
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


logger = logging.getLogger(__name__)

RANDOM = "random"  # in place of a file of weights: keep the initial ones, yet freeze and slow them down like pretrained


def is_scratch(pretrained: str | Path | None) -> bool:
    """Tell whether no pretraining is wanted: None, or `null` and `none`, which a command line delivers as text."""
    return pretrained is None or str(pretrained).lower() in ("null", "none")
