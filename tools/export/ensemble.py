"""Several trained networks as one: an ensemble, with the weights and the record of all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from common.cli import InputError
from common.data import Record, join_ranges, load_record
from common.data.record import is_same, join_learned
from common.training import load_weights
from tools.export.weights import load_trained, read_classes
from tools.verify.config_ids import reachable

__all__ = ["ensemble_configs", "write_members"]

_ENSEMBLES: Mapping[str, Mapping[str, Any]] = {  # by the network, with what its inferer makes of the logits
    "common.fnet.FNet": {"_target_": "common.fnet.FNetEnsemble"},
    "common.context.ContextUNet": {"_target_": "common.training.Ensemble", "sigmoid": True},
    "common.layers.LayerUNet": {"_target_": "common.training.Ensemble"},
}
_NUMBERS = ("spacing", "clip", "air", "normalization", "organ")  # of a record, each named as its option
_SEGMENTING = ("network_def", "preprocessing", "inferer")  # ids on which a segmentation depends


def ensemble_configs(configs: Mapping[str, dict[str, Any]], num_members: int) -> dict[str, dict[str, Any]]:
    """Return the configs of a bundle whose network is an ensemble: its inference, and its evaluation as a whole.

    An ensemble is not trained: each of its members was.

    Args:
        configs: content of all configs of the bundle by name.
        num_members: of the ensemble.
    """
    network = configs["inference"]["network_def"]
    if network["_target_"] not in _ENSEMBLES:
        raise InputError(
            f"members must be networks that give the probability of each class, got {network['_target_']}; "
            "train one atlas on the scans of all folds"
        )
    network_def = {**_ENSEMBLES[network["_target_"]], "network": network, "num_members": num_members}
    evaluation = ConfigParser({name: value for name, value in configs["train"].items() if name != "training"})
    for name, value in configs["evaluate"].items():
        merge_kv(evaluation, name, value)
    joined = {"inference": configs["inference"], "evaluate": evaluation.get()}
    return {name: {**content, "network_def": network_def} for name, content in joined.items()}


def write_members(members: Mapping[str, Path], inference: Mapping[str, Any], folder: Path) -> None:
    """Write `model.pt` and `record.json` of an ensemble.

    Args:
        members: folders of the trained networks, by the names that errors give them.
        inference: content of the config of one of them.
        folder: to write into.

    Raises:
        FileNotFoundError: when a folder holds no trained network.
        ValueError: when the weights or the record of one do not fit those of the first.
    """
    records, weights = {}, {}
    for index, (name, source) in enumerate(members.items()):
        labels, modality = read_classes(source)
        load_trained({**inference, "labels": labels, "modality": modality}, source)
        records[name] = load_record(source / "model.pt")
        for key, value in load_weights(source / "model.pt").items():
            weights[f"members.{index}.{key}"] = value
    record = _join_records(records, inference)
    torch.save(weights, folder / "model.pt")
    record.save_beside(folder / "model.pt")


def _join_records(records: Mapping[str, Record], inference: Mapping[str, Any]) -> Record:
    """Return the record of all members, which must agree in all on which a segmentation depends."""
    (first_name, first), *others = records.items()
    needed = reachable(inference, *_SEGMENTING)
    for name, record in others:
        for field in ("labels", "modality", *_NUMBERS):
            _check_same(name, first_name, field, getattr(record, field), getattr(first, field))
        for option in sorted(needed & first.settings.keys() & record.settings.keys()):
            _check_same(name, first_name, option, record.settings[option], first.settings[option])
    sizes = np.array([record.voxel_sizes for record in records.values() if record.voxel_sizes])
    return dataclasses.replace(
        first,
        voxel_sizes=[sizes[:, 0].min(axis=0).tolist(), sizes[:, 1].max(axis=0).tolist()] if len(sizes) else None,
        volumes_ml=join_ranges(record.volumes_ml for record in records.values()),
        learned_from=join_learned(*(record.learned_from for record in records.values())),
        settings={
            name: value
            for name, value in first.settings.items()
            if all(is_same(record.settings.get(name), value) for record in records.values())
        },
    )


def _check_same(name: str, first_name: str, field: str, value: Any, expected: Any) -> None:
    if not is_same(value, expected):
        remedy = "train all members on one data set"
        if field not in ("labels", "modality"):
            given = "'$None'" if expected is None else f"'{json.dumps(expected)}'"
            remedy = f"train it again with --{field} {given}"
        raise InputError(f"{name}: {field} must be that of {first_name}, {expected}, got {value}; {remedy}")
