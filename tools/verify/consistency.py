"""Consistency of training, evaluation and inference in what each of them states, since MONAI Label reads one file.

The ids by which commands drive a workflow are the same in all bundles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai.bundle import ConfigParser

from common.data import Record
from tools.verify.bundle import Bundle
from tools.verify.config_ids import follow, reachable
from tools.verify.overrides import bases_of

__all__ = ["check_consistency", "check_names"]

_ROOTS = ("network_def", "preprocessing", "inferer", "postprocessing")
_MAY_DIFFER = {"keys", "allow_missing_keys", "series"}  # which scan, and not what is done to it
_DATA = {"bundle_root", "dataset_dir"}  # what follows from them is known only when there are data or weights
_OF_RECORD = "$@record.option("  # how an option begins that has the value of the training, or a default
_NAMES = {  # of what a command may want to set, and what it runs
    "pretrain": ["ckpt_dir", "resume", "seed", "fold", "num_folds", "max_epochs", "pretraining"],
    "train": [
        *("ckpt_dir", "resume", "seed", "fold", "num_folds", "num_labeled", "num_validation", "val_interval"),
        "training",
    ],
    "evaluate": ["split", "evaluation_dir", "num_pictures", "evaluation"],
    "inference": ["ckpt_dir", "output_dir", "inference"],
}


def check_consistency(bundle: Bundle) -> Iterator[str]:
    """Find what validation or evaluation does otherwise than inference: network, options and preprocessing."""
    train, evaluate, inference = (bundle.find(stem) for stem in ("train", "evaluate", "inference"))
    if train is None or inference is None:
        return
    chains: list[tuple[str, ...]] = [(train,)]
    if evaluate is not None and evaluate in bundle.overrides and (train,) in bases_of(bundle, evaluate):
        chains.append((train, evaluate))
    found: set[str] = set()  # an evaluation repeats what is wrong with its training
    for files in chains:
        for text in _differences(bundle.merge(*files), bundle.merge(inference)):
            if text not in found:
                found.add(text)
                yield f"configs/{files[-1]}: {text}"


def _differences(train: dict[str, Any], inference: dict[str, Any]) -> Iterator[str]:
    networks = [follow(content, "network_def") for content in (train, inference)]
    if all(isinstance(network, dict) for network in networks):
        for argument in networks[0].keys() & networks[1].keys():
            ours, theirs = (network[argument] for network in networks)
            if ours != theirs:
                yield f"network_def::{argument} must be that of inference, {theirs!r}, got {ours!r}"
    roots = [id for id in _ROOTS if id != "network_def"]
    in_train = reachable(train, "network_def", *(f"validate::{id}" for id in roots))
    in_inference = reachable(inference, *_ROOTS)
    for id in sorted(in_train & in_inference - {*_ROOTS}):
        ours, theirs = _defaults((train, inference), id)
        is_option = str(follow(inference, id)).startswith(_OF_RECORD)
        follows = not is_option and any(_DATA & reachable(content, id) for content in (train, inference))
        if ours != theirs and not follows:
            yield f"{id} must be that of inference, {theirs!r}, got {ours!r}"
    yield from _differences_of_transforms(train, inference)


def _defaults(contents: Sequence[dict[str, Any]], id: str) -> list[Any]:
    """Return what an id stands for in some configs; of an option that comes from the record of weights, its default."""
    values = [follow(content, id) for content in contents]
    if not any(str(value).startswith(_OF_RECORD) for value in values):
        return values
    parsers = [
        ConfigParser({"record": Record(), "value": value}) if isinstance(value, str) else None for value in values
    ]
    return [
        value if parser is None else parser.get_parsed_content("value")
        for value, parser in zip(values, parsers, strict=True)
    ]


def _differences_of_transforms(train: dict[str, Any], inference: dict[str, Any]) -> Iterator[str]:
    """Compare what happens to each key that inference has: the label is loaded and prepared only where it is known."""
    ours, theirs = (_transforms(*place) for place in ((train, "validate::preprocessing"), (inference, "preprocessing")))
    if ours is None or theirs is None:
        return
    for key in sorted({key for transform in theirs for key in _keys(transform) or ()}):
        here = [transform for transform in ours if key in (_keys(transform) or [key])]
        there = [transform for transform in theirs if key in (_keys(transform) or [key])]
        names = [[_name(transform) for transform in transforms] for transforms in (here, there)]
        if names[0] != names[1]:
            yield f"validate::preprocessing must do to {key} what inference does, {names[1]}, got {names[0]}"
            continue
        for first, second in zip(here, there, strict=True):
            for argument in sorted({*first, *second} - _MAY_DIFFER):
                if not argument.startswith("label") and not _is_same(first, second, argument, key):
                    yield (
                        f"validate::preprocessing must give {_name(first)} of {key} the {argument} of inference, "
                        f"{second.get(argument)!r}, got {first.get(argument)!r}"
                    )


def _transforms(content: dict[str, Any], id: str) -> list[dict[str, Any]] | None:
    """Return the transforms of a list that can be read without running it, and of the lists in it."""
    transforms = follow(content, f"{id}::transforms")
    if not isinstance(transforms, list):
        return None
    read: list[dict[str, Any]] = []
    for place in range(len(transforms)):
        inner = f"{id}::transforms::{place}"
        transform = follow(content, inner)
        if not isinstance(transform, dict):
            return None
        several = _transforms(content, inner) if _name(transform) == "Compose" else [transform]
        if several is None:
            return None
        read.extend(several)
    return read


def _name(transform: dict[str, Any]) -> str:
    return str(transform.get("_target_"))


def _keys(transform: dict[str, Any]) -> list[str]:
    keys = transform.get("keys", [])
    return keys if isinstance(keys, list) else [keys]


def _is_same(first: dict[str, Any], second: dict[str, Any], argument: str, key: str) -> bool:
    """Tell whether an argument is the same for a key, given once for all keys or in a list with an entry for each."""
    choices = []
    for transform in (first, second):
        value, keys = transform.get(argument), _keys(transform)
        choices.append([value])
        if isinstance(value, list) and key in keys and len(value) == len(keys):
            choices[-1].append(value[keys.index(key)])
    return any(ours == theirs for ours in choices[0] for theirs in choices[1])


def check_names(bundles: Sequence[Bundle]) -> Iterator[tuple[Bundle, str]]:
    """Find workflows without an id that the same workflow of another bundle has."""
    for stem, names in _NAMES.items():
        files = {bundle: file for bundle in bundles if (file := bundle.find(stem)) is not None}
        for name in names:
            having = [bundle for bundle, file in files.items() if name in bundle.configs[file]]
            for bundle, file in files.items() if having else ():
                if bundle not in having:
                    yield bundle, f"configs/{file}: must have the id {name}, as {having[0].name} has, got none"
