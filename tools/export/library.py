"""Library of an exported bundle: the part that it uses, as a package of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from common.cli import InputError

__all__ = ["PACKAGE", "PATH_MODULE", "SOURCE", "rename", "used_modules"]

SOURCE, PACKAGE = "common", "scripts"  # MONAI Label forgets `scripts`, and nothing else, between two bundles
PATH_MODULE = "search_path.py"  # which has `scripts` found

_NAME = re.compile(rf"\b{SOURCE}(?=\.[a-z])|(?<=from ){SOURCE}(?= import)")


def rename(text: str) -> str:
    """Return code, or the name of a component, with the library under its name in an exported bundle."""
    return _NAME.sub(PACKAGE, text)


def used_modules(components: Iterable[str]) -> dict[str, str]:
    """Return the files that components need, and those that these need in turn.

    The `__init__.py` of a package imports only what is needed, too.

    Args:
        components: dotted names in the library, such as `common.fnet.FNet`.

    Returns:
        Text of each file by its path in the package, sorted.
    """
    folder = Path(str(import_module(SOURCE).__file__)).parent
    library = _Library(folder)
    for component in components:
        module, _, name = component.rpartition(".")
        library.need(module, name)
    return {str(path.relative_to(folder)): text for path, text in sorted(library.texts())}


class _Library:
    """Modules of a package that are needed so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: set[Path] = set()
        self.packages: dict[Path, set[str]] = {}  # the modules that each `__init__.py` imports

    def need(self, module: str, name: str) -> None:
        """Take in the module in which a name of a module or a package is defined."""
        path = self.folder.joinpath(*module.split(".")[1:])
        if path.with_suffix(".py").is_file():
            self._take_in(path.with_suffix(".py"))
            return
        init = path / "__init__.py"
        if not init.is_file():
            raise InputError(f"{module}: must be a module of {SOURCE}, got none of that name")
        self._open_packages(path)
        source = next((source for source, names in _imports(init, module) if name in names), None)
        if source is not None:
            self.packages[init].add(source)
            self.need(source, name)
        elif (path / f"{name}.py").is_file():
            self._take_in(path / f"{name}.py")
        else:
            raise InputError(f"{module}.{name}: must be in {SOURCE}, got no such name")

    def texts(self) -> Iterator[tuple[Path, str]]:
        for path in self.modules:
            yield path, rename(path.read_text(encoding="utf-8"))
        for path, sources in self.packages.items():
            package = ".".join((SOURCE, *path.parent.relative_to(self.folder).parts))
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [
                "".join(lines[node.lineno - 1 : node.end_lineno])
                for node in ast.parse("".join(lines)).body
                if isinstance(node, ast.ImportFrom) and _absolute(node, package) in sources
            ]
            yield path, rename("".join(kept))

    def _take_in(self, path: Path) -> None:
        self._open_packages(path.parent)
        if path in self.modules:
            return
        self.modules.add(path)
        package = ".".join((SOURCE, *path.parent.relative_to(self.folder).parts))
        for source, names in _imports(path, package):
            for name in names:
                self.need(source, name)

    def _open_packages(self, folder: Path) -> None:
        while folder != self.folder.parent:
            self.packages.setdefault(folder / "__init__.py", set())
            folder = folder.parent


def _imports(path: Path, package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each module of the library from which a file imports, wherever it does, and the names that it takes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            source = _absolute(node, package)
            if source.split(".")[0] == SOURCE:
                yield source, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parent, _, name = alias.name.rpartition(".")
                if parent.split(".")[0] == SOURCE:
                    yield parent, [name]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module of `from ... import`, whose dots are relative to a package."""
    if not node.level:
        return str(node.module)
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])
