"""Plan of a study: its file, and the commands that follow from it."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from fire.parser import DefaultParseValue

from common.cli import SHARED_OPTIONS, InputError, KindError, MissingFileError

__all__ = ["Arm", "Job", "Pretraining", "Run", "Study", "argument", "check_known", "plan_runs", "read_study"]

Entry = TypeVar("Entry", bound="Training | Study")

_FIRST_FILE = {"training": "train.yaml", "pretraining": "pretrain.yaml"}  # by the workflow that is given it
SET_BY_THE_STUDY = ("run_id", "config_file", "args_file", "bundle_root", "dataset_dir", "ckpt_dir", "evaluation_dir")
KINDS: dict[str, type] = {
    **dict.fromkeys(["num_labeled", "folds", "seeds", "override_files", "evaluation_files", "command"], list),
    **dict.fromkeys(["options", "arms", "pretrainings"], dict),
    "per_fold": bool,
    "teachers": list,
    "teacher_seeds": list,
    "num_unlabeled": int,
    "pooling": dict,
}
SET_BY_THE_DRAW = ("num_labeled", "fold", "seed", "split")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training of a bundle, with or without labels.

    Args:
        bundle: folder of the bundle; the study's when empty.
        override_files: configs given last, relative to the bundle; the study's when None.
        options: overrides on top of the study's.
    """

    bundle: str = ""
    override_files: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training):
    """A pretraining that arms share.

    Args:
        weights: file that it leaves, relative to its `ckpt_dir`.
        per_fold: run once per fold instead of once, with fold 0, for all.
    """

    weights: str
    per_fold: bool = False


