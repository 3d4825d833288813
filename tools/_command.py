"""What the commands have in common: how fire is given their arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import fire

__all__ = ["run_command"]


def run_command(tools: Callable | Mapping[str, Callable], *text: str) -> None:
    """Call a function, or the one of several that is named first, with the arguments of the command line.

    An error that the function foresees ends in one sentence on stderr, without a traceback. `--help` shows the help
    wherever it stands. To fire alone it is an option like any other, which a function that
    takes unknown ones, so as to refuse them by name, is given.

    Args:
        tools: the function, or functions by name.
        text: names of the options that stay text, whatever they look like.
    """
    spec, arguments = sys.modules["__main__"].__spec__, sys.argv[1:]
    name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    functions = {} if callable(tools) else dict(tools)
    if {"-h", "--help"} & {*arguments}:
        fire.Fire(tools, [*(argument for argument in arguments[:1] if argument in functions), "--", "--help"], name)
    read_text = fire.decorators.SetParseFn(str, *text)
    try:
        fire.Fire(read_text(tools) if callable(tools) else {key: read_text(tool) for key, tool in functions.items()})
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
