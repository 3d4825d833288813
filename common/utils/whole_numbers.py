"""Options that are whole numbers."""

from __future__ import annotations

from numbers import Integral
from typing import Any

__all__ = ["check_whole_numbers"]


def check_whole_numbers(**numbers: Any) -> None:
    """Refuse text and fractions by the name of their option, before a comparison fails without it.

    Raises:
        TypeError: when one of the numbers is no whole number.
    """
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
