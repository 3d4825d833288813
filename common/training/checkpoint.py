"""Checkpoints of a training that survive interruptions, and handlers that save weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn

from common.cli import CONFIG, InputError, check_flags
from common.data import Record, is_main_process, write_atomically

__all__ = [
    "Conditions",
    "ResumableCheckpoint",
    "SaveBest",
    "SaveLast",
    "SaveSnapshots",
    "Stateful",
    "finish_training",
    "finished_epoch",
    "forget_training",
    "register_state",
    "registered_states",
]

logger = logging.getLogger(__name__)

_UNSET = repr(None)  # of an option that an older version did not have
_EXCERPT = 60  # characters
_FINISHED = ".json"  # suffix of the file that says that a training has ended


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def register_state(engine: Engine, name: str, item: Stateful) -> None:
    """Have the engine's checkpoint hold the state of a handler."""
    registered_states(engine)[name] = item


def registered_states(engine: Engine) -> dict[str, Stateful]:
    """Return what was registered, by name."""
    return engine.__dict__.setdefault("_registered_states", {})


class Conditions:
    """Conditions of a training, on which its weights depend, and which are compared when it is started again.

    Args:
        settings: options by name, and under `CONFIG` the rest of the config, see `check_options`.
        data: lists of cases, by name.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None) -> None:
        values = {**(data or {}), **(settings or {})}
        self.config = {id: repr(value) for id, value in values.pop(CONFIG, {}).items()}
        self.settings = {name: repr(value) for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, CONFIG: self.config}

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """Return what differs from a stored `state_dict`; one of an earlier version has no config."""
        pairs = [(stored["settings"], self.settings), (stored.get(CONFIG, self.config), self.config)]
        return [
            f"{name} {' instead of '.join(_excerpts(then.get(name, _UNSET), now.get(name, _UNSET)))}"
            for then, now in pairs
            for name in {**now, **then}
            if then.get(name, _UNSET) != now.get(name, _UNSET)
        ]


def _excerpts(*texts: str) -> list[str]:
    """Return of each text the part in which they begin to differ."""
    pairs = enumerate(zip(*texts, strict=False))
    start = next((index for index, letters in pairs if len({*letters}) > 1), min(map(len, texts)))
    start = start - _EXCERPT // 3 if start > _EXCERPT // 2 else 0
    return [f"{'...' if start else ''}{text[start : start + _EXCERPT]}" for text in texts]


class ResumableCheckpoint:
    """Write the state of a training after every epoch, and go on from there when it is started again.

    The file is removed when the training ends; a small one, of the same name with the suffix `.json`, then says so. It
    holds the network, the optimizer, what else is named, the states of the other handlers and the best metric so far.

    Args:
        path: file of the checkpoint.
        objects: things with `state_dict` and `load_state_dict`, by name.
        validator: evaluator whose best metric is kept.
        loader: of the training, whose epoch is set.
        settings: options that must be the same when the training goes on, such as the learning rate.
        data: cases that must be the same, too, by the name of their list.
        resume: go on from a checkpoint if there is one; otherwise start anew.

    Raises:
        ValueError: when the checkpoint is damaged, of other settings or of another network.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Stateful],
        validator: Engine | None = None,
        loader: Any = None,
        settings: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        resume: bool = True,
    ) -> None:
        check_flags(resume=resume)
        self.path = Path(path)
        self.objects = dict(objects)
        self.validator = validator
        self.loader = loader
        self.conditions = Conditions(settings, data)
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def _load(self, engine: Engine) -> None:
        if not self.resume or not self.path.is_file():
            if is_main_process():
                forget_training(self.path)
            return
        advice = f"delete {self.path} or pass --resume False to start anew"
        try:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            others, epoch = self.conditions.differences(checkpoint), checkpoint["epoch"]
        except Exception as error:  # a damaged file can raise anything
            raise InputError(f"{self.path}: checkpoint must be a whole file, got {error!r:.80}; {advice}") from None
        if others:
            raise InputError(f"{self.path}: checkpoint must be of the same settings, got {', '.join(others)}; {advice}")
        states = {**self.objects, **registered_states(engine)}
        for name, item in states.items():
            try:
                item.load_state_dict(checkpoint["states"][name])
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"{self.path}: checkpoint must fit the {name}, got {error!r:.200}; {advice}") from None
        if self.validator is not None:
            self.validator.state.best_metric, self.validator.state.best_metric_epoch = checkpoint["best"]
        if self.loader is not None:
            self.loader.set_epoch(epoch)
        engine.state.epoch = epoch
        engine.state.iteration = epoch * engine.state.epoch_length
        logger.info("resumed from %s after epoch %d", self.path, epoch)

    def _save(self, engine: Engine) -> None:
        states = {**self.objects, **registered_states(engine)}
        checkpoint = {
            "epoch": engine.state.epoch,
            **self.conditions.state_dict(),
            "states": {name: item.state_dict() for name, item in states.items()},
        }
        if self.validator is not None:
            checkpoint["best"] = (self.validator.state.best_metric, self.validator.state.best_metric_epoch)
        write_atomically(self.path, lambda path: torch.save(checkpoint, path))

    def _finish(self, engine: Engine) -> None:
        finish_training(self.path, self.conditions, engine.state.epoch)


