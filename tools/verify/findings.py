"""Findings of all checks of some bundles."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

import torch

from tools.verify.bundle import SCRIPTS, Bundle, check_files, check_metadata, read_bundle, summary
from tools.verify.components import check_components, check_expressions
from tools.verify.consistency import check_consistency, check_names
from tools.verify.network import check_network
from tools.verify.overrides import check_overrides, check_references
from tools.verify.properties import check_properties

__all__ = ["find_all"]

_CHECKS: list[Callable[[Bundle], Iterator[str]]] = [
    check_files,
    check_metadata,
    check_references,
    check_overrides,
    check_components,
    check_expressions,
    check_properties,
    check_consistency,
    check_network,
]


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
