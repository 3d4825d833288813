"""What the tests of the tools share."""

from __future__ import annotations

import runpy
import sys
import warnings

import pytest


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Return a function that runs a tool as `python -m` does, and returns what it prints on stdout and on stderr."""

    def _run(tool: str, *arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(tool, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code != 0:
                raise
        return capsys.readouterr()

    return _run
