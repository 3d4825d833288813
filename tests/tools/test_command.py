"""Laws of what the commands have in common."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tools._command import run_command

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["OPERAND", "--device", "--help"]], ids=" ".join)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_shows_its_help_wherever_help_is_asked_for(tool, arguments, monkeypatch, capsys):
    """`tools.datalist --help` took it for an unknown option and wanted `-- --help`."""
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"NAME\n    tools.{tool}") and "SYNOPSIS" in shown and "FIRE_METADATA" not in shown


def add(first: str, second: int = 0, **unknown: int) -> str:
    """Put two things together.

    Args:
        first: a text.
        second: a number.
        unknown: refused.
    """
    if unknown:
        raise ValueError(f"options must be known, got {sorted(unknown)}")
    return f"{first!r} {second!r}"


def greet(first: str) -> str:
    return first


@pytest.mark.parametrize(
    ("tools", "arguments", "said"),
    [
        (add, ["007", "--second", "7"], "'007' 7"),
        ({"add": add, "greet": greet}, ["add", "1e3", "--second=1e3"], "'1e3' 1000.0"),
    ],
)
def test_text_stays_text_and_the_rest_is_read(tools, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    run_command(tools, "first")
    assert capsys.readouterr().out.strip() == said


def test_help_of_one_of_several_is_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool", "add", "1", "--help"])
    with pytest.raises(SystemExit):
        run_command({"add": add, "greet": greet}, "first")
    assert "a number." in capsys.readouterr().err


def test_a_foreseen_error_is_one_sentence(monkeypatch):
    """An unknown option reaches the function, which refuses it."""
    monkeypatch.setattr(sys, "argv", ["tool", "1", "--third", "3"])
    with pytest.raises(SystemExit) as ended:
        run_command(add, "first")
    assert ended.value.code == "error: options must be known, got ['third']"


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool", "1"])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda first: 1 / len(first[1:]))
