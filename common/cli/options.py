"""Options of a run: what each of them is called, must be and means, in one table.

The table that all bundles share is here, and what a method adds in `options.py` of its folder. From the table come the
checks before a run, the help and the cards (`python -m tools.options`), and what MONAI Label shows.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError, KindError

__all__ = [
    "RANDOM",
    "SHARED_OPTIONS",
    "Kind",
    "Option",
    "check_choice",
    "check_each",
    "check_flags",
    "check_values_are_given",
    "check_whole_numbers",
    "has_weights",
    "is_scratch",
]

RANDOM = "random"  # in place of a file of weights: keep the initial ones, yet freeze and slow them down like pretrained


class Kind(NamedTuple):
    """Kind of a value.

    Attributes:
        wanted: what a value must be, in words.
        fits: the same as a test.
        remedy: what to do where it is not, if the words do not tell.
        is_text: a value is text, whatever it looks like.
        choices: the values that there are, where they are few.
    """

    wanted: str
    fits: Callable[[Any], bool]
    remedy: str = ""
    is_text: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def or_null(self) -> Kind:
        """This, or None."""
        wanted = f"{self.wanted}, or null ('$None' on a command line)"
        return self._replace(wanted=wanted, fits=lambda value: value is None or self.fits(value))

    @property
    def list(self) -> Kind:
        """A list of any number of these."""
        return self._list("a list", lambda value: True)

    def times(self, count: int) -> Kind:
        """A list of so many of these."""
        return self._list(f"a list of {count}", lambda value: len(value) == count)

    @property
    def range(self) -> Kind:
        """A list of the smallest and the largest of these."""
        return self._list("a list of 2 that do not decrease", lambda value: len(value) == 2 and value[0] <= value[1])

    def _list(self, wanted: str, fits: Callable[[Sequence[Any]], bool]) -> Kind:
        """Return the kind of a list of these that passes a test."""
        return Kind(
            f"{wanted}, each entry {self.wanted}",
            lambda value: _is_list(value) and all(map(self.fits, value)) and fits(value),
        )

    def check(self, name: str, value: Any) -> None:
        """Refuse a value by the name of its option: a number out of range as a ValueError, others as a TypeError."""
        if not self.fits(value):
            takes_list = self.wanted.startswith("a list") or self.wanted == SIZE.wanted
            numbers = [*value] if takes_list and _is_list(value) else [value]
            is_number = bool(numbers) and all(type(number) in (int, float) for number in numbers)
            is_misplaced = self.wanted.startswith("a list") and not _is_list(value)
            is_range = (is_number and not is_misplaced) or self.wanted.startswith("one of")
            error = InputError if is_range else KindError
            remedy = f"; {self.remedy}" if self.remedy else ""
            raise error(f"{name} must be {self.wanted}, got {value!r}{remedy}")


def _is_number(value: Any, kind: Any = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_positive_int(value: Any) -> bool:
    return _is_number(value, Integral) and value >= 1


def _is_size(value: Any) -> bool:
    return _is_positive_int(value) or (_is_list(value) and len(value) == 3 and all(map(_is_positive_int, value)))


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and str(value) != "" and "\0" not in str(value)


def _is_device(value: Any) -> bool:
    """Tell whether this machine has a device."""
    import torch  # not imported with the table, as MONAI is not

    try:
        device = torch.device(value) if isinstance(value, str) else value
    except RuntimeError:
        return False
    if not isinstance(device, torch.device):
        return False
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def one_of(*choices: Any) -> Kind:
    """Return the kind of what is one of a few words."""
    return Kind(f"one of {', '.join(map(str, choices))}", lambda value: value in choices, choices=choices)


ANY = Kind("anything", lambda value: True)
TEXT = Kind("text", lambda value: isinstance(value, str) and value != "", is_text=True)
PATH = Kind("a path", _is_path, is_text=True)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
INT = Kind("a whole number from 0", lambda value: _is_number(value, Integral) and value >= 0)
POSITIVE_INT = Kind("a whole number from 1", _is_positive_int)
SIZE = Kind("a whole number from 1, or three of them", _is_size)
NUMBER = Kind("a number", _is_number)
NON_NEGATIVE = Kind("a number from 0", lambda value: _is_number(value) and value >= 0)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_PAIR = NUMBER._list("a list of 2 that increase", lambda value: len(value) == 2 and value[0] < value[1])
CLIP = Kind(
    "a list of two increasing numbers, or a list of such pairs, one for each channel",
    lambda value: _PAIR.fits(value) or _PAIR.list.fits(value),
)
FORMATS = (
    one_of("nifti", "seg.nrrd", "dicom_seg", "rtstruct")
    ._list("a list of 1 or more that differ", lambda value: len(value) == len(set(value)) > 0)
    ._replace(remedy="write --formats \"['nifti','seg.nrrd']\"")
)
SEED = Kind("a whole number from 0 to 4294967295", lambda value: INT.fits(value) and value < 2**32)  # as NumPy wants it
LEVELS = POSITIVE_INT._list("a list of 2 or more", lambda value: len(value) >= 2)
FRACTION = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
PROPER_FRACTION = Kind("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
DEVICE = Kind("cpu, or a GPU of this machine, such as cuda:0", _is_device, "pass --device cpu, or leave it out")


class Option(NamedTuple):
    """Option of a run: one row of the table.

    Attributes:
        kind: what a value must be.
        meaning: in a few words, with its unit.
        example: another value than the default.
        is_setting: a training that was interrupted goes on only with the same value.
        is_shown: MONAI Label lets a client change it for one inference.
        is_fixed: weights are of use with the value of their training alone, which inference and evaluation take from
            the record beside them.
    """

    kind: Kind
    meaning: str
    example: Any = None
    is_setting: bool = True
    is_shown: bool = False
    is_fixed: bool = False


def _place(meaning: str, example: Any = None, kind: Kind = PATH) -> Option:
    """Return the row of an option on which the numbers of a training do not depend."""
    return Option(kind, meaning, example, is_setting=False)


SHARED_OPTIONS: Mapping[str, Option] = {
    "bundle_root": _place("folder of the bundle, with configs/metadata.json", "bundles/fnet_wtacae_stl"),
    "dataset_dir": _place("folder with dataset.json or, for inference, of scans", "/data/ct"),
    "ckpt_dir": _place("folder of the weights", "/data/models"),
    "output_dir": _place("folder of the segmentations, and of mlruns.db with --tracking mlflow", "/data/segmented"),
    "evaluation_dir": _place("folder of scores and pictures", "/data/scores"),
    "weights": _place("file of the weights", "/data/models/model.pt"),
    "pretrained": Option(
        PATH.or_null._replace(wanted="a path, null or random"),
        "weights to start from; null: from scratch; random: the control",
        "$None",
    ),
    "init_from": Option(
        PATH.or_null,
        "trained network to start from without its head, such as one of other classes; null: none",
        "/data/models/model.pt",
    ),
    "device": _place("on which the network runs; left out: a GPU where there is one", "cpu", DEVICE),
    "resume": _place("go on from an interrupted run with the same settings", False, FLAG),
    "seed": Option(SEED, "of all chance", 1),
    "fold": _place("of the labeled cases, held out for validation", 1, INT),
    "num_folds": _place("into which the labeled cases are cut, where dataset.json has no folds", 4, POSITIVE_INT),
    "num_labeled": _place("training cases whose labels are used; null: all; 0: pseudo-labels alone", 8, INT.or_null),
    "num_validation": _place("validation cases; null: the whole fold", 2, POSITIVE_INT.or_null),
    "pseudo_labels": _place(
        "folder of pseudo-labels that are learned from, too; null: none", "/data/pseudo_labels", PATH.or_null
    ),
    "labeled_fraction": Option(
        FRACTION.or_null,
        "smallest share of a minibatch that has labels, beside pseudo-labels; null: each scan alike",
        0.5,
    ),
    "consistency_weight": Option(NON_NEGATIVE, "of the consistency with a mean teacher", 0.5),
    "ramp_up": Option(POSITIVE_INT, "steps until the consistency with a mean teacher has its weight", 200),
    "formats": _place("of the segmentations; the last two of a DICOM series alone", ["nifti", "seg.nrrd"], FORMATS),
    "save_probabilities": _place("also write the probability of each class", True, FLAG),
    "skip_existing": _place("leave out the scans whose segmentations are there, whole and up to date", True, FLAG),
    "save_confidence": _place("also write the probability of the most probable class", True, FLAG),
    "num_unlabeled": _place("unlabeled cases; null: all", 40, INT.or_null),
    "include_val_images": _place("learn from the images of the validation cases, too", True, FLAG),
    "split": _place("cases that are scored", "validation", one_of("training", "validation", "test")),
    "num_pictures": _place("cases to draw", 10, INT),
    "surface_tolerance": _place("mm, by which surfaces may differ in the surface Dice", 3.0, NON_NEGATIVE),
    "cache_memory": _place(
        "GB that preprocessed scans may take, beyond which they are read from disk; null: half of what is free",
        8,
        NON_NEGATIVE.or_null,
    ),
    "cache_dir": _place("folder of the preprocessed scans that are read from disk", "/data/cache"),
    "num_workers": _place("processes that load", 0, INT),
    "max_epochs": Option(POSITIVE_INT, "epochs of the training", 100),
    "iterations_per_epoch": Option(POSITIVE_INT, "minibatches of an epoch", 25),
    "val_interval": Option(POSITIVE_INT, "epochs between two segmentations of the validation cases", 5),
    "val_iterations": Option(POSITIVE_INT, "minibatches of the validation loss", 8),
    "batch_size": Option(POSITIVE_INT, "of each process", 4),
    "learning_rate": Option(POSITIVE, "of the optimizer", 1.0e-3),
    "weight_decay": Option(NON_NEGATIVE, "of the optimizer", 0.0),
    "weight_averaging": Option(
        PROPER_FRACTION.or_null, "decay per step of an average of the weights, which is kept; null: none", 0.99
    ),
    "stop_lr": Option(NON_NEGATIVE, "learning rate from which on a training may end early", 1.0e-6),
    "patience": Option(POSITIVE_INT, "epochs without an improvement before the next step of the schedule", 20),
    "nan": Option(one_of("refuse", "replace"), "voxels that are NaN or infinite", "replace", is_shown=True),
    "series": Option(TEXT.or_null, "UID of the DICOM series that is read, where a folder holds several", "1.2.840.1.2"),
    "amp": Option(FLAG, "bfloat16 in training, where the device has it", False),
    "half": Option(FLAG, "volumes in half precision, for a GPU with little memory", True),
    "air": Option(
        NUMBER.or_null,
        "HU of the first CT channel at or below which a voxel is outside the body; null: everything is body (MR)",
        -300,
    ),
    "normalization": Option(one_of("zscore", "range"), "of intensities", "range"),
    "clip": Option(
        CLIP.or_null, "lower and upper intensity, of all channels or of each; null: fitted, or none", [-155, 295]
    ),
    "features": Option(LEVELS, "feature maps of each level, finest first", [16, 16, 16], is_fixed=True),
    "foreground_fraction": Option(FRACTION, "of the patches, that hold labeled voxels", 0.5),
}


def check_values_are_given(command: Sequence[str], texts: Collection[str]) -> None:
    """Refuse an option without a value, which `fire` takes for True: a folder of that name would be made.

    Args:
        command: words of a command line.
        texts: names of the options that are text.
    """
    for argument, following in zip(command, [*command[1:], "-"], strict=False):
        name = argument.lstrip("-").replace("-", "_")
        if argument.startswith("-") and name in texts and re.match(r"--|-[a-zA-Z]|-$", following):
            raise InputError(f"{name} must be given a value, got none; write --{name}=VALUE if it begins with a dash")


def is_scratch(pretrained: str | Path | None) -> bool:
    """Tell whether no pretraining is wanted: None, or `null` and `none`, which a command line delivers as text."""
    return pretrained is None or str(pretrained).lower() in ("null", "none")


def has_weights(pretrained: str | Path | None) -> bool:
    """Tell whether an option names a file of weights: it is neither null nor random."""
    return pretrained != RANDOM and not is_scratch(pretrained)


def check_each(kind: Kind, **values: Any) -> None:
    """Refuse the arguments of a constructor that are not of a kind, by their names, see `Kind.check`."""
    for name, value in values.items():
        kind.check(name, value)


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False: a command line delivers `false` and `no` as text, which counts as true."""
    for name, value in flags.items():
        if not FLAG.fits(value):
            raise KindError(f"{name} must be {FLAG.wanted}, got {value!r}")


def check_whole_numbers(**numbers: Any) -> None:
    """Refuse text and fractions by the name of their option, before a comparison fails without it."""
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise KindError(f"{name} must be a whole number, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is not among the choices, by the name of its option."""
    allowed = [*choices]
    if value not in allowed:
        raise InputError(f"{name} must be {one_of(*allowed).wanted}, got {value!r}")
