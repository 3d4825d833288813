"""Options that are one of a few words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["check_choice"]


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is not among the choices, by the name of its option.

    Raises:
        ValueError: when it is none of them.
    """
    allowed = [*choices]
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
