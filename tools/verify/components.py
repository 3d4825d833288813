"""Components and expressions of configs: each component exists and takes its arguments, no expression holds logic."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigExpression, ReferenceResolver

from common.cli import MissingPackageError
from tools.export.configs import FOLDER
from tools.verify.bundle import Bundle, summary
from tools.verify.config_ids import walk

__all__ = ["check_components", "check_expressions", "find_component", "takes"]

_LOGIC = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def find_component(target: Any) -> Any:
    """Return the class or function that a `_target_` names; None for an expression, which tells only when it runs.

    Raises:
        ImportError: when there is none, or its module cannot be imported.
    """
    if not isinstance(target, str) or target.startswith(("@", "$")):
        return None
    name = ConfigComponent({"_target_": target}, locator=_locator()).resolve_module_name()
    try:
        found = locate(name)
    except Exception as error:  # whatever a module raises when it is imported
        raise MissingPackageError(summary(error)) from error
    if found is None:
        raise MissingPackageError("no such class or function")
    return found


def takes(component: Any, argument: str) -> bool:
    """Tell whether a component may be given an argument; those with underscores are MONAI's own."""
    if component is None or argument in {*ConfigComponent.non_arg_keys, "_debug_"}:
        return True
    try:
        parameters = inspect.signature(component).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return True
    named = {p.name for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)}
    return argument in named or any(p.kind == p.VAR_KEYWORD for p in parameters)


def check_components(bundle: Bundle) -> Iterator[str]:
    """Find each `_target_` that names nothing, and each argument that it does not take."""
    for file, content in bundle.configs.items():
        for id, item in walk(content):
            if not ConfigComponent.is_instantiable(item):
                continue
            target = item["_target_"]
            try:
                component = find_component(target)
            except ImportError as error:
                yield f"configs/{file}: {id}::_target_ must name a class or function, got {target} ({error})"
                continue
            for argument in item:
                if not takes(component, argument):
                    yield f"configs/{file}: {id} must have arguments that {target} takes, got {argument}"


def check_expressions(bundle: Bundle) -> Iterator[str]:
    """Find expressions that MONAI would misread, and those with a loop or a lambda, which belong in a function."""
    for file, content in bundle.configs.items():
        for id, item in walk(content):
            if not ConfigExpression.is_expression(item) or item == FOLDER:  # which no component can find before it
                continue
            must = _what_must_hold(item[1:])
            if must:
                yield f"configs/{file}: {id} must {must}, got {' '.join(item.split())}"


def _what_must_hold(text: str) -> str | None:
    """Return what does not hold for the text of an expression."""
    if "import" in text and "@" in text:
        return "have no reference beside the text import, which MONAI takes for a statement"
    code = ReferenceResolver.id_matcher.sub("_", ReferenceResolver.normalize_id(text))
    try:
        nodes = [*ast.walk(ast.parse(code.strip()))]
    except SyntaxError:
        return "be a Python expression"
    if any(isinstance(node, _LOGIC) for node in nodes):
        return "have no loop and no lambda, which want to be a function"
    if any(isinstance(node, (ast.Import, ast.ImportFrom)) and not _binds_one_name(node) for node in nodes):
        return "import one name without a dot, since MONAI binds the text of the first one"
    return None


def _binds_one_name(node: ast.Import | ast.ImportFrom) -> bool:
    first = node.names[0]
    return len(node.names) == 1 and "." not in (first.asname or first.name)
