"""Configs of a bundle as JSON files that need no package but `scripts`, which lies beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.cli import InputError, offer_option
from tools.export.library import PACKAGE, PATH_MODULE, SOURCE, rename
from tools.options import option_table

__all__ = ["FOLDER", "components", "read_configs", "relocate", "show_options", "to_json"]

# folder of the bundle, of which MONAI tells a config nothing: that of the file of the workflow that is being run, or
# where MONAI reads the config without a workflow, and does not name it, the working directory
FOLDER = (
    "$next((str(frame.f_locals['self'].config_root_path.parent) for frame, _ in traceback.walk_stack(sys._getframe())"
    " if isinstance(frame.f_locals.get('self'), monai.bundle.ConfigWorkflow)), '.')"
)

_WORKFLOWS = ("pretrain", "train", "inference")  # each is complete on its own; the other files are overrides
_FOLDER_ID, _PATH_ID = "_folder", "_scripts"


def read_configs(bundle: Path, override_files: Sequence[Path] = ()) -> dict[str, dict[str, Any]]:
    """Return the content of every config of a bundle by its name without suffix.

    Args:
        bundle: folder of the bundle.
        override_files: merged into each workflow in turn; what a workflow has no use for is left out of it.
    """
    merged = {path.resolve() for path in override_files}
    paths = [path for path in sorted((bundle / "configs").glob("*.yaml")) if path.resolve() not in merged]
    return {
        path.stem: _merge(path, override_files) if path.stem in _WORKFLOWS else ConfigParser.load_config_file(path)
        for path in paths
    }


def show_options(inference: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an inference whose options MONAI Label shows to its clients, as `displayable_configs`."""
    table = option_table(inference)
    shown = {name: option for name, option in table.items() if option.is_shown and name in inference}
    offered = {name: offer_option(option, inference[name]) for name, option in shown.items()}
    read = {name: {"_target_": "common.cli.read_option", "value": f"@displayable_configs::{name}"} for name in offered}
    return {**inference, **read, "displayable_configs": offered}


def relocate(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return configs whose components are those of `scripts`.

    Those that are whole find the folder of the bundle, and in it `scripts`, wherever they are read from.
    """
    folder = "str(@bundle_root).replace('::', chr(35))"  # before any check of ours, MONAI has read '#' as '::'
    path = {
        "imports": ["$import runpy", "$import sys", "$import traceback"],
        _FOLDER_ID: FOLDER,
        _PATH_ID: f"$runpy.run_path({folder} + '/{PACKAGE}/{PATH_MODULE}')",
    }
    root = {"bundle_root": f"@{_FOLDER_ID}"}
    return {
        name: {**path, **_relocate(content), **root} if "bundle_root" in content else _relocate(content)
        for name, content in configs.items()
    }


def components(content: Any) -> Iterator[str]:
    """Yield the names of the components of the library that a config asks for."""
    for mapping in _mappings(content):
        target = str(mapping.get("_target_", ""))
        if target.startswith(f"{SOURCE}."):
            yield target


def to_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _merge(path: Path, override_files: Sequence[Path]) -> dict[str, Any]:
    base = ConfigParser.load_config_file(path)
    try:
        merged = ConfigParser.load_config_files([str(path), *map(str, override_files)])
    except (KeyError, TypeError, ValueError):
        names = ", ".join(override.name for override in override_files)
        raise InputError(
            f"override_files must fit every workflow, got {names}, which do not fit {path.name}; "
            "leave out those of one workflow alone"
        ) from None
    references = set(re.findall(r"[@%](\w+)", json.dumps(merged)))
    return {id: value for id, value in merged.items() if id in base or id in references}


def _relocate(content: Any) -> Any:
    if isinstance(content, Mapping):
        target = str(content.get("_target_", ""))
        if target.startswith(f"{SOURCE}."):
            rest = {key: value for key, value in content.items() if key != "_target_"}
            return {"_target_": rename(target), "_requires_": [f"@{_PATH_ID}"], **_relocate(rest)}
        return {key: _relocate(value) for key, value in content.items()}
    return [_relocate(item) for item in content] if isinstance(content, list) else content


def _mappings(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, Mapping):
        yield content
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _mappings(item)
