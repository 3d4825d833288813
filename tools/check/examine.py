"""Look at all that can be known of a run before it is started."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigExpression, ConfigParser

from common.cli import MissingFileError, Option, collect_errors, keep_going, root_cause
from common.cli.command_line import check_command_line
from common.cli.texts import text_expression
from common.data import Cases, Record, case_id, free_memory
from common.training import RunPlan, check_run, free_disk, load_network
from tools.options import option_table

from .voxels import read_voxels

__all__ = ["Findings", "examine", "find_configs"]

_CONFIGS = {
    "pretraining": ["pretrain"],
    "training": ["train"],
    "evaluation": ["train", "evaluate"],
    "inference": ["inference"],
}
_CHOICE = ("fold", "num_folds", "num_labeled", "num_validation")  # of cases
_NULL = ("$None", "None", "null")


@dataclass
class Findings:
    """What was found out about a run.

    Attributes:
        problems: because of which it would not start, each as one sentence.
        refused: why cases of an inference or an evaluation would be left out, which would be done for the others.
        warnings: with which it would start.
        plan: of the run; None where its config cannot be read.
        cases: names by list of the data list: `training`, `validation`, `unlabeled` and so on.
        labeled: numbers of cases with a label, by the same.
        weights: files that are loaded, and how much of them.
        num_read: files whose voxels were read.
    """

    bundle: str
    workflow: str
    config_files: list[str]
    dataset_dir: str
    problems: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    plan: RunPlan | None = None
    cases: dict[str, list[str]] = field(default_factory=dict)
    labeled: dict[str, int] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    device: str = ""
    free_disk: int | None = None
    free_memory: dict[str, int | None] = field(default_factory=dict)
    num_read: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return what a report in JSON holds."""
        content = {**vars(self), "would_start": not self.problems}
        plan = content.pop("plan")
        if plan is not None:
            data = {id: [_name(case) for case in cases] for id, cases in plan.data.items()}
            files = [str(file) for file in plan.files]
            content |= {"data": data, "files": files, "disk": plan.disk, "memory": plan.memory}
        return content


def find_configs(root: Path, workflow: str, config_file: str) -> list[Path]:
    """Return the configs of a workflow: those that are named, by path or name, or the usual ones.

    Raises:
        FileNotFoundError: when there is none of a name.
    """
    names = [name.strip() for name in config_file.split(",") if name.strip()] or _CONFIGS[workflow]
    return [_find_config(root, name, workflow) for name in names]


def _find_config(root: Path, name: str, workflow: str) -> Path:
    places = [root / "configs" / name, root / name, Path(name)]
    places += [root / "configs" / f"{name}{suffix}" for suffix in (".yaml", ".json")]
    for path in places:
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in (root / "configs").iterdir() if path.name != "metadata.json"))
    raise MissingFileError(
        f"{root / 'configs' / name}: config of a {workflow} must exist, got no such file; name one of {known}"
    )


def examine(
    root: Path, workflow: str, files: Sequence[Path], dataset_dir: str, deep: bool, options: Mapping[str, Any]
) -> Findings:
    """Look at a run as it would be started with these options, and note all that is wrong.

    Args:
        root: folder of the bundle.
        workflow: run id.
        files: configs, the complete one first.
        dataset_dir: of the run.
        deep: read every voxel, too.
        options: of the run, by name.
    """
    started = time.perf_counter()
    findings = Findings(root.name, workflow, [str(file) for file in files], dataset_dir)
    with collect_errors() as problems, _collect_log(findings.warnings, findings.weights), _noting(problems):
        config = _check_options(root, workflow, files, {"dataset_dir": dataset_dir, **options}, problems)
        with keep_going():
            findings.device = str(config.get_parsed_content("device"))
        plan = findings.plan = check_run(config)
        _count_cases(findings, config, plan)
        if plan.files:
            findings.free_disk = free_disk(plan)
        findings.free_memory = {device: free_memory(device) for device in plan.memory}
        with keep_going():
            _load_weights(config, plan)
        if deep:
            findings.num_read = read_voxels(config, plan)
    if findings.plan is not None:
        findings.refused = [case["reason"] for case in findings.plan.refused]
    findings.problems = [*dict.fromkeys(problems)]
    told = {*findings.problems, *findings.refused}
    findings.warnings = [text for text in dict.fromkeys(findings.warnings) if text not in told]
    findings.seconds = round(time.perf_counter() - started, 2)
    return findings


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Block whose errors are noted: foreseen ones, and those that an expression of a config may raise."""
    try:
        with keep_going():
            yield
    except Exception as error:
        cause = root_cause(error)
        problems.append(f"config must be evaluated, got {type(cause).__name__}: {cause}; look at the options above")


@contextmanager
def _collect_log(warnings: list[str], weights: list[str]) -> Iterator[None]:
    """Lists of the warnings that the library logs, and of what it says of weights that it loads."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                warnings.append(record.getMessage())
            elif "tensors" in record.msg:
                weights.append(record.getMessage())

    library = logging.getLogger("common")
    level, is_passed_on, collector = library.level, library.propagate, Collector()
    library.addHandler(collector)
    library.setLevel(logging.INFO)
    library.propagate = False
    try:
        yield
    finally:
        library.removeHandler(collector)
        library.setLevel(level)
        library.propagate = is_passed_on