@dataclass(frozen=True, kw_only=True)
class Arm(Training):
    """One way to train. In an option that is text, `{fold}` and `{seed}` are those of the draw.

    Args:
        command: of a program in place of a bundle, see `_plan_command`.
        pretraining: name of the pretraining it starts from.
        workflow: what is run with the draw's seed before the evaluation: `training`, or `pretraining` for what is
            evaluated without any label.
        evaluation_files: configs that the evaluation is given after `evaluate.yaml`, relative to the bundle.
        teachers: arms that stand above this one and segment unlabeled scans, from which this one learns, too.
        teacher_seeds: of these arms' trainings, each of which is a teacher of its own; the draw's seed if empty.
        num_unlabeled: of these scans, at most.
        pooling: options of `tools.pseudo_labels`, which makes one of what the teachers think.
    """

    command: Sequence[str | float] = ()
    pretraining: str | None = None
    workflow: str = "training"
    evaluation_files: Sequence[str] = ()
    teachers: Sequence[str] = ()
    teacher_seeds: Sequence[int] = ()
    num_unlabeled: int = 40
    pooling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Arms x label counts x folds x seeds on one data set.

    Args:
        reference: arm that the others are tested against.
        split: which cases are evaluated, `test` or `validation`.
        scores: file with the Dice of each case that an evaluation leaves in its `evaluation_dir`.
    """

    name: str
    dataset_dir: str
    output_dir: str
    num_labeled: Sequence[int]
    arms: Mapping[str, Arm]
    bundle: str = ""
    override_files: Sequence[str] = ()
    folds: Sequence[int] = (0,)
    seeds: Sequence[int] = (0,)
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrainings: Mapping[str, Pretraining] = field(default_factory=dict)
    reference: str | None = None
    split: str = "test"
    scores: str = "mean_dice_raw.csv"


@dataclass(frozen=True)
class Job:
    """Command of a workflow, or of a tool, with the files that it leaves and the jobs that it needs.

    Args:
        name: what the progress lines call it.
        run_id: workflow of the bundle; without config files it is the module of a tool.
        folder: where its log, its record and its output go.
        config_files: the complete file first, then the overrides.
        options: overrides of ids, as Python values.
        product: file that it must leave, if any.
        needs: jobs that must be finished before.
        program: command of a program that is no bundle.
    """

    name: str
    run_id: str
    folder: Path
    config_files: tuple[str, ...]
    options: Mapping[str, Any]
    product: Path | None = None
    needs: tuple[Job, ...] = ()
    program: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        if self.program:
            return [*self.program]
        command = [sys.executable, "-m"]
        if self.config_files:
            command += ["monai.bundle", "run", self.run_id, "--config_file", json.dumps(self.config_files)]
        else:
            command.append(self.run_id)
        for name, value in self.options.items():
            is_text = isinstance(value, str) and name in SHARED_OPTIONS and SHARED_OPTIONS[name].kind.is_text
            command += [f"--{name}", value if is_text else argument(value)]
        return command

    @property
    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        if self.program:
            return {"run_id": self.run_id, "command": [*self.program]}
        return {"run_id": self.run_id, "config_file": [*self.config_files], **self.options}

    @property
    def done_path(self) -> Path:
        return self.folder / "done.json"


@dataclass(frozen=True)
class Run:
    """Arm with one label count in one draw, which is a fold and a seed."""

    arm: str
    num_labeled: int
    draw: tuple[int, int]
    training: Job
    evaluation: Job
    pretraining: Job | None


def argument(value: Any) -> str:
    """Write a value such that `monai.bundle` reads the same value from its command line.

    It drops options whose value is None, so that the default of the config would stay: None becomes an expression.
    """
    if value is None:
        return "$None"
    if isinstance(value, str) and not value.startswith("-") and DefaultParseValue(value) == value:
        return value
    return repr(value)


def check_known(name: Any, known: Collection[str], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
        raise InputError(f"{what} must be a known one, got {name!r}; {hint}")


def read_study(path: str | Path, dataset_dir: str | None = None) -> Study:
    """Read a study file, and refuse what it cannot mean.

    Args:
        path: YAML file.
        dataset_dir: data set to use in place of the one in the file.
    """
    content = _load_yaml(path, "study")
    if isinstance(content, dict) and dataset_dir is not None:
        content["dataset_dir"] = str(dataset_dir)
    study = _build(Study, content, str(path))
    for key in ("num_labeled", "folds", "seeds"):
        _check_counts(getattr(study, key), key, minimum=0)
    check_known(study.split, ("test", "validation"), "split")
    if not study.arms:
        raise InputError("arms must name at least one arm, got none; add one")
    _check_options(study.options, "options", SET_BY_THE_DRAW)
    _check_values([study.dataset_dir, study.output_dir, study.bundle, study.scores, *study.override_files], "paths")
    for group, entries in (("pretrainings", study.pretrainings), ("arms", study.arms)):
        for name, entry in entries.items():
            _check_entry(study, entry, name, f"{group}.{name}")
    _check_teachers(study)
    if study.reference is not None:
        check_known(study.reference, study.arms, "reference")
    return study


def plan_runs(study: Study) -> list[Run]:
    """List the runs of a study: by seed and fold, then label count, then arm, so that a part of it is balanced.

    Without labels (`num_labeled` of 0), only the arms are run that need none.
    """
    output_dir = Path(study.output_dir)

    @cache
    def pretrain(name: str, fold: int | None) -> Job:
        return _plan_pretraining(study, name, fold, output_dir / "pretraining" / name)

    @cache
    def plan(name: str, num_labeled: int, draw: tuple[int, int]) -> Run:
        arm, pretraining = study.arms[name], None
        if arm.pretraining is not None:
            per_fold = study.pretrainings[arm.pretraining].per_fold
            pretraining = pretrain(arm.pretraining, draw[0] if per_fold else None)
        pool = _plan_pool(study, name, num_labeled, draw, plan) if arm.teachers else None
        return _plan_run(study, name, num_labeled, draw, pretraining, pool)

    return [
        plan(name, num_labeled, (fold, seed))
        for seed, fold, num_labeled in itertools.product(study.seeds, study.folds, study.num_labeled)
        for name in study.arms
        if num_labeled > 0 or not _needs_labels(study, name)
    ]


def _needs_labels(study: Study, name: str) -> bool:
    """Tell whether an arm needs a label: all do but pretrainings, and students of teachers that need none."""
    arm = study.arms[name]
    taught = bool(arm.teachers) and not any(_needs_labels(study, teacher) for teacher in arm.teachers)
    return arm.workflow == "training" and not taught


def _plan_pretraining(study: Study, name: str, fold: int | None, folder: Path) -> Job:
    entry = study.pretrainings[name]
    if fold is not None:
        folder = folder / f"fold{fold}"
    config_files = _config_files(study, entry, "pretrain.yaml")
    known = _known_ids(config_files)
    options = {
        "bundle_root": entry.bundle or study.bundle,
        "dataset_dir": study.dataset_dir,
        "ckpt_dir": str(folder),
        "fold": 0 if fold is None else fold,
        "seed": study.seeds[0],
    }
    if fold is None and "fold" not in known:
        del options["fold"]
    options |= {key: value for key, value in study.options.items() if _head(key) in known}
    options |= entry.options
    _check_ids(options, known, config_files)
    label = f"{name} pretraining" if fold is None else f"{name}_fold{fold} pretraining"
    return Job(label, "pretraining", folder, config_files, options, folder / entry.weights)


def _plan_run(
    study: Study, name: str, num_labeled: int, draw: tuple[int, int], pretraining: Job | None, pool: Job | None
) -> Run:
    arm = study.arms[name]
    fold, seed = draw
    if arm.command:
        return _plan_command(study, name, num_labeled, draw)
    label = _label(name, num_labeled, draw)
    folder = Path(study.output_dir) / "runs" / label
    options: dict[str, Any] = {
        "bundle_root": arm.bundle or study.bundle,
        "dataset_dir": study.dataset_dir,
        "ckpt_dir": str(folder),
        "num_labeled": num_labeled,
        "fold": fold,
        "seed": seed,
    }
    if pretraining is not None:
        options["pretrained"] = str(pretraining.product)
    if pool is not None:
        options["pseudo_labels"] = str(pool.folder)
    options |= study.options
    for key, value in arm.options.items():
        is_text = isinstance(value, str)
        options[key] = value.replace("{fold}", str(fold)).replace("{seed}", str(seed)) if is_text else value
    config_files = _config_files(study, arm, _FIRST_FILE[arm.workflow])
    if arm.workflow == "pretraining":
        del options["num_labeled"]
        known = _known_ids(config_files) | _known_ids(_config_files(study, arm, "train.yaml"))
        _check_ids(options, known, config_files)
    learned = _fitting(options, config_files) if arm.workflow == "pretraining" else options
    _check_ids(learned, _known_ids(config_files), config_files)
    needs = tuple(job for job in (pretraining, pool) if job is not None)
    training = Job(f"{label} {arm.workflow}", arm.workflow, folder, config_files, learned, needs=needs)

    folder = folder / "evaluation"
    config_files = _config_files(study, arm, "train.yaml", "evaluate.yaml")
    config_files = (*config_files[:2], *_bundle_files(study, arm, arm.evaluation_files), *config_files[2:])
    options = _fitting(options, config_files) if arm.workflow == "pretraining" else options
    options = {**options, "split": study.split, "evaluation_dir": str(folder)}
    _check_ids(options, _known_ids(config_files), config_files)
    product = folder / study.scores
    evaluation = Job(f"{label} evaluation", "evaluation", folder, config_files, options, product, (training,))
    return Run(name, num_labeled, draw, training, evaluation, pretraining)


def _plan_pool(
    study: Study, name: str, num_labeled: int, draw: tuple[int, int], plan: Callable[[str, int, tuple[int, int]], Run]
) -> Job:
    """Plan what comes before a training on pseudo-labels: the teachers segment, and what they think is made one."""
    arm, output_dir = study.arms[name], Path(study.output_dir)
    fold, seed = draw
    own = {"num_labeled": num_labeled, "fold": fold}
    own |= {key: study.options[key] for key in ("num_folds", "num_validation") if key in study.options}
    segmentations = []
    for teacher, teacher_seed in itertools.product(arm.teachers, arm.teacher_seeds or [seed]):
        taught = (fold, teacher_seed)
        label = f"{_label('unlabeled', num_labeled, taught)}_{arm.num_unlabeled}"
        folder = output_dir / "unlabeled" / label
        options = {"dataset_dir": study.dataset_dir, "output_dir": str(folder), "num_unlabeled": arm.num_unlabeled}
        scans = Job(label, "tools.unlabeled", folder, (), {**options, **own}, folder / "scans.json")
        training = plan(teacher, num_labeled, taught).training
        segmentations.append(_plan_segmentation(study, training, study.arms[teacher], scans, arm.num_unlabeled))
    label = _label(name, num_labeled, draw)
    folder = output_dir / "pseudo_labels" / label
    options = {
        "dataset_dir": study.dataset_dir,
        "teachers": [str(job.folder) for job in segmentations],
        "output_dir": str(folder),
        **own,
        **arm.pooling,
    }
    product = folder / "pseudo_labels.json"
    return Job(f"{label} pseudo-labels", "tools.pseudo_labels", folder, (), options, product, (*segmentations,))


def _plan_segmentation(study: Study, training: Job, teacher: Arm, scans: Job, num_unlabeled: int) -> Job:
    """Plan the inference of a trained teacher on unlabeled scans."""
    folder = training.folder / f"unlabeled_{num_unlabeled}"
    files = _config_files(study, teacher, "inference.yaml")
    files = (files[0], *_bundle_files(study, teacher, teacher.evaluation_files), *files[1:])
    options = _fitting(training.options, files)
    options |= {"dataset_dir": str(scans.product), "output_dir": str(folder), "save_probabilities": True}
    name = f"{training.folder.name} segmentation of {num_unlabeled} unlabeled"
    _check_ids(options, _known_ids(files), files)
    return Job(name, "inference", folder, files, options, folder / "report.json", (training, scans))


def _label(name: str, num_labeled: int, draw: tuple[int, int]) -> str:
    return f"{name}_n{num_labeled}_fold{draw[0]}_seed{draw[1]}"


def _plan_command(study: Study, name: str, num_labeled: int, draw: tuple[int, int]) -> Run:
    """Plan the run of an arm whose command is a program's: the same command for training and evaluation.

    In its words, `{workflow}` is `training` or `evaluation`, and `{output_dir}` the folder of the run, in whose
    `evaluation/` the second one leaves the scores, with a row for each case and a column for each class.
    `{dataset_dir}`, `{num_labeled}`, `{fold}`, `{seed}`, `{split}` and the study's options are those of the run.
    """
    label = _label(name, num_labeled, draw)
    folder = Path(study.output_dir) / "runs" / label
    values = {
        **study.options,
        "dataset_dir": study.dataset_dir,
        "output_dir": folder,
        "num_labeled": num_labeled,
        "fold": draw[0],
        "seed": draw[1],
        "split": study.split,
    }

    def fill(workflow: str) -> tuple[str, ...]:
        known = {"workflow": workflow, **values}
        words = [str(word) for word in study.arms[name].command]
        for placeholder in re.findall(r"\{(\w+)\}", " ".join(words)):
            check_known(placeholder, known, f"placeholder of arms.{name}.command")
        return tuple(re.sub(r"\{(\w+)\}", lambda match: str(known[match[1]]), word) for word in words)

    training = Job(f"{label} training", "training", folder, (), {}, program=fill("training"))
    evaluation = Job(
        f"{label} evaluation",
        "evaluation",
        folder / "evaluation",
        (),
        {},
        folder / "evaluation" / study.scores,
        (training,),
        fill("evaluation"),
    )
    return Run(name, num_labeled, draw, training, evaluation, None)


def _fitting(options: Mapping[str, Any], config_files: Sequence[str]) -> dict[str, Any]:
    """Return the options that some files know: those of one workflow may mean nothing to another."""
    known = _known_ids(config_files)
    return {name: value for name, value in options.items() if _head(name) in known}


def _config_files(study: Study, entry: Training, *names: str) -> tuple[str, ...]:
    overrides = study.override_files if entry.override_files is None else entry.override_files
    return _bundle_files(study, entry, [*(f"configs/{name}" for name in names), *overrides])


def _bundle_files(study: Study, entry: Training, names: Sequence[str]) -> tuple[str, ...]:
    bundle = Path(entry.bundle or study.bundle)
    return tuple(str(bundle / name) for name in names)


def _known_ids(config_files: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for path in config_files:
        written = Path(path).stat().st_mtime_ns if Path(path).is_file() else 0
        known |= _ids_of(path, written)
    return known


@cache
def _ids_of(path: str, written: int) -> frozenset[str]:
    """Return the ids of a config, which is read once for all runs as long as it stays as it was written."""
    content = _load_yaml(path, "config")
    if not isinstance(content, dict):
        raise InputError(f"config must be a mapping, got {path}")
    return frozenset(_head(str(key)) for key in content)


def _load_yaml(path: str | Path, what: str) -> Any:
    if not Path(path).is_file():
        raise MissingFileError(
            f"{what} must be a file, got {path}; look at the path, which begins at the working directory"
        )
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{what} must be YAML, got {path}: {' '.join(str(error).split())}; mend that line") from error


def _head(name: str) -> str:
    return re.split("::|#", name)[0].removeprefix("+")


def _check_ids(options: Mapping[str, Any], known: Collection[str], config_files: Sequence[str]) -> None:
    """Refuse options that no config has: MONAI adds an unknown id in silence, and it would change nothing."""
    for name in options:
        check_known(_head(name), known, f"option of {' + '.join(config_files)}")


def _build(entry: type[Entry], content: Any, where: str) -> Entry:
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise KindError(f"{where} must be a mapping, got {content!r}")
    for key in content:
        check_known(key, [known.name for known in fields(entry)], f"key of {where}")
    for known in fields(entry):
        if known.default is MISSING and known.default_factory is MISSING and known.name not in content:
            raise InputError(
                f"{where} must have the key {known.name!r}, got {', '.join(map(str, content)) or 'none'}; add it"
            )
    content = dict(content)
    for key, value in content.items():
        kind = KINDS.get(key, str)
        is_absent = value is None and key in ("pretraining", "reference")
        if not isinstance(value, kind) and not is_absent:
            raise KindError(f"{key} of {where} must be a {kind.__name__}, got {value!r}")
    for key, kind in (("pretrainings", Pretraining), ("arms", Arm)):
        if key in content:
            content[key] = {name: _build(kind, value, f"{key}.{name}") for name, value in content[key].items()}
    return entry(**content)


def _check_entry(study: Study, entry: Training, name: Any, where: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{where} must be named with letters, digits, '_', '-' and '.', got {name!r}")
    if isinstance(entry, Arm) and entry.command:
        _check_command(entry, where)
        return
    if not (entry.bundle or study.bundle):
        raise InputError(f"{where} must have a bundle, got neither its own nor one of the study; add the key bundle")
    _check_values([entry.bundle, *(entry.override_files or [])], f"{where} paths")
    if isinstance(entry, Arm):
        check_known(entry.workflow, _FIRST_FILE, f"{where}.workflow")
        _check_values([*entry.evaluation_files], f"{where} paths")
        if entry.pretraining is not None and entry.workflow != "training":
            raise InputError(
                f"{where} must have no pretraining where it is one itself, got {entry.pretraining!r}; leave it out"
            )
    _check_options(entry.options, f"{where}.options", SET_BY_THE_DRAW)
    if isinstance(entry, Pretraining):
        _check_values(entry.weights, f"{where}.weights")
    elif isinstance(entry, Arm) and entry.pretraining is not None:
        check_known(entry.pretraining, study.pretrainings, f"{where}.pretraining")
        _check_options({**study.options, **entry.options}, f"{where}.options", ["pretrained"])


def _check_teachers(study: Study) -> None:
    """Refuse teachers that do not come before their student, and a number of unlabeled scans that is none."""
    above: list[str] = []
    for name, arm in study.arms.items():
        for teacher in arm.teachers:
            check_known(teacher, above, f"arms.{name}.teachers, arms above it,")
            if study.arms[teacher].command:
                raise InputError(f"arms.{name}.teachers must be bundles, got the program {teacher}; leave it out")
        if len({*arm.teachers}) < len(arm.teachers):
            raise InputError(f"arms.{name}.teachers must name each arm once, got {arm.teachers}; remove one")
        if arm.teacher_seeds:
            if not arm.teachers:
                raise InputError(
                    f"arms.{name}.teacher_seeds must come with teachers, got none; name them, or leave it out"
                )
            _check_counts(arm.teacher_seeds, f"arms.{name}.teacher_seeds", minimum=0)
        _check_counts([arm.num_unlabeled], f"arms.{name}.num_unlabeled", minimum=1)
        _check_values(arm.pooling, f"arms.{name}.pooling")
        wrong = {*arm.pooling} - {"weights", "keep", "limit"}
        if wrong:
            raise InputError(
                f"arms.{name}.pooling must have the keys weights, keep and limit, got {min(map(str, wrong))!r}; "
                "see python -m tools.pseudo_labels --help"
            )
        above.append(name)


def _check_command(arm: Arm, where: str) -> None:
    """Refuse words that are no text or numbers, and what only a bundle has a use for."""
    for word in arm.command:
        if type(word) not in (str, int, float) or word == "":
            raise KindError(f"{where}.command must be a list of texts and numbers, got {word!r} in it")
    for known in fields(arm):
        if known.name != "command" and getattr(arm, known.name) != getattr(Arm(), known.name):
            raise InputError(f"{where} must have nothing beside a command, got {known.name}; put it into the command")


def _check_counts(values: Any, name: str, minimum: int) -> None:
    if not values or any(type(value) is not int or value < minimum for value in values):
        raise InputError(f"{name} must be a list of whole numbers from {minimum}, got {values!r}")
    if len(set(values)) < len(values):
        raise InputError(f"{name} must hold each number once, got {values!r}")


def _check_options(options: Mapping[str, Any], where: str, taken: Sequence[str]) -> None:
    for name, value in options.items():
        if not isinstance(name, str) or not re.fullmatch(r"\+?[A-Za-z_]\w*((::|#)\w+)*", name):
            raise InputError(f"{where} must name ids of a config, got {name!r}")
        if name in SET_BY_THE_STUDY or name in taken:
            raise InputError(f"{where} must leave {name!r} to the study, got {value!r}; leave it out")
        _check_values(value, f"{where}.{name}")


def _check_values(value: Any, where: str) -> None:
    """Let no text become an expression, a reference or a macro, and no number become a text."""
    if isinstance(value, dict):
        _check_values([*value, *value.values()], where)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, where)
    elif isinstance(value, str):
        if value.strip().startswith(("$", "@", "%")):
            raise InputError(
                f"{where} must not begin with '$', '@' or '%', which MONAI evaluates, got {value!r}; "
                "write ./ before a path"
            )
        if re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
            raise InputError(f"{where} must be a number, got the text {value!r}; YAML wants 1.0e-3, not 1e-3")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} must be finite, got {value}")
    elif value is not None and not isinstance(value, int | float):
        raise KindError(f"{where} must be text, numbers, truth values or null, got {value!r}")
