"""Check bundles before they are shared or a long run begins, without a network or data.

    python -m tools.verify            # all of bundles/
    python -m tools.verify fnet_wtacae_stl exported/my_bundle

A bundle is named, or given as a folder: one of this repository, an exported one, or any other MONAI bundle. Its network
is built, which runs its code. What the Model Zoo's continuous integration checks:

- the files that every bundle has; Python lies in `scripts/` only
- the metadata fit the schema, and the changelog has the version
- `network_def` of the inference takes and gives what the metadata say, and becomes TorchScript, compiled or traced
- `models/model.pt`, when it is there, holds all its weights and no code

and what it does not:

- training and inference have the ids that MONAI requires and applications such as MONAI Label use
- validation, evaluation and inference have the same network, options and preprocessing
- references lead somewhere, and what an override names is there or is used
- each `_target_` exists and takes its arguments; no `$` holds a loop or a lambda
- the ids by which commands drive workflows are the same in all the bundles

One line for each finding; the exit status is 1 when there are any.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tools._command import run_command
from tools.verify.bundle import SCRIPTS, Bundle, check_files, read_bundle, summary
from tools.verify.components import check_components, check_expressions
from tools.verify.metadata import check_metadata
from tools.verify.names import check_names
from tools.verify.network import check_network
from tools.verify.overrides import check_overrides, check_references
from tools.verify.properties import check_properties
from tools.verify.twins import check_twins

__all__ = ["find_all", "verify"]

_BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
_CHECKS: list[Callable[[Bundle], Iterator[str]]] = [
    check_files,
    check_metadata,
    check_references,
    check_overrides,
    check_components,
    check_expressions,
    check_properties,
    check_twins,
    check_network,
]


def verify(*bundles: str, **unknown: Any) -> None:
    """Print what is wrong with bundles, and end with status 1 when anything is.

    Args:
        bundles: names of folders in bundles/, or paths of bundles; none: all of bundles/.
        unknown: refused.
    """
    try:
        if unknown:
            raise ValueError(f"options must be those that `--help` shows, got {sorted(unknown)}")
        if find_spec("jsonschema") is None:
            raise ValueError("jsonschema must be installed to check metadata, got none; pip install jsonschema")
        roots = [_folder(bundle) for bundle in bundles] or sorted(path.parent for path in _BUNDLES.glob("*/configs"))
    except ValueError as error:
        sys.exit(f"error: {error}")
    num_findings = 0
    for finding in find_all(roots):
        print(finding, flush=True)
        num_findings += 1
    print(f"{_count(len(roots), 'bundle')}, {_count(num_findings, 'finding')}")
    if num_findings:
        sys.exit(1)


def find_all(roots: Sequence[Path]) -> Iterator[str]:
    """Yield what is wrong with the bundles in some folders."""
    bundles = [read_bundle(root) for root in roots]
    for bundle in bundles:
        with _quiet(), _importing_from(bundle.root), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            findings = [finding for check in _CHECKS for finding in _carry_out(check, bundle)]
        yield from (f"{bundle.name}/{finding}" for finding in findings)
    yield from (f"{bundle.name}/{finding}" for bundle, finding in check_names(bundles))


def _carry_out(check: Callable[[Bundle], Iterator[str]], bundle: Bundle) -> Iterator[str]:
    """Yield the findings of a check, to which belongs that it cannot be carried out."""
    try:
        yield from check(bundle)
    except Exception as error:  # of configs that are wrong in a way that no check foresees
        yield f"configs: must be such that {check.__name__} can read them, got {summary(error)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the code of a bundle says from between the findings."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _importing_from(root: Path) -> Iterator[None]:
    """Let modules come from the `scripts` of a bundle, and forget them afterwards: the next one has its own."""
    paths, own = [*sys.path], _scripts()
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        for name in _scripts():
            del sys.modules[name]
        sys.modules.update(own)
        sys.path[:] = paths


def _scripts() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == SCRIPTS}


def _folder(bundle: str) -> Path:
    """Return the folder of a bundle that is named or given as a path.

    Raises:
        ValueError: when there is none.
    """
    for folder in (Path(bundle), _BUNDLES / bundle):
        if folder.is_dir():
            return folder.resolve()
    names = sorted(path.parent.name for path in _BUNDLES.glob("*/configs"))
    raise ValueError(f"bundle must be a folder or one of {', '.join(names)}, got {bundle}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_command(verify)
