"""Options that are true or false."""

from __future__ import annotations

from typing import Any

__all__ = ["check_flags"]


def check_flags(**flags: Any) -> None:
    """Refuse text, which counts as true: a command line delivers `false` and `no` as text.

    Raises:
        TypeError: when one of the flags is neither True nor False.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
