"""List the commands: what each one does, in a line.

python -m tools
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["list_commands"]

_FOLDER = Path(__file__).parent


def list_commands() -> dict[str, str]:
    """Return the first sentence of each command's documentation, by the name that follows `python -m`."""
    found = {}
    for file in sorted(_commands()):
        name = file.parent.name if file.name == "__main__.py" else file.stem
        prefix = "tools.experiments" if file.parent.name == "experiments" else "tools"
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[f"{prefix}.{name}"] = text.splitlines()[0]
    return dict(sorted(found.items(), key=lambda entry: (entry[0].count("."), entry[0])))


def _commands() -> Iterator[Path]:
    for file in [*_FOLDER.glob("*.py"), *_FOLDER.glob("experiments/*.py"), *_FOLDER.glob("*/__main__.py")]:
        if not file.name.startswith("_") or (file.name == "__main__.py" and file.parent != _FOLDER):
            yield file


if __name__ == "__main__":
    commands = list_commands()
    width = max(map(len, commands))
    print("\n".join(f"python -m {name:{width}}  {text}" for name, text in commands.items()))
    print("\n--help after a command tells its options.")
