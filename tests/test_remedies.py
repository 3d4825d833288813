"""Nine refusals in ten say what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path

import monai.bundle

from common.cli import SHARED_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("common", "tools") for path in (ROOT / folder).rglob("*.py"))
ERRORS = {"InputError", "KindError", "MissingFileError", "MissingPackageError", "DivergenceError"}
TABLES = [f"common.{method}.options" for method in ("fnet", "context", "planar", "layers")]
ADVICE = re.compile(r"; \S|did you mean")
INTERNAL = re.compile(  # of what components hand to one another: a user meets none of these, whatever is typed
    r"(inputs?|targets?|prediction|reference|img|images|slabs|cubes|volumes|seeds|loaders|descriptors|labeled|unlabeled"
    r"|queries|grid|axes|margin|coefficient|start|scores|module|autoencoder_optimizer|filter|num_permutations|weights"
    r"|num_levels|num_classes|head_kernel_size|part|network|rows|shape|field of view|windows)\b"
    r"|(image|label) must (have (shape|the shape|the drawn size|2 spatial)|be (\(|a MetaTensor))|\{\}$|\{\}: \{\}$"
)
FINDINGS = ROOT / "tools" / "verify"  # tells what it finds, one line each


def refusals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each refusal of a file, with `{}` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        error = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(error, ast.Call) and isinstance(error.func, ast.Name) and error.func.id in ERRORS and error.args:
            yield error.lineno, _text(error.args[0])


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def names_of_options() -> set[str]:
    """Return what a user can type: the options of all bundles, and the arguments of the tools."""
    names = {*SHARED_OPTIONS}
    for table in TABLES:
        names |= {
            name for key, value in vars(import_module(table)).items() if key.endswith("_OPTIONS") for name in value
        }
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path.is_relative_to(ROOT / "tools") and (called := re.search(r"\n    run_command\((\w+)\)", text)):
            (tool,) = [node for node in ast.parse(text).body if getattr(node, "name", None) == called[1]]
            names |= {argument.arg for argument in [*tool.args.args, *tool.args.kwonlyargs]}
    return names


def test_nine_refusals_in_ten_say_what_to_do():
    """A value of an option is told what it must be; what lies in a file is told what to do about it."""
    options = names_of_options()
    told, silent = [], []
    for path in [path for path in FILES if not path.is_relative_to(FINDINGS)]:
        for line, text in refusals(path):
            if INTERNAL.match(text):
                continue
            subject = text.partition(" must ")[0]
            is_value = subject in options or re.fullmatch(r"\{\}( of \{\})?", subject)
            is_told = is_value or bool(ADVICE.search(text))
            (told if is_told else silent).append(f"{path.relative_to(ROOT)}:{line}: {text}")
    assert len(told) >= 0.9 * (len(told) + len(silent)), "\n".join(silent)


def test_an_option_that_is_advised_is_there():
    """`nan: replace` was advised by bundles that had no such option."""
    options = names_of_options() | {*signature(monai.bundle.run).parameters}
    advised = {name for path in FILES for _, text in refusals(path) for name in re.findall(r"--(\w+)", text)}
    assert advised - {"help", "VALUE", "raw"} <= options and len(advised) > 10
