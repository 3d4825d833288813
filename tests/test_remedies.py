"""Nine refusals in ten say what to do."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from common.cli import SHARED_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("common", "tools") for path in (ROOT / folder).rglob("*.py"))
ERRORS = {"InputError", "KindError", "MissingFileError", "MissingPackageError", "DivergenceError"}
TABLES = [f"common.{method}.options" for method in ("fnet", "context", "planar", "layers")]
TOOLS = ["datalist", "next_scan", "normals", "options", "overlay", "phantom"]
ADVICE = re.compile(r"; \S|did you mean")
INTERNAL = {  # what components hand to one another: a user meets none of these, whatever is typed
    *("input", "inputs", "target", "prediction", "reference", "img", "images", "slabs", "cubes", "volumes", "seeds"),
    *("loaders", "descriptors", "labeled", "unlabeled", "queries", "grid", "axes", "margin", "coefficient", "start"),
    *("scores", "module", "autoencoder_optimizer", "filter", "num_permutations", "weights", "network", "rows"),
}


def refusals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each refusal of a file, with `{}` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            if node.exc.func.id in ERRORS and node.exc.args:
                yield node.lineno, _text(node.exc.args[0])


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def names_of_options() -> set[str]:
    """Return what a user can type: the options of all bundles, and the arguments of the tools."""
    names = {*SHARED_OPTIONS}
    for table in TABLES:
        names |= {
            name for name, value in vars(import_module(table)).items() if name.endswith("_OPTIONS") for name in value
        }
    for tool in TOOLS:
        names |= {*inspect.signature(getattr(import_module(f"tools.{tool}"), tool)).parameters}
    return names


def test_nine_refusals_in_ten_say_what_to_do():
    """A value of an option is told what it must be; what lies in a file is told what to do about it."""
    options = names_of_options()
    told, silent = [], []
    for path in FILES:
        for line, text in refusals(path):
            subject = re.match(r"\w*", text)[0]
            if subject in INTERNAL:
                continue
            is_told = bool(ADVICE.search(text)) or (subject in options and " must be " in text)
            (told if is_told else silent).append(f"{path.relative_to(ROOT)}:{line}: {text}")
    assert len(told) >= 0.9 * (len(told) + len(silent)), "\n".join(silent)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_option_that_is_advised_is_there(path):
    """`pass --nan replace` was advised by bundles that had no such option."""
    flags = {"help", "overwrite", "resume", "report_only"} | {"resume"}
    known = names_of_options() | flags | _arguments_of_tools()
    for line, text in refusals(path):
        for name in re.findall(r"--(\w+)", text):
            assert name in known or name == "VALUE", f"{path.name}:{line}: --{name}"


def _arguments_of_tools() -> set[str]:
    """Return the arguments of all functions of the tools, whose names a command line takes."""
    return {
        argument.arg
        for path in FILES
        if path.is_relative_to(ROOT / "tools")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for argument in [*node.args.args, *node.args.kwonlyargs]
    }