def _check_options(
    root: Path, workflow: str, files: Sequence[Path], options: Mapping[str, Any], problems: list[str]
) -> ConfigParser:
    """Check all options, and return a config with those that are right; in place of the others are the defaults."""
    names = [str(file) for file in files]
    with keep_going():
        check_command_line({"config_file": names, "run_id": workflow})
    known = {}
    for name, value in options.items():
        num_problems = len(problems)
        with keep_going():
            check_command_line({"config_file": names, name: value})
        if len(problems) == num_problems:
            known[name] = value
    config = _read_checked(root, names, known)
    table = option_table(config.get())
    right = {name: value for name, value in known.items() if _fits(table, name, value)}
    if right != known:
        config = _read_checked(root, names, right)
    if "cases" in config.get() and any(name in right for name in _CHOICE):
        num_problems = len(problems)
        with keep_going():
            config.get_parsed_content("cases")
        if len(problems) > num_problems:
            config = _read_checked(root, names, {name: right[name] for name in right if name not in _CHOICE})
    if workflow in ("evaluation", "inference"):
        num_problems = len(problems)
        with keep_going():
            config.get_parsed_content("record")
        if len(problems) > num_problems:  # the data are looked at without it
            config["record"], config["labels"] = Record(), {0: "background", 1: "foreground"}
    return config


def _read_checked(root: Path, files: Sequence[str], options: Mapping[str, Any]) -> ConfigParser:
    """Return the config of a run, as MONAI makes it, whose options are checked as the run checks them."""
    config = ConfigParser()
    config.read_config(files)
    config["bundle_root"] = str(root)
    table = option_table(config.get())
    for name, value in options.items():
        if name in table and table[name].kind.is_text and isinstance(value, str):
            is_null = value in _NULL and table[name].kind.fits(None)
            value = None if is_null else text_expression(value)
        config[name] = value
    config.parse(reset=True)
    config.get_parsed_content("settings")
    return config


def _fits(table: Mapping[str, Option], name: str, value: Any) -> bool:
    return name not in table or ConfigExpression.is_expression(value) or table[name].kind.fits(value)


def _count_cases(findings: Findings, config: ConfigParser, plan: RunPlan) -> None:
    """Note the cases of each list."""
    lists: dict[str, list[Any]] = {}
    if plan.workflow == "inference":
        lists["scans"] = plan.data.get("dataset", [])
    elif "cases" in config.get() and plan.data:
        cases: Cases = config.get_parsed_content("cases")
        names = ("training", "validation", "test", "unlabeled", "normal")
        lists = {name: getattr(cases, name) for name in names if getattr(cases, name)}
    findings.cases = {name: [_name(case) for case in items] for name, items in lists.items()}
    findings.labeled = {name: sum("label" in case for case in items) for name, items in lists.items()}


def _name(case: Mapping[str, Any]) -> str:
    return str(case.get("case_id") or case_id(case["image"]))


def _load_weights(config: ConfigParser, plan: RunPlan) -> None:
    """Load the weights that an evaluation or an inference would load; a training has loaded its own by now."""
    section = {"evaluation": "validate::handlers", "inference": "handlers"}.get(plan.workflow)
    if isinstance(config.get("record"), Record):  # in place of one that is missing, as the weights will be
        return
    for index, handler in enumerate(config.get(section) if section else []):
        if str(handler.get("_target_", "")).endswith(".LoadWeights"):
            network: torch.nn.Module = config.get_parsed_content(f"{section}::{index}::network")
            load_network(network, config.get_parsed_content(f"{section}::{index}::path"))
