"""Command line of a tool: `fire` parses it, what `fire` would let pass is refused here, and bundles are found by name.

MONAI takes seconds to import. A tool that can imports it within its functions, so that its `--help` comes at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import fire
from fire.decorators import SetParseFn, SetParseFns
from fire.parser import DefaultParseValue

from common.cli import SHARED_OPTIONS, InputError, MissingFileError, check_values_are_given, find_sentence

__all__ = ["all_bundles", "find_bundle", "run_command"]

_BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
_VALUES, _OPTIONS = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD  # as in `*values` and `**options`


def run_command(function: Callable[..., Any]) -> None:
    """Call a function with the arguments of the command line, and print what it returns.

    `--help` shows the help wherever it stands. An unknown option, a surplus operand, a missing one, and an error that
    the function foresees end in one sentence on stderr, without a traceback. An argument whose annotation allows text
    stays text, whatever it looks like, and so does an option of a bundle that is text.
    """
    spec = sys.modules[function.__module__].__spec__
    name = spec.name.removesuffix(".__main__") if spec else function.__name__
    if {"-h", "--help"} & {*sys.argv[1:]}:
        fire.Fire(function, ["--", "--help"], name)
    try:
        check_values_are_given(sys.argv[1:], _texts(function))
        fire.Fire(_check_arguments(function, name), name=name)
    except Exception as error:
        sentence = find_sentence(error)
        if sentence is None:
            raise
        sys.exit(sentence)


def _check_arguments(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that `fire` can give any arguments, and that calls another one once they are checked."""
    parameters = signature(function).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    operands = [parameter.name for parameter in parameters if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    known = [parameter for parameter in parameters if parameter.kind not in (_VALUES, _OPTIONS)]
    names = [parameter.name for parameter in known]

    @wraps(function)
    def call(*values: Any, **options: Any) -> Any:
        surplus = () if _VALUES in kinds else values[len(operands) :]
        if surplus:
            wanted = ", ".join(operands)
            raise InputError(
                f"operands of {name} must be {wanted}, got also {surplus[0]!r}; a list has commas, no blanks"
            )
        for option in () if _OPTIONS in kinds else options:
            if option not in names:
                similar = difflib.get_close_matches(option, names, 1)
                hint = f"did you mean --{similar[0]}?" if similar else "--help shows them"
                raise InputError(f"--{option} must be an option of {name}; {hint}")
        given = {**dict(zip(operands, values, strict=False)), **options}
        for parameter in known:
            if parameter.default is Parameter.empty and given.get(parameter.name) is None:
                raise InputError(f"{parameter.name} must be given to {name}, got none; --help shows how")
        return function(*values, **options)

    optional = [p.replace(default=None if p.default is Parameter.empty else p.default) for p in known]
    optional.insert(len(operands), Parameter("_values", _VALUES))
    optional.append(Parameter("_options", _OPTIONS))
    call.__signature__ = signature(function).replace(parameters=optional)  # type: ignore[attr-defined]
    may_be_text = _texts(function)
    SetParseFns(**{key: str if key in may_be_text else DefaultParseValue for key in {*names, *may_be_text}})(call)
    if any(parameter.kind is _VALUES and parameter.name in may_be_text for parameter in parameters):
        SetParseFn(str)(call)
    return call


def _texts(function: Callable[..., Any]) -> set[str]:
    """Return the names of the arguments that may be text, of a bundle's options, too, where a tool takes them."""
    texts = {key for key, hint in get_type_hints(function).items() if str in (hint, *get_args(hint))}
    if any(parameter.kind is _OPTIONS for parameter in signature(function).parameters.values()):
        texts |= {key for key, option in SHARED_OPTIONS.items() if option.kind.is_text}
    return texts


def all_bundles() -> list[Path]:
    """Return the folders of this repository's bundles."""
    return sorted(path.parent for path in _BUNDLES.glob("*/configs"))


def find_bundle(bundle: str, file: str = "") -> Path:
    """Return the folder of one of this repository's bundles, by its name, or of another one, by its path.

    Args:
        bundle: name or path.
        file: that it must hold.
    """
    for folder in (_BUNDLES / bundle, Path(bundle)) if bundle else ():
        if folder.is_dir() and (folder / file).exists():
            return folder.resolve()
    names, holding = ", ".join(root.name for root in all_bundles()), f" with {file}" if file else ""
    raise MissingFileError(f"bundle must be one of {names}, or a folder{holding}, got {bundle!r}")