def finish_training(checkpoint: Path, conditions: Conditions, epoch: int) -> None:
    """Write beside a checkpoint that its training has ended, and remove it."""
    text = json.dumps({"epoch": epoch, **conditions.state_dict()}, indent=1)
    write_atomically(checkpoint.with_suffix(_FINISHED), lambda path: path.write_text(text, encoding="utf-8"))
    checkpoint.unlink(missing_ok=True)


def forget_training(checkpoint: Path) -> None:
    """Remove what an earlier training has left beside its weights, where another one starts anew."""
    checkpoint.unlink(missing_ok=True)
    checkpoint.with_suffix(_FINISHED).unlink(missing_ok=True)


def finished_epoch(checkpoint: Path, conditions: Conditions, growing: str = "") -> int | None:
    """Return the last epoch of a training that has ended under the same conditions; None where none has.

    Args:
        checkpoint: file that the training would go on from.
        conditions: of the training that is started.
        growing: name of a list of cases that may have changed, with which the training then goes on.

    Raises:
        ValueError: when the training that has ended was another one, whose weights would be overwritten.
    """
    finished = checkpoint.with_suffix(_FINISHED)
    if checkpoint.is_file() or not finished.is_file() or not any(checkpoint.parent.glob("*.pt")):
        return None
    advice = "pass another folder, or --resume False to train anew"
    try:
        stored = json.loads(finished.read_text(encoding="utf-8"))
        others, epoch = conditions.differences(stored), int(stored["epoch"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{finished}: must tell of a finished training, got {error!r:.80}; {advice}") from None
    if growing and others and all(other.startswith(f"{growing} ") for other in others):
        return None
    if others:
        raise InputError(
            f"{checkpoint.parent}: must hold no training that has ended with other settings, got {', '.join(others)}; "
            f"{advice}"
        )
    return epoch


class SaveLast:
    """Write the weights when an engine has ended.

    Args:
        path: file of the weights.
        network: its weights are written without the prefix of a parallel wrapper.
        records: what belongs to the weights, written with them, so that older weights keep theirs until then.

    Raises:
        ValueError: when a weight is not finite; an older file is left as it was.
    """

    def __init__(self, path: str | Path, network: nn.Module, records: Sequence[Record] = ()) -> None:
        self.path = Path(path)
        self.network = network
        self.records = list(records)

    def attach(self, engine: Engine) -> None:
        if is_main_process():
            engine.add_event_handler(Events.COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        weights = getattr(self.network, "module", self.network).state_dict()
        broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
        if broken:
            raise InputError(
                f"weights must be finite to be saved, got NaN or Inf in {broken}; {self.path} was left as it was"
            )
        write_atomically(self.path, lambda path: torch.save(weights, path))
        for record in self.records:
            record.save_beside(self.path)
        logger.info("wrote %s", self.path)


class SaveBest(SaveLast):
    """Write the weights whenever an evaluator's key metric is the best so far."""

    def _save(self, engine: Engine) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch:
            logger.info("%s %.4f, the best so far", engine.state.key_metric_name, float(engine.state.best_metric))
            super()._save(engine)


class SaveSnapshots(SaveLast):
    """Write the weights every few epochs, each time to a file of its own.

    Args:
        path: file of the weights; those of epoch 20 go to `weights_0020.pt` beside a `weights.pt`.
        network: see `SaveLast`.
        interval: epochs between two files; `None`: nothing is written.
        records: see `SaveLast`.
    """

    def __init__(
        self, path: str | Path, network: nn.Module, interval: int | None = None, records: Sequence[Record] = ()
    ) -> None:
        super().__init__(path, network, records)
        self.stem = self.path.stem
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        if self.interval is not None and is_main_process():
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._save)

    def _save(self, engine: Engine) -> None:
        self.path = self.path.with_stem(f"{self.stem}_{engine.state.epoch:04d}")
        super()._save(engine)
