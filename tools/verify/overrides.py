"""Overrides and references: the ids that they name exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigExpression, ReferenceResolver

from tools.verify.bundle import Bundle, summary
from tools.verify.components import find_component, takes
from tools.verify.config_ids import has, look_up, parent_of, reachable, references

__all__ = ["bases_of", "check_overrides", "check_references"]

_RUN_IDS = {"initialize", "run", "finalize"}


def check_references(bundle: Bundle) -> Iterator[str]:
    """Find references to nothing: of complete files, and of overrides in every place where they could stand."""
    for file in bundle.workflows:
        content = bundle.merge(file)
        for id in sorted(_missing(content, *content)):
            yield f"configs/{file}: must have the id {id}, to which it refers, got none"
    for file in [] if bundle.unread else bundle.overrides:  # what they come after may be what could not be read
        if bundle.workflows and not bases_of(bundle, file):
            yield f"configs/{file}: must {_hindrance(bundle, file)}"


def check_overrides(bundle: Bundle) -> Iterator[str]:
    """Find ids of overrides that replace nothing, and that nothing uses: MONAI adds them in silence."""
    for file in [] if bundle.unread else bundle.overrides:
        bases = bases_of(bundle, file)
        before = [bundle.merge(*base) for base in bases]
        after = [bundle.merge(*base, file) for base in bases]
        for id, value in _ids(bundle, file).items() if bases else ():
            if not any(has(content, id) for content in before) and not any(_is_used(c, id, value) for c in after):
                files = ", ".join(dict.fromkeys(base[0] for base in bases))
                yield f"configs/{file}: {id} must exist in a file that it comes after, or be used, got none in {files}"


def bases_of(bundle: Bundle, override: str) -> list[tuple[str, ...]]:
    """Return the files after which an override may stand: what it replaces there finds all to which it refers.

    A complete file suffices for most; one that is made for what another override adds stands after both.
    """
    alone: list[tuple[str, ...]] = [(file,) for file in bundle.workflows]
    pairs: list[tuple[str, ...]] = [(*base, other) for base in alone for other in bundle.overrides if other != override]
    for candidates in (alone, pairs):
        bases = [base for base in candidates if _lacking(bundle, base, override) == set()]
        if bases:
            return bases
    return []


def _ids(bundle: Bundle, override: str) -> dict[str, Any]:
    """Return what an override holds, by ids without MONAI's mark for what gets longer."""
    return {ReferenceResolver.normalize_id(id.removeprefix("+")): v for id, v in bundle.configs[override].items()}


def _missing(content: dict[str, Any], *ids: str) -> set[str]:
    """Return what some ids lead to, and what does not exist."""
    wanted = {other for id in reachable(content, *ids) for other in references(look_up(content, id), id)}
    return {id for id in wanted if not has(content, id)}


def _lacking(bundle: Bundle, base: tuple[str, ...], override: str) -> set[str] | str:
    """Return what an override refers to in vain after some files, or why it cannot stand there."""
    try:
        before, after = bundle.merge(*base), bundle.merge(*base, override)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"fit after {' and '.join(base)}, got {summary(error)}"
    replaced = [id for id in _ids(bundle, override) if has(before, id)]
    if not replaced:
        return f"replace an id of {' and '.join(base)}, got none"
    return _missing(after, *replaced) - _missing(before, *before)


def _hindrance(bundle: Bundle, override: str) -> str:
    """Say what hinders an override where the least does."""
    lacking = {file: _lacking(bundle, (file,), override) for file in bundle.workflows}
    sets = {file: ids for file, ids in lacking.items() if isinstance(ids, set)}
    if not sets:
        return next(reason for reason in lacking.values() if isinstance(reason, str))
    file = min(sets, key=lambda file: len(sets[file]))
    return f"refer to ids that exist, got {', '.join(sorted(sets[file]))} after {file}"


def _is_used(content: dict[str, Any], id: str, value: Any) -> bool:
    """Tell whether an id is more than a new name: run, referred to, or an argument of a component."""
    is_program = isinstance(value, list) and all(ConfigExpression.is_expression(entry) for entry in value)
    if id in _RUN_IDS or value == "%run" or is_program:
        return True
    parent = look_up(content, parent_of(id)) if has(content, parent_of(id)) else None
    if isinstance(parent, dict) and "_target_" in parent:
        try:
            return takes(find_component(parent["_target_"]), ReferenceResolver.split_id(id)[-1])
        except ImportError:
            return True  # another finding
    wanted = references(content)
    return any(f"{other}::".startswith(f"{id}::") or f"{id}::".startswith(f"{other}::") for other in wanted)
