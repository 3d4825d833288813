"""`python -m tools` lists what there is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tools.__main__ import list_commands

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_each_command_is_listed_and_can_be_run():
    commands = list_commands()
    for name, text in commands.items():
        spec = find_spec(name if name.rpartition(".")[2] not in packages() else f"{name}.__main__")
        assert spec is not None and spec.origin is not None
        assert 'if __name__ == "__main__":' in Path(spec.origin).read_text(encoding="utf-8"), name
        assert text.endswith((".", "?")), text
    runnable = {file for file in TOOLS.rglob("*.py") if "if __name__ ==" in file.read_text(encoding="utf-8")}
    runnable -= {TOOLS / "__main__.py", TOOLS / "study" / "supervise.py"}  # this list, and what watches a run
    assert len(runnable) == len(commands)


def packages() -> list[str]:
    return [file.parent.name for file in TOOLS.glob("*/__main__.py")]
