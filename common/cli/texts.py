"""Options that are text, such as paths: each arrives as it was written, whatever it looks like.

MONAI's parser turns `#` in any text into `::`, and evaluates what begins with `$`, `@` or `%`; `fire` and YAML make
numbers, dates, flags and lists of text. What was written is therefore read anew, and put into the config as an
expression in which no character has a meaning but its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from monai.bundle import ConfigParser

from .command_line import config_files, read_texts
from .errors import InputError
from .options import SHARED_OPTIONS

__all__ = ["express_texts", "restore_texts", "text_expression"]

_NULL = ("$None", "None", "null")
_SIGNS = ("$", "@", "%")  # MONAI evaluates what begins with one of them


def restore_texts(
    config: ConfigParser, arguments: Mapping[str, Any] | None, names: Collection[str], may_be_null: Collection[str]
) -> None:
    """Put those options of a config that are text back to what was written.

    In a config file, an expression that names another option, such as `$@ckpt_dir + '/mine'`, stays one. On a command
    line and in an `args_file`, all is text, but for null where an option may be null: `$None`, `None` and `null`.

    Args:
        config: of the run, changed in place.
        arguments: of the command line; None where there is none, as in MONAI Label.
        names: of the options that are text.
        may_be_null: those of them that may be null.

    Raises:
        ValueError: when a text cannot be delivered.
    """
    content = config.get()
    if arguments is None:
        _check_separator({name: content[name] for name in names if name in content})
        return
    written: dict[str, Any] = {}
    for file in config_files(arguments):
        written.update(read_texts(file, names))
    written = {name: value for name, value in written.items() if not _is_expression(value, content)}
    written.update({name: arguments[name] for name in names if name in arguments})
    has_changed = False
    for name, value in written.items():
        if name in may_be_null and value in _NULL:
            value = None
        if value != content[name] or str(value).startswith(_SIGNS):
            config[name] = text_expression(value) if isinstance(value, str) else value
            has_changed = True
    if has_changed:
        config.parse(reset=True)


def text_expression(text: str) -> str:
    """Return an expression of MONAI's config language whose value is a text, with any characters."""
    literal = ascii(text)
    for sign in "#@%":
        literal = literal.replace(sign, f"\\x{ord(sign):x}")
    return f"${literal}"


def express_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of options such that MONAI's parser takes those that are text, in all bundles, as they are."""
    texts = {name for name, option in SHARED_OPTIONS.items() if option.kind.is_text}
    return {
        name: text_expression(value) if name in texts and isinstance(value, str) else value
        for name, value in values.items()
    }


def _is_expression(value: Any, content: Mapping[str, Any]) -> bool:
    """Tell whether a value of a config file is an expression in which another option has a part."""
    is_marked = isinstance(value, str) and value.startswith(_SIGNS)
    return is_marked and any(name in content for name in re.findall(r"[@%](\w+)", value))


def _check_separator(texts: Mapping[str, Any]) -> None:
    """Refuse what can only come from `#`, where nobody can tell any more what was written."""
    for name, value in texts.items():
        if isinstance(value, str) and "::" in value and not value.startswith(_SIGNS):
            raise InputError(
                f"{name} must have no '#', which MONAI reads as '::', got {value!r}; rename the folder, or use "
                "`python -m monai.bundle run`"
            )
