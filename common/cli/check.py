"""Check of all options of a run, before anything is done with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, MissingFileError, keep_going
from .options import ANY, PATH, SHARED_OPTIONS, Option

if TYPE_CHECKING:  # MONAI takes seconds to import, and the help of a command needs none of it
    from monai.bundle import ConfigParser

__all__ = ["CONFIG", "check_options", "running_config"]

CONFIG = "config"  # among the settings of a run, what its config says beside the options
_HANDLERS = "handlers"
_TRAINING, _INFERENCE = ("train", "validate"), ("evaluator",)  # of what a config says, the ids on which results depend
_SEGMENTING = ("preprocessing", "inferer", "postprocessing")  # parts of an evaluation


def check_options(table: Mapping[str, Option] = SHARED_OPTIONS) -> dict[str, Any]:
    """Refuse options before anything is done with them, where an error can still name them.

    A command line delivers what it cannot read as text, and whoever gets it much later knows neither the option nor
    what it must be. What the config that is being evaluated does not have is left out; an expression is evaluated
    after the plain values on which it may depend.

    Args:
        table: all options that a config may have.

    Returns:
        The settings of the run: the options, by name, on which its results depend, and under `CONFIG`, what its config
        says beside the options, by id. Of an evaluation, whose config has the options of a training, too, those options
        on which a segmentation depends.

    Raises:
        FileNotFoundError: when `bundle_root` is no folder of a bundle.
        TypeError: when an option is of another type.
        ValueError: when an option is unknown, out of range, or not that of the weights that are used.
    """
    from monai.bundle import ConfigExpression

    from .command_line import check_command_line, config_files, read_command_line
    from .former_names import update_names
    from .texts import restore_texts

    texts = [name for name, option in table.items() if option.kind.is_text]
    arguments = read_command_line(texts)
    if arguments is not None:
        check_command_line(arguments)
    config = running_config()
    restore_texts(config, arguments, texts, [name for name in texts if table[name].kind.fits(None)])
    content = config.get()
    if arguments is not None and arguments.get("tracking"):
        _check_tracking(config)
    if update_names(content):
        config.parse(reset=True)
    PATH.check("bundle_root", content["bundle_root"])
    _check_bundle_root(config.get_parsed_content("bundle_root"))
    names = [name for name in table if name in content]
    names.sort(key=lambda name: ConfigExpression.is_expression(content[name]))
    settings = {}
    for name in names:
        option = table[name]
        if option.kind is not ANY or option.is_setting:
            with keep_going():
                value = config.get_parsed_content(name)
                option.kind.check(name, value)
                if option.is_setting:
                    settings[name] = value
    with keep_going():
        trained = _trained_options(config)
        fixed = [name for name, option in table.items() if option.is_fixed and name in trained]
        _check_trained({name: settings[name] for name in fixed if name in settings}, trained)
        said: dict[str, Any] = {}  # of several files of overrides, the last one counts, and the command line most
        for file in config_files(arguments)[1:] if fixed and arguments is not None else ():
            said |= _plain_values(file, fixed)
        _check_trained({name: value for name, value in said.items() if name not in (arguments or ())}, trained)
    if "evaluation" in content:
        used = _segmenting_ids(content)
        return {name: value for name, value in settings.items() if name in used}
    roots = [name for name in (_TRAINING if "train" in content else _INFERENCE) if name in content]
    if roots:
        settings[CONFIG] = dict(_result_ids(content, table, roots))
    return settings


def _trained_options(config: ConfigParser) -> Mapping[str, Any]:
    """Return the options with which the weights were trained that an inference or an evaluation uses."""
    record = config.get().get("record")
    if not isinstance(record, Mapping) or not str(record["_target_"]).endswith(".load_record"):
        return {}
    return config.get_parsed_content("record").settings


def _segmenting_ids(content: Mapping[str, Any]) -> set[str]:
    """Return the ids on which a segmentation of an evaluation depends."""
    found: set[str] = set()
    waiting = [content.get("network_def"), *(content["validate"].get(part) for part in _SEGMENTING)]
    while waiting:
        names = {*re.findall(r"[@%](\w+)", str(waiting.pop()))} & content.keys() - {"train", "validate"} - found
        found |= names
        waiting += [content[name] for name in names]
    return found


def _result_ids(
    content: Mapping[str, Any], options: Collection[str], roots: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    """Yield what a run is made of beside its options: each value in a config that its roots use, with its id.

    Handlers write and stop, and are left out, as is what only they use.
    """
    found: set[str] = set()
    waiting = [*roots]
    while waiting:
        name = waiting.pop()
        if name in content and name not in found and name not in options:
            found.add(name)
            values = dict(_values(content[name], name))
            waiting += re.findall(r"[@%](\w+)", " ".join(map(str, values.values())))
            yield from values.items()


def _values(part: Any, id: str) -> Iterator[tuple[str, Any]]:
    entries = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else None
    if entries is None:
        yield id, part
    for key, value in entries or ():
        if not str(key).endswith(_HANDLERS):
            yield from _values(value, f"{id}::{key}")


def _check_trained(values: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Refuse options, by name, that are not those of the training of the weights."""
    for name, value in values.items():
        if value != trained[name]:
            raise InputError(
                f"{name} must be that of the training of the weights, {trained[name]}, got {value}; leave the option "
                "out, or name the folder of other weights"
            )


def _plain_values(file: str, names: Collection[str]) -> dict[str, Any]:
    """Return what a file of overrides says of some options, be it that the file behind it takes the record's values."""
    from monai.bundle import ConfigExpression, ConfigParser

    content = ConfigParser.load_config_file(file)
    return {
        name: content[name] for name in names if name in content and not ConfigExpression.is_expression(content[name])
    }


def running_config() -> ConfigParser:
    """Return the config of which a component is being made; MONAI does not tell a component what it is part of."""
    from monai.bundle import ConfigParser

    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), ConfigParser):
            return found
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError("options must be checked by a config, got a call from elsewhere")


def _check_tracking(config: ConfigParser) -> None:
    """Refuse a folder that is no part of the address of a database, which MONAI makes of it."""
    output_dir = config.get_parsed_content("output_dir")
    if any(sign in str(output_dir) for sign in "#?%"):
        raise InputError(
            f"output_dir must have none of # ? % with --tracking, got {output_dir!r}; choose another folder for it"
        )


def _check_bundle_root(bundle_root: str | Path) -> None:
    """Refuse a folder that is no bundle, before weights are written into it."""
    if not (Path(bundle_root) / "configs" / "metadata.json").is_file():
        raise MissingFileError(
            f"{Path(bundle_root).resolve()}: bundle_root must be the bundle's folder, with configs/metadata.json; "
            "change into that folder or pass --bundle_root"
        )
