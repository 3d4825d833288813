"""Command line of a run, and files of overrides: what MONAI would leave out or add in silence is refused."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from monai.bundle import (
    ConfigComponent,
    ConfigExpression,
    ConfigParser,
    ConfigWorkflow,
    ReferenceResolver,
    run,
    update_kwargs,
)
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY, MERGE_KEY, merge_kv
from monai.utils import ensure_tuple, optional_import

from .errors import InputError, explain_errors, keep_going
from .options import check_values_are_given

__all__ = ["check_command_line", "config_files", "read_command_line", "read_texts", "written_command"]

_MONAI_BUNDLE = ("monai", "bundle", "__main__.py")
_ARGUMENTS = {*signature(run).parameters, *signature(ConfigWorkflow).parameters} - {"override"}
_START = "initialize"  # of a complete file; files of overrides have none


# ---- what was written ----------------------------------------------------------------------------


def read_command_line(texts: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the arguments of `python -m monai.bundle run` as MONAI gets them, those of an `args_file` included.

    Args:
        texts: names of arguments that are kept as they were written, whatever they look like.

    Returns:
        Arguments by name; None in a process that another command started.

    Raises:
        ValueError: when MONAI would leave out what was written, or read another thing.
    """
    if written_command() is None:
        return None
    import fire  # not needed where there is no command line

    command = fire.parser.SeparateFlagArgs(sys.argv[1:])[0]
    check_values_are_given(command, texts)
    arguments: dict[str, Any] = {}

    @wraps(run)
    def read(*args: Any, **options: Any) -> None:
        named = signature(run).bind(*args, **options).arguments
        override = named.pop("override", {})
        file = named.pop("args_file", None)
        default = {} if file is None else {**ConfigParser.load_config_file(file), **read_texts(file, texts)}
        for id in [*default, *override]:
            if id.startswith(MERGE_KEY):
                raise InputError(f"{id} must stand in a config file, got it where + adds to nothing; leave out the +")
        for id, value in override.items():
            if value is None:
                raise InputError(f"{id} must be a value, got None, which MONAI leaves out; write '$None' for null")
        arguments.update(update_kwargs(default, **named, **override))

    fire.decorators.SetParseFns(**dict.fromkeys(texts, str))(read)
    fire.Fire({"run": read}, command)
    return arguments


def read_texts(file: str | Path, names: Collection[str]) -> dict[str, Any]:
    """Return values of a config file as they are written there: text for numbers and dates, None for null."""
    content = ConfigParser.load_config_file(file)
    text = Path(file).read_text(encoding="utf-8")
    if Path(file).suffix.lower() == ".json":
        written = json.loads(text, parse_int=str, parse_float=str)
    else:
        yaml, _ = optional_import("yaml")  # an exported bundle, whose configs are JSON, does without
        written = yaml.load(text, yaml.BaseLoader)
    found = {name: (content[name], written.get(name)) for name in names if name in content}
    return {
        name: text if value is not None and isinstance(text, str) else value for name, (value, text) in found.items()
    }


def config_files(arguments: Mapping[str, Any]) -> list[str]:
    """Return the config files of a run."""
    files = arguments["config_file"]
    if isinstance(files, str) and not Path(files).is_file():
        files = files.split(",")
    return [str(path) for path in ensure_tuple(files)]


def written_command() -> str | None:
    """Return the `python -m monai.bundle run` of this process as it was written; None if another command started it."""
    if Path(sys.argv[0]).parts[-3:] != _MONAI_BUNDLE or sys.argv[1:2] != ["run"]:
        return None
    return shlex.join(["python", "-m", "monai.bundle", *sys.argv[1:]])


# ---- what is refused -----------------------------------------------------------------------------


def check_command_line(arguments: Mapping[str, Any]) -> None:
    """Refuse options of a command line, and ids of files of overrides, that no config of the run has.

    MONAI adds an unknown id in silence: a misspelled option would change nothing. Likewise, a mapping replaces the
    whole section that has its name. A file beside the complete one may also name what the other workflows there have.
    Arguments of a component are left to the component.

    Args:
        arguments: of the command line, see `read_command_line`.
    """
    files = config_files(arguments)
    contents = [ConfigParser.load_config_file(file) for file in files]
    complete = [file for file, content in zip(files, contents, strict=True) if _START in content]
    if complete and complete[0] != files[0]:
        raise InputError(f"config_file must begin with a complete file, got {files[0]}; write {complete[0]} first")
    base = ConfigParser({})
    for index, (file, content) in enumerate(zip(files, contents, strict=True)):
        if index > 0:
            _Checker(f"{file}: ", base, content, files[:index], _siblings(file, files[0])).check(content)
        for id, value in content.items():
            merge_kv(base, id, deepcopy(value))
    for name in ("run_id", "init_id", "final_id"):
        if arguments.get(name) is not None and arguments[name] not in base:
            explain_errors()  # without its id, nothing was initialized
            programs = ", ".join(id for id, value in base.get().items() if id != _START and _is_program(value))
            raise InputError(
                f"{name} must be one of {programs}, got {arguments[name]!r}; a path with blanks wants quotes"
            )
    also = dict.fromkeys([*_tracking_ids(arguments.get("tracking")), *_ARGUMENTS])
    options = {id: value for id, value in arguments.items() if id not in _ARGUMENTS}
    _Checker("--", ConfigParser({**also, **base.get()}), {}, files).check(options)


