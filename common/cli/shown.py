"""Options that MONAI Label shows to its clients: how they are offered, and read again when a client sends them back.

Slicer shows a flag, a number, a text, or a list of texts of which one is chosen, and sends an empty text for null.
"""

from __future__ import annotations

import json
from typing import Any

from .options import Option

__all__ = ["offer_option", "read_option"]


def offer_option(option: Option, default: Any) -> Any:
    """Return what a client is offered: of a few words all of them, the default first; lists as text."""
    if option.kind.choices and isinstance(default, str) and default.startswith("$"):  # such as that of the training
        return f"$[*dict.fromkeys([{default[1:]}, {', '.join(map(repr, option.kind.choices))}])]"
    if option.kind.choices:
        return [default, *(choice for choice in option.kind.choices if choice != default)]
    return json.dumps(default) if isinstance(default, list | dict) else default


def read_option(value: Any) -> Any:
    """Return the value of an option that was offered or sent back: of a list of words the first, of text its content.

    A text that is no JSON, such as `majority`, stays as it is.
    """
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        value = value[0]
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        return value
