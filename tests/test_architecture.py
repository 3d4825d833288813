"""Imports point one way: from tools and tests to a method, to what methods share, to MONAI; and a bundle has none."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"context", "fnet", "layers", "planar"}
SHARED = {"active_learning", "cli", "data", "self_training", "training", "transforms"}
FOLDERS = sorted(path.parent.name for path in ROOT.glob("common/*/__init__.py"))
Imports = dict[str, set[str]]  # full names, by the full name of the module that imports them


def read_imports(root: Path) -> Imports:
    """Return what the modules of `common` import: anywhere, in functions and under TYPE_CHECKING, too."""
    paths = {path.relative_to(root).with_suffix(""): path for path in root.glob("common/**/*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__"): file for path, file in paths.items()}
    imports: Imports = {}
    for module, file in modules.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        imports[module] = found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                names = {f"{source}.{alias.name}" for alias in node.names}
                found.update(name if name in modules else source for name in names)
    return imports


def folder(module: str) -> str:
    """Return `fnet` for `common.fnet.network`, and nothing for what is not in a folder of `common`."""
    first, *rest = module.split(".")
    return rest[0] if first == "common" and rest else ""


def arrows(imports: Imports) -> Iterator[tuple[str, str]]:
    return ((module, name) for module, names in sorted(imports.items()) for name in sorted(names))


def from_method_to_method(imports: Imports) -> list[str]:
    between = [(one, other) for one, other in arrows(imports) if {folder(one), folder(other)} <= METHODS]
    return [f"{one} imports {other}" for one, other in between if folder(one) != folder(other)]


def from_shared_to_method(imports: Imports) -> list[str]:
    return [
        f"{one} imports {other}" for one, other in arrows(imports) if folder(one) in SHARED and folder(other) in METHODS
    ]


def to_what_uses_the_library(imports: Imports) -> list[str]:
    outside = {"bundles", "tests", "tools"}
    return [f"{one} imports {other}" for one, other in arrows(imports) if other.split(".")[0] in outside]


def circles(graph: Imports) -> list[str]:
    """Return what is left of a graph when whatever begins or ends in nothing is taken away, again and again."""
    rest = {name: targets - {name} for name, targets in graph.items()}
    while loose := {name for name in rest if not rest[name] & rest.keys() or name not in set().union(*rest.values())}:
        rest = {name: targets for name, targets in rest.items() if name not in loose}
    return [f"{one} imports {other}" for one, other in arrows(rest) if other in rest]


def circles_of_folders(imports: Imports) -> list[str]:
    graph = defaultdict(set)
    for one, other in arrows(imports):
        if folder(one):
            graph[folder(one)].add(folder(other))
    return circles(graph)


def circles_within_folders(imports: Imports) -> list[str]:
    """A module that imports its own folder imports all of its modules."""
    return circles({one: {other for other in names if folder(other) == folder(one)} for one, names in imports.items()})


RULES: dict[Callable[[Imports], list[str]], list[tuple[dict[str, str], str]]] = {  # with what breaks them
    from_method_to_method: [
        ({"fnet/network.py": "from common.layers import LayerUNet"}, "common.fnet.network imports common.layers"),
        ({"fnet/network.py": "from ..layers.network import A"}, "common.fnet.network imports common.layers.network"),
        ({"fnet/__init__.py": "import common.planar.pairs"}, "common.fnet imports common.planar.pairs"),
    ],
    from_shared_to_method: [
        (
            {"data/files.py": "def f():\n    from ..fnet import network"},
            "common.data.files imports common.fnet.network",
        ),
        ({"cli/errors.py": "if TYPE_CHECKING:\n    from common import fnet"}, "common.cli.errors imports common.fnet"),
    ],
    to_what_uses_the_library: [
        (
            {"fnet/network.py": "from tools.export.__main__ import export"},
            "common.fnet.network imports tools.export.__main__",
        ),
        ({"data/files.py": "import bundles"}, "common.data.files imports bundles"),
        ({"data/files.py": "import tests.conftest"}, "common.data.files imports tests.conftest"),
    ],
    circles_of_folders: [
        ({"data/files.py": "from common.cli import a", "cli/errors.py": "from ..data import b"}, "data imports cli"),
        (
            {
                "cli/errors.py": "import common.data",
                "data/files.py": "import common.training",
                "training/a.py": "import common.cli",
            },
            "data imports training",
        ),
    ],
    circles_within_folders: [
        (
            {"fnet/a.py": "from .network import b", "fnet/network.py": "from . import a"},
            "common.fnet.a imports common.fnet.network",
        ),
        ({"fnet/network.py": "from common.fnet import b"}, "common.fnet.network imports common.fnet"),
    ],
}
BROKEN = [
    pytest.param(rule, *plant, id=f"{rule.__name__}-{plant[1]}") for rule, plants in RULES.items() for plant in plants
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_of_the_library_breaks_the_rule(rule):
    imports = read_imports(ROOT)
    assert len(imports) > len(FOLDERS) > 0
    assert rule(imports) == []


@pytest.mark.parametrize(("rule", "files", "sentence"), BROKEN)
def test_a_rule_finds_the_import_that_breaks_it(rule, files, sentence, tmp_path):
    sound = {
        "__init__.py": "",
        "cli/__init__.py": "from .errors import a",
        "cli/errors.py": "import torch",
        "data/__init__.py": "from .files import b",
        "data/files.py": "from common.cli import a\nimport tools_of_another",
        "fnet/__init__.py": "from .network import FNet\nfrom .a import b",
        "fnet/a.py": "from ..data.files import b",
        "fnet/network.py": "from . import a\nfrom common.data import b",
        "layers/__init__.py": "from .network import LayerUNet",
        "layers/network.py": "def f():\n    from common import data",
    }
    for tree, is_sound in ((sound, True), (sound | files, False)):
        for name, text in tree.items():
            path = tmp_path / "common" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        found = rule(read_imports(tmp_path))
        assert found == [] if is_sound else sentence in found


def test_every_folder_is_a_method_or_shared():
    assert set(FOLDERS) == METHODS | SHARED
    assert {path.name for path in ROOT.glob("common/*.py")} == {"__init__.py"}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_public_name_is_there(name):
    module = importlib.import_module(f"common.{name}")
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imported for alias in node.names}
    assert names
    assert [public for public in sorted(names) if not hasattr(module, public)] == []
    # from Python 3.13 on, a config that names such a function gets the module
    assert sorted(names & {file.stem for file in Path(str(module.__file__)).parent.glob("*.py")}) == []


def test_bundles_hold_no_python():
    """An exported bundle has its library with it, this one has it in `common`."""
    bundles = [path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json")]
    assert bundles
    assert [*(ROOT / "bundles").rglob("*.py")] == []
