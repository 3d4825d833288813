"""Laws of the command line that all tools share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.cli import InputError
from tools._command import run_command

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for path in (ROOT / "tools").rglob("*.py") if "\n    run_command(" in path.read_text(encoding="utf-8")]
TOOLS = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in FILES)


def test_every_tool_is_found():
    assert {"tools.phantom", "tools.study", "tools.experiments.threshold"} < {*TOOLS}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["OPERAND", "--device", "--help"]], ids=" ".join)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_shows_its_help_wherever_help_is_asked_for(tool, arguments, run_tool):
    """`tools.datalist --help` took it for an unknown option and wanted `-- --help`."""
    shown = run_tool(tool, *arguments).err
    assert shown.startswith(f"NAME\n    {tool} - ") and "SYNOPSIS" in shown and "FIRE_METADATA" not in shown


def add(
    first: str,
    second: int = 0,
    *,
    names: str | Sequence[str] | None = None,
    window: Sequence[float] | None = None,
    is_quick: bool = False,
) -> str:
    """Put things together.

    Args:
        first: a text.
        second: a number.
    """
    if second < 0:
        raise InputError(f"second must be from 0, got {second}")
    return f"{first!r} {second!r} {names!r} {window!r} {is_quick!r}"


def draw(scan: str, *maps: str, output: str) -> str:
    return f"{scan!r} {maps!r} {output!r}"


def override(bundle: str, **options: int) -> str:
    return f"{bundle!r} {options!r}"


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (add, "007 7", "'007' 7 None None False"),
        (add, "--second 7 1e3", "'1e3' 7 None None False"),
        (add, "--first=1e3 --second=1e3", "'1e3' 1000.0 None None False"),
        (add, "a --names 1,2 --window -1,2", "'a' 0 '1,2' (-1, 2) False"),
        (add, "a --is_quick", "'a' 0 None None True"),
        (add, "a --is_quick False", "'a' 0 None None False"),
        (draw, "8 7 1e3 --output 6", "'8' ('7', '1e3') '6'"),
        (override, "8 --a::b 5 --c", "'8' {'a::b': 5, 'c': True}"),
        (override, "a#b --ckpt_dir 2024.10 --weights=$x#1", "'a#b' {'ckpt_dir': '2024.10', 'weights': '$x#1'}"),
        (add, "$x --names @y", "'$x' 0 '@y' None False"),
    ],
)
def test_text_stays_text_and_the_rest_is_read(function, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tool", *arguments.split()])
    run_command(function)
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (add, "1 --secnd 3", "--secnd must be an option of {name}; did you mean --second?"),
        (add, "1 --third=3", "--third must be an option of {name}; --help shows them"),
        (add, "1 -s 3", "--s must be an option of {name}; --help shows them"),
        (draw, "1 2 --output 3 --maps 4", "--maps must be an option of {name}; --help shows them"),
        (add, "1 2 --window 3 4", "operands of {name} must be first, second, got also 4; a list has commas, no blanks"),
        (add, "", "first must be given to {name}, got none; --help shows how"),
        (add, "--second 3", "first must be given to {name}, got none; --help shows how"),
        (draw, "1 2", "output must be given to {name}, got none; --help shows how"),
        (draw, "1 2 --output", "output must be given a value, got none; write --output=VALUE if it begins with a dash"),
        (
            override,
            "8 --weights --a 5",
            "weights must be given a value, got none; write --weights=VALUE if it begins with a dash",
        ),
        (add, "1 --second -1", "second must be from 0, got -1"),
    ],
)
def test_a_wrong_command_line_and_a_foreseen_error_end_in_one_sentence(function, arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        run_command(function)
    assert ended.value.code == f"error: {said.format(name=function.__module__)}"


def test_a_wrong_command_line_calls_nothing(monkeypatch):
    called = []
    monkeypatch.setattr(sys, "argv", ["tool", "--third"])
    with pytest.raises(SystemExit, match="error: --third must be an option"):
        run_command(lambda: called.append(True))
    assert not called


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool", "1"])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda first: 1 / (first - 1))
