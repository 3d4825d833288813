"""Options of a command line that no config has."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver, run, update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY
from monai.utils import ensure_tuple

__all__ = ["check_bundle_root", "check_command_line"]

_MONAI_BUNDLE = ("monai", "bundle", "__main__.py")

_ARGUMENTS = {*signature(run).parameters, *signature(ConfigWorkflow).parameters} - {"override"}


def check_command_line() -> None:
    """Refuse options of `python -m monai.bundle run` that no config of the run has.

    MONAI adds an unknown id in silence: a misspelled option would change nothing. Arguments of a component are left to
    the component. Nothing is checked in a process that was started by another command.

    Raises:
        ValueError: when an option is unknown.
    """
    if Path(sys.argv[0]).parts[-3:] != _MONAI_BUNDLE or sys.argv[1:2] != ["run"]:
        return
    arguments = _read_arguments(sys.argv[1:])
    content = ConfigParser.load_config_files(arguments["config_file"])
    known = {*content, *_ARGUMENTS, *_tracking_ids(arguments.get("tracking"))}
    parser = ConfigParser(content)
    for name in map(ReferenceResolver.normalize_id, arguments):
        section, key = ReferenceResolver.split_id(name, last=True)
        keys = parser.get(section) if section else known
        is_open = section and (not isinstance(keys, dict) or "_target_" in keys)
        if is_open or key in keys:
            continue
        files = [str(path) for path in ensure_tuple(arguments["config_file"])]
        similar = difflib.get_close_matches(key, keys, 1)
        meant = f"{section}{ID_SEP_KEY}{similar[0]}" if section and similar else "".join(similar)
        hint = f"did you mean --{meant}?" if meant else f"what may be changed stands at the top of {files[0]}"
        raise ValueError(f"--{name} must be an option of {' + '.join(files)}; {hint}")


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


def check_bundle_root(bundle_root: str | Path) -> None:
    """Refuse a folder that is no bundle, before weights are written into it.

    Raises:
        FileNotFoundError: when the folder has no `configs/metadata.json`.
    """
    if not (Path(bundle_root) / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"{Path(bundle_root).resolve()}: bundle_root must be the bundle's folder, with configs/metadata.json; "
            "change into that folder or pass --bundle_root"
        )
