"""Check of a command line, and of a user's own file of overrides, for options that no config has."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from monai.bundle import ConfigExpression, ConfigParser, ConfigWorkflow, ReferenceResolver, run, update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY
from monai.utils import ensure_tuple

from .errors import InputError

__all__ = ["check_command_line"]

_MONAI_BUNDLE = ("monai", "bundle", "__main__.py")
_ARGUMENTS = {*signature(run).parameters, *signature(ConfigWorkflow).parameters} - {"override"}


def check_command_line() -> None:
    """Refuse options of `python -m monai.bundle run`, and ids of a user's own files, that no config of the run has.

    MONAI adds an unknown id in silence: a misspelled option would change nothing. Likewise, a mapping in a file
    replaces the whole section that has its name. Files are a user's own when they lie elsewhere than the first one.
    Arguments of a component are left to the component. Nothing is checked in a process that another command started.
    """
    if Path(sys.argv[0]).parts[-3:] != _MONAI_BUNDLE or sys.argv[1:2] != ["run"]:
        return
    arguments = _read_arguments(sys.argv[1:])
    files = [str(path) for path in ensure_tuple(arguments["config_file"])]
    own = [file for file in files if Path(file).resolve().parent != Path(files[0]).resolve().parent]
    bundle = ConfigParser(ConfigParser.load_config_files([file for file in files if file not in own]))
    for file in own:
        _check_file(file, bundle, files)
    content = ConfigParser.load_config_files(files)
    known = {*content, *_ARGUMENTS, *_tracking_ids(arguments.get("tracking"))}
    for name in map(ReferenceResolver.normalize_id, arguments):
        _check_id("--", name, ConfigParser(content), known, files)


def _check_file(file: str, bundle: ConfigParser, files: Sequence[str]) -> None:
    """Refuse what is misspelled in a user's own file, or would replace more than it names."""
    content = ConfigParser.load_config_file(file)
    wanted = set(re.findall(r"[@%](\w+)", json.dumps([bundle.get(), content], default=str)))
    for id, value in content.items():
        name = ReferenceResolver.normalize_id(id.removeprefix("+"))
        if name not in bundle and (name in wanted or _is_program(value)):
            continue
        _check_id(f"{file}: ", name, bundle, bundle.get(), [path for path in files if path != file])
        section = bundle.get(name)
        if id == name and isinstance(value, dict) and "_target_" not in value and isinstance(section, dict):
            lost = [key for key in section if key not in value]
            if lost:
                raise InputError(
                    f"{file}: {name} must name what it changes, such as {_leaf(name, value)}, since a section replaces "
                    f"the whole one, got one without {', '.join(lost)}"
                )


def _check_id(prefix: str, name: str, content: ConfigParser, known: Collection[str], files: Sequence[str]) -> None:
    """Refuse an id that is not there, with the one that was meant."""
    section, key = ReferenceResolver.split_id(name, last=True)
    keys = content.get(section) if section else known
    is_open = section and (not isinstance(keys, dict) or "_target_" in keys)
    if is_open or key in keys:
        return
    dashes = prefix if prefix == "--" else ""
    similar = difflib.get_close_matches(key, keys, 1)
    meant = f"{section}{ID_SEP_KEY}{similar[0]}" if section and similar else "".join(similar)
    hint = f"did you mean {dashes}{meant}?" if meant else f"what may be changed stands at the top of {files[0]}"
    raise InputError(f"{prefix}{name} must be an option of {' + '.join(files)}; {hint}")


def _is_program(value: Any) -> bool:
    """Tell whether a value is what a run id holds: another one's program, or a list of expressions."""
    return value == "%run" or (isinstance(value, list) and all(map(ConfigExpression.is_expression, value)))


def _leaf(name: str, value: Any) -> str:
    """Return how the first number in a section is overridden alone."""
    while isinstance(value, Mapping) and value and "_target_" not in value:
        key, value = next(iter(value.items()))
        name = f"{name}{ID_SEP_KEY}{key}"
    return f"{name}: {value}"


def _read_arguments(command: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a command as MONAI gets them, those of an `args_file` included."""
    import fire  # not needed where there is no command line

    arguments: dict[str, Any] = {}

    @wraps(run)
    def read(*args: Any, **options: Any) -> None:
        named = signature(run).bind(*args, **options).arguments
        override = named.pop("override", {})
        arguments.update(update_kwargs(named.pop("args_file", None), **named, **override))

    fire.Fire({"run": read}, fire.parser.SeparateFlagArgs(list(command))[0])
    return arguments


def _tracking_ids(tracking: str | dict | None) -> Collection[str]:
    """Return the ids that the tracking of experiments adds to a config."""
    if tracking is None:
        return []
    if isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS:
        return DEFAULT_EXP_MGMT_SETTINGS[tracking]["configs"]
    return ConfigParser.load_config_files(tracking)["configs"]
