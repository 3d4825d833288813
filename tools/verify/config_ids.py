"""Ids of a config, and the references between them, as `ConfigParser` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

__all__ = ["follow", "has", "look_up", "parent_of", "reachable", "references", "walk"]


def walk(item: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    """Yield an item and all that it holds, each with its id."""
    yield id, item
    entries = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in entries:
        yield from walk(value, f"{id}::{key}" if id else str(key))


def references(item: Any, id: str = "") -> set[str]:
    """Return the ids that an item refers to: by `@`, alone or in an expression, or by `%` as a copy of the text."""
    found: set[str] = set()
    for place, value in walk(item, id):
        if isinstance(value, str):
            text = ConfigParser.resolve_relative_ids(place, value)
            found.update(ReferenceResolver.match_refs_pattern(text))
            if text.startswith("%"):
                path, macro = ConfigParser.split_path_id(text[1:])
                found.update({macro} if not path else ())
    return found - {""}


def parent_of(id: str) -> str:
    """Return the id of what holds an item, empty for the whole config."""
    return ReferenceResolver.split_id(id, last=True)[0]


def look_up(content: Any, id: str) -> Any:
    """Return what an id stands for.

    Raises:
        KeyError: when there is nothing.
    """
    for key in ReferenceResolver.split_id(id) if id else []:
        if isinstance(content, dict) and key in content:
            content = content[key]
        elif isinstance(content, list) and key.isdecimal() and int(key) < len(content):
            content = content[int(key)]
        else:
            raise KeyError(id)
    return content


def has(content: Any, id: str) -> bool:
    """Tell whether an id stands for something."""
    try:
        look_up(content, id)
    except KeyError:
        return False
    return True


def follow(content: Any, id: str) -> Any:
    """Return what an id stands for in the end, when it stands for another one: `@a` or `%a`; None: nothing."""
    seen: set[str] = set()
    while id not in seen and has(content, id):
        seen.add(id)
        value = look_up(content, id)
        if not isinstance(value, str) or not value.startswith(("@", "%")):
            return value
        id = next(iter(references(value, id)), "")
    return None


def reachable(content: Any, *ids: str) -> set[str]:
    """Return the ids that some ids lead to, reference by reference, and these as far as they exist."""
    found: set[str] = set()
    waiting = [*ids]
    while waiting:
        id = waiting.pop()
        if id not in found and has(content, id):
            found.add(id)
            waiting.extend(references(look_up(content, id), id))
    return found