class _Checker:
    """Check of overrides against what they override.

    Args:
        prefix: of the ids in errors: dashes, or the file.
        base: what is overridden.
        content: of the file of overrides, which may add what it uses itself.
        files: of the base.
        siblings: other configs that may have what the base lacks.
    """

    def __init__(
        self,
        prefix: str,
        base: ConfigParser,
        content: Mapping[str, Any],
        files: Sequence[str],
        siblings: Iterable[ConfigParser] = (),
    ) -> None:
        self.prefix = prefix
        self.base = base
        self.files = files
        self.siblings = siblings
        self.content = content
        text = json.dumps([base.get(), content], default=str)
        self.wanted = {id.rstrip(":") for id in re.findall(r"[@%]([\w:]+)", ReferenceResolver.normalize_id(text))}

    def check(self, overrides: Mapping[str, Any]) -> None:
        for id, value in overrides.items():
            is_merged = str(id).startswith(MERGE_KEY)
            with keep_going():
                self._check(ReferenceResolver.normalize_id(str(id).removeprefix(MERGE_KEY)), value, is_merged)

    def _check(self, name: str, value: Any, is_merged: bool) -> None:
        """Refuse what is misspelled, or would replace more than it names."""
        if name not in self.base and self.content and (self._is_wanted(name) or _is_program(value)):
            return
        self._check_id(name)
        section = self.base.get(name)
        if not isinstance(value, dict) or "_target_" in value or not isinstance(section, dict):
            return
        lost = [] if is_merged else [key for key in section if key not in value]
        if lost:
            raise InputError(
                f"{self.prefix}{name} must be a whole section, which it replaces, got one without {', '.join(lost)}; "
                f"name what changes, such as {_leaf(name, value)}"
            )
        for key, part in value.items():
            self._check(f"{name}{ID_SEP_KEY}{key}", part, is_merged=False)

    def _is_wanted(self, name: str) -> bool:
        return any(id == name or id.startswith(f"{name}{ID_SEP_KEY}") for id in self.wanted)

    def _check_id(self, name: str) -> None:
        """Refuse an id that is not there, with the one that was meant."""
        section, key = ReferenceResolver.split_id(name, last=True)
        keys = self.base.get(section) if section else self.base.get()
        is_open = section and (not isinstance(keys, dict) or "_target_" in keys or section in self.wanted)
        if is_open or key in keys:
            return
        if any(name in sibling for sibling in self.siblings):
            return
        dashes = self.prefix if self.prefix == "--" else ""
        similar = difflib.get_close_matches(key, keys, 1)
        meant = f"{section}{ID_SEP_KEY}{similar[0]}" if section and similar else "".join(similar)
        hint = (
            f"did you mean {dashes}{meant}?" if meant else f"what may be changed stands at the top of {self.files[0]}"
        )
        raise InputError(f"{self.prefix}{name} must be an option of {' + '.join(self.files)}; {hint}")


def _siblings(file: str, first: str) -> list[ConfigParser]:
    """Return the complete configs beside the first one where a file lies there, too: it may be for all of them."""
    folder = Path(file).resolve().parent
    if folder != Path(first).resolve().parent:
        return []
    paths = sorted(path for suffix in ConfigParser.suffixes for path in folder.glob(f"*.{suffix}"))
    contents = map(ConfigParser.load_config_file, paths)
    return [ConfigParser(content) for content in contents if _START in content]


def _is_program(value: Any) -> bool:
    """Tell whether a value is what a run id holds: another one's program, or a list of expressions and components."""
    return value == "%run" or (isinstance(value, list) and all(map(_is_evaluated, value)))


def _is_evaluated(value: Any) -> bool:
    return ConfigExpression.is_expression(value) or ConfigComponent.is_instantiable(value)


def _leaf(name: str, value: Any) -> str:
    """Return how the first number in a section is overridden alone."""
    while isinstance(value, Mapping) and value and "_target_" not in value:
        key, value = next(iter(value.items()))
        name = f"{name}{ID_SEP_KEY}{key}"
    return f"{name}: {value}"


def _tracking_ids(tracking: str | dict | None) -> Collection[str]:
    """Return the ids that the tracking of experiments adds to a config."""
    if tracking is None:
        return []
    if isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS:
        return DEFAULT_EXP_MGMT_SETTINGS[tracking]["configs"]
    return ConfigParser.load_config_files(tracking)["configs"]
